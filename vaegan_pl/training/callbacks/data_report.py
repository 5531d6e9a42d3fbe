"""Write the data report."""

from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from vaegan_pl.report import data_report
from vaegan_pl.training.callbacks.common import data_of, outlived


class DataReport(L.Callback):
    """Writes the data report when training starts.

    Args:
        directory: folder to write to.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `data_report.json` and `data_report.html`."""
        with outlived("the data report"):
            data_report.write(data_of(trainer).collection, self.directory)
