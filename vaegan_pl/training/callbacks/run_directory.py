"""Begins a run's directory when training starts."""

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
    """Starts writing to the run's directory once training begins; points `latest` to the run after its first batch.

    A run that is refused earlier leaves the directory unchanged.

    Args:
        directory: the run's directory.
        output_root: where `latest` stands.
        loggers: given to the trainer now, since it would have them make their files earlier.
        describe: writes down what is trained.
    """

    def __init__(self, directory: Path, output_root: Path, loggers: list[Logger], describe: Callable[[], None]) -> None:
        self.directory = directory
        self.output_root = output_root
        self.loggers = loggers
        self.describe = describe
        self.started = self.is_latest = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove what a killed process left half-written, keep the configuration, and begin the log."""
        self.started = True
        trainer.loggers = self.loggers
        if trainer.is_global_zero:
            layout.clean(self.directory)
            self.describe()
            begin_log(self.directory)

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Make the run the latest."""
        if not self.is_latest:
            layout.point_latest(self.directory, self.output_root)
            self.is_latest = True
