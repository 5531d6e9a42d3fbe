"""Train, sample and use the VAE/GAN of Larsen et al. (arXiv 1512.09300) on folders of MRI slices."""

from pathlib import Path
from typing import TYPE_CHECKING

from vaegan_pl.version import __version__

if TYPE_CHECKING:
    from vaegan_pl.model.weights import SavedModel

__all__ = ["__version__", "load"]


def load(path: "str | Path") -> "SavedModel":
    """Open a model file, `vae_gan_model.pth`, without executing code in it; see `vaegan_pl.model.weights.load`."""
    from vaegan_pl.model import weights  # imported late: torch takes seconds to import

    return weights.load(path)
