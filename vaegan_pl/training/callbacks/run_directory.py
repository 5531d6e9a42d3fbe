"""Set up a run's directory when training starts."""

import logging
from collections.abc import Callable
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from vaegan_pl.console import begin_log
from vaegan_pl.runs import layout

log = logging.getLogger(__name__)


class RunDirectory(L.Callback):
    """Starts to write to the run's directory when training starts; points `latest` to the run after its first batch.

    A run that fails before training leaves the directory unchanged.

    Args:
        directory: the run's directory.
        output_root: folder that contains `latest`.
        loggers: passed to the trainer when training starts, since any earlier they would create files.
        describe: writes the configuration.
    """

    def __init__(self, directory: Path, output_root: Path, loggers: list[Logger], describe: Callable[[], None]) -> None:
        self.directory = directory
        self.output_root = output_root
        self.loggers = loggers
        self.describe = describe
        self.started = self.is_latest = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove partial files of a killed process, write the configuration, and start the log."""
        self.started = True
        trainer.loggers = self.loggers
        if trainer.is_global_zero:
            layout.clean(self.directory)
            self.describe()
            begin_log(self.directory)

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Point `latest` to the run."""
        if not self.is_latest:
            layout.point_latest(self.directory, self.output_root)
            self.is_latest = True
