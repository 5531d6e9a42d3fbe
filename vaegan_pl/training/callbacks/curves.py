"""Plot the losses."""

from pathlib import Path
from time import monotonic

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from vaegan_pl.report.curves import draw_curves
from vaegan_pl.training.callbacks.common import data_of, outlived
from vaegan_pl.training.checkpoints import trained


class Curves(L.Callback):
    """Redraws the plot of the losses after every epoch, at most every `SECONDS`.

    Args:
        metrics: the run's `metrics.csv`.
        picture: PNG to write.
    """

    SECONDS = 20

    def __init__(self, metrics: str | Path, picture: str | Path) -> None:
        self.metrics = Path(metrics)
        self.picture = Path(picture)
        self.drawn = float("-inf")
        self.batches = 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what has been logged so far, unless it was drawn within `SECONDS`."""
        if monotonic() - self.drawn >= self.SECONDS:
            self._draw(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the final plot, unless the end of the last epoch did."""
        if self.batches < trained(trainer):
            self._draw(trainer)

    @rank_zero_only
    def _draw(self, trainer: L.Trainer) -> None:
        self.drawn, self.batches = monotonic(), trained(trainer)
        for logger in trainer.loggers:
            logger.save()
        if self.metrics.exists():
            with outlived(self.picture.name):
                draw_curves(self.metrics, self.picture, f"Trained on {data_of(trainer).source.caption}")
