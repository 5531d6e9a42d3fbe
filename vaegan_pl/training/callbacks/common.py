"""Functions that several callbacks share."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.errors import UserError
from vaegan_pl.inference import class_gaussians
from vaegan_pl.model.saved_model import FITTED, PRIORS, SavedModel
from vaegan_pl.storage.files import RefusedError
from vaegan_pl.training.checkpoints import trained
from vaegan_pl.training.lightning_module import VAEGANModule

log = logging.getLogger(__name__)

ENCODED = 512
"""Training images whose latents decide where samples are drawn during training."""


def data_of(trainer: L.Trainer) -> ImageFolders:
    """Return the data module of a run."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageFolders)
    return data


def epochs_of(trainer: L.Trainer) -> float:
    """Return the epochs trained, with a fraction if a limit on time or batches ended the last one early."""
    return round(trained(trainer) / trainer.num_training_batches, 2)


def model_of(trainer: L.Trainer, pl_module: L.LightningModule, prior: str) -> SavedModel:
    """Return the model of a run in evaluation mode, with a Gaussian of each class's latents to draw samples from.

    Args:
        trainer: the trainer.
        pl_module: the module; its networks stay in evaluation mode.
        prior: `normal` needs no Gaussians, and a model without an encoder has none.
    """
    assert isinstance(pl_module, VAEGANModule)
    networks, data = pl_module.model.inference_networks.eval(), data_of(trainer)
    fitted = prior == FITTED and "encoder" in networks.names
    mixtures = class_gaussians(networks, data.collection, ENCODED, pl_module.device) if fitted else None
    return SavedModel(networks, data.preprocessing, data.source, pl_module.model.description, mixtures)


def check_prior(option: str, prior: str) -> str:
    """Return the prior.

    Raises:
        ValueError: if it is none of `PRIORS`.
    """
    if prior not in PRIORS:
        raise ValueError(f"{option}={prior}: must be one of {', '.join(PRIORS)}")
    return prior


@contextmanager
def outlived(what: str) -> Iterator[None]:
    """Log a warning and continue training if a picture or report cannot be written."""
    try:
        yield
    except (OSError, UserError, RefusedError) as error:
        log.warning("%s could not be written (%s); training continues", what, error)
