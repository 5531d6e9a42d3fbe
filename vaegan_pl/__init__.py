"""Train, sample and use the VAE/GAN of Larsen et al. (arXiv 1512.09300) on folders of MRI slices."""

from pathlib import Path
from typing import TYPE_CHECKING

from vaegan_pl.pretrained import path_of
from vaegan_pl.version import __version__

if TYPE_CHECKING:
    from vaegan_pl.cli.experiment import Experiment
    from vaegan_pl.model.saved_model import SavedModel

__all__ = ["__version__", "build", "load"]


def build(*options: str, config_dir: "str | Path | None" = None) -> "Experiment":
    """Build a model, its data and a Trainer with the defaults of `python -m vaegan_pl.train`.

    Train with `trainer.fit(module, data)`. Callbacks and loggers are off unless an option chooses them, as
    `callbacks=default` and `logger=csv` do; they write into `directory=PATH`. The option `seed` seeds the global random
    number generators, from which the weights are initialised.

    Args:
        *options: options of the command: `model=larsen_plus`, `data=mri`, `data.root=PATH`, ...
        config_dir: a folder with your own configuration files, like `--config-dir`; see docs/extending.md.

    Returns:
        A frozen dataclass with the fields `module`, `data` and `trainer`.

    Raises:
        UserError: if an option does not exist or has an invalid value.
    """
    from vaegan_pl.cli.experiment import experiment  # torch takes seconds to import

    return experiment(options, config_dir)


def load(path: "str | Path") -> "SavedModel":
    """Open a model file, `vae_gan_model.pth`, without executing code in it; see `vaegan_pl.model.weights.load`.

    Args:
        path: the file; `pretrained` is the model that comes with the project.
    """
    from vaegan_pl.model import weights  # imported late: torch takes seconds to import

    return weights.load(path_of(path))
