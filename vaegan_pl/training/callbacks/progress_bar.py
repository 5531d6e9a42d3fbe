"""The progress bar of training."""

import sys
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from vaegan_pl.progress import on_terminal
from vaegan_pl.training.checkpoints import trained


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with epochs counted from 1 and short names, drawn at most every `SECONDS` and only on a terminal.

    Drawing reads the losses, and each reading makes the processor wait for the GPU. In files and pipes, `Console`
    logs a line after each epoch instead.
    """

    SECONDS = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Disable the bar if standard output is not a terminal."""
        super().setup(trainer, pl_module, stage)
        if not on_terminal(sys.stdout):
            self.disable()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw if the last update was at least `SECONDS` ago, and after the last batch."""
        if monotonic() - self.drawn >= self.SECONDS or batch_idx + 1 == trainer.num_training_batches:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.drawn = monotonic()

    def on_train_start(self, trainer: L.Trainer, *_: object) -> None:
        """Set up the bar if training resumes within an epoch, where Lightning skips `on_train_epoch_start`."""
        super().on_train_start(trainer, *_)
        if trained(trainer):
            self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: object) -> None:
        """Count epochs from 1, as the file names of the pictures do."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the losses to show, without the prefixes of their names."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name.split("/")[-1]: value for name, value in metrics.items() if name != "v_num"}
