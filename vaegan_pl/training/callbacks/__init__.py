"""Lightning callbacks that report on a training run and write its files."""

from vaegan_pl.training.callbacks.console import Console
from vaegan_pl.training.callbacks.curves import Curves
from vaegan_pl.training.callbacks.data_report import DataReport
from vaegan_pl.training.callbacks.model_file import ModelFile
from vaegan_pl.training.callbacks.pictures import Pictures
from vaegan_pl.training.callbacks.progress_bar import ProgressBar
from vaegan_pl.training.callbacks.quality import Quality
from vaegan_pl.training.callbacks.run_directory import RunDirectory

__all__ = ["Console", "Curves", "DataReport", "ModelFile", "Pictures", "ProgressBar", "Quality", "RunDirectory"]
