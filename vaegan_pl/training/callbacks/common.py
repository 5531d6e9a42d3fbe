"""Functions that several callbacks share."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import RefusedError
from vaegan_pl.training.checkpoints import trained

log = logging.getLogger(__name__)


def data_of(trainer: L.Trainer) -> ImageFolders:
    """Return the data module of a run."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageFolders)
    return data


def epochs_of(trainer: L.Trainer) -> float:
    """Return the epochs trained, with a fraction if a limit on time or batches ended the last one early."""
    return round(trained(trainer) / trainer.num_training_batches, 2)


@contextmanager
def outlived(what: str) -> Iterator[None]:
    """Log a warning and continue training if a picture or report cannot be written."""
    try:
        yield
    except (OSError, UserError, RefusedError) as error:
        log.warning("%s could not be written (%s); training continues", what, error)
