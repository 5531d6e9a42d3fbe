"""Loggers that outlive their failures: no figure stops a run because it could not be written."""

import csv
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from io import StringIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from vaegan_pl import sealed
from vaegan_pl.errors import UserError
from vaegan_pl.jobs import METRICS, read_series

log = logging.getLogger(__name__)

BEST = {
    "validation/kid": "min",
    "validation/coverage": "max",
    "validation/variety": "max",
    "validation/psnr": "max",
    "validation/ssim": "max",
}
"""Which value sums up a run, where it is not the last."""


@runtime_checkable
class Continued(Protocol):
    """A logger whose rows after a checkpoint are made again by the run that continues from it."""

    def keep(self, before: int) -> None:
        """Drop what was logged from a step on."""


@runtime_checkable
class Album(Protocol):
    """A logger that takes pictures."""

    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log one."""


class _Rows(ExperimentWriter):
    """The rows of `metrics.csv`: those of an earlier process stay."""

    def _check_log_dir_exists(self) -> None:
        """Nothing is deleted."""

    def keep(self, before: int) -> None:
        """Drop the rows of steps that will be made again, and whatever was not finished."""
        rows = [row for row in self._rows() if row.get("step", "").isdigit() and int(row["step"]) < before]
        self.metrics_keys = sorted({key for row in rows for key, value in row.items() if value})
        if rows:
            sealed.publish(Path(self.metrics_file_path), self._text(self.metrics_keys, rows, header=True))
        else:
            Path(self.metrics_file_path).unlink(missing_ok=True)

    def save(self) -> None:
        """Append the rows that were logged since the last time, or none of them.

        Raises:
            OSError: if they cannot be written; the file then stays as it was, and the rows wait.
        """
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        keys = sorted({*self.metrics_keys, *(key for row in self.metrics for key in row)})
        if keys != self.metrics_keys or not path.exists():
            sealed.publish(path, self._text(keys, [*self._rows(), *self.metrics], header=True))
        else:
            size = path.stat().st_size
            try:
                with path.open("ab") as file:
                    file.write(self._text(keys, self.metrics, header=False))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)
                raise
        self.metrics_keys, self.metrics = keys, []

    def _rows(self) -> list[dict[str, str]]:
        """The rows of the file, but for a last line that was not finished."""
        path = Path(self.metrics_file_path)
        lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True) if path.exists() else []
        return list(csv.DictReader(StringIO("".join(line for line in lines if line.endswith("\n")), newline="")))

    @staticmethod
    def _text(keys: Sequence[str], rows: Sequence[Mapping[str, object]], header: bool) -> bytes:
        text = StringIO(newline="")
        writer = csv.DictWriter(text, keys, extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()


class MetricsFile(CSVLogger):
    """`metrics.csv` and `hparams.yaml`; rows that cannot be written wait until they can.

    Args:
        directory: where they go.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(directory, name="", version="")
        self.told = False

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        """What holds the rows."""
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        assert isinstance(self._experiment, _Rows)
        return self._experiment

    @rank_zero_only
    def keep(self, before: int) -> None:
        """Continue at a step: the rows of that step and those after it will be made again."""
        self._try(lambda: self.experiment.keep(before))

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Write `hparams.yaml`."""
        self._try(lambda: CSVLogger.log_hyperparams(self, *arguments, **options))

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that were logged since the last time."""
        self._try(super().save)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
            self.told = False
        except OSError as error:
            if not self.told:
                log.warning("%s cannot be written (%s); its rows are kept until it can", self.log_dir, error)
            self.told = True


def _attempt(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but a failure is told once and the logger then left alone."""

    @wraps(method)
    def attempt(self: "WandB | TensorBoard", *arguments: Any, **options: Any) -> Any:
        if not self.lost:
            try:
                return method(self, *arguments, **options)
            except Exception as error:  # whatever W&B, its service process, the network or a disk do
                self.lost = True
                what = self.CALLED
                log.warning("%s failed (%s: %s); training goes on without it", what, type(error).__name__, error)
        return None

    return attempt


class WandB(WandbLogger):
    """A W&B run that is continued under its own id, and whose failures do not stop training.

    Its summary holds the best value of each of `BEST`.

    Args:
        **options: see `lightning.pytorch.loggers.WandbLogger`.
    """

    CALLED = "W&B"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lost = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; what does nothing, where W&B cannot be started."""
        if self._experiment is not None:
            return self._experiment
        if self.lost:
            return _DummyExperiment()
        try:
            run = super().experiment
            for name, best in BEST.items():
                run.define_metric(name, step_metric="trainer/global_step", summary=best)
            return run
        except Exception as error:  # no key, no network, no service process, no space
            log.warning("W&B cannot be started (%s: %s)", type(error).__name__, error)
        if self._offline:
            self.lost = True
        else:
            log.warning("W&B is kept offline in %s; wandb sync uploads it later", self.save_dir)
            self._offline = True
        return self.experiment

    log_hyperparams = rank_zero_only(_attempt(WandbLogger.log_hyperparams))
    log_metrics = rank_zero_only(_attempt(WandbLogger.log_metrics))

    @rank_zero_only
    @_attempt
    def finalize(self, status: str) -> None:
        """End, with the best values of the whole run, of which W&B knows the last part alone if it was continued."""
        metrics = Path(self.save_dir or ".") / METRICS
        if self._experiment is not None and metrics.is_file():
            series = read_series(metrics)
            for name, best in BEST.items():
                finite = [value for _, value in series.get(name, []) if math.isfinite(value)]
                if finite:
                    self.experiment.summary[name] = {best: (min if best == "min" else max)(finite)}
        super().finalize(status)

    @rank_zero_only
    @_attempt
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log one picture."""
        self.log_image(f"images/{name}", [picture], step=step)


class TensorBoard(TensorBoardLogger):
    """Scalars, options and pictures for TensorBoard; its failures do not stop training.

    Args:
        directory: where the event files go.

    Raises:
        UserError: if TensorBoard is not installed.
    """

    CALLED = "TensorBoard"

    def __init__(self, directory: str | Path) -> None:
        try:
            super().__init__(directory, name="", version="", default_hp_metric=False)
        except ModuleNotFoundError as error:
            raise UserError("logger=tensorboard: is not installed; pip install 'vaegan_pl[tensorboard]'") from error
        self.lost = False

    log_hyperparams = rank_zero_only(_attempt(TensorBoardLogger.log_hyperparams))
    log_metrics = rank_zero_only(_attempt(TensorBoardLogger.log_metrics))
    save = rank_zero_only(_attempt(TensorBoardLogger.save))
    finalize = rank_zero_only(_attempt(TensorBoardLogger.finalize))

    @rank_zero_only
    @_attempt
    def log_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Log one picture; at the last batch, so that a run that continues after it keeps the picture."""
        self.experiment.add_image(f"images/{name}", np.asarray(picture.convert("L")), step - 1, dataformats="HW")

    @rank_zero_only
    @_attempt
    def keep(self, before: int) -> None:
        """Continue at a step: TensorBoard forgets what earlier files hold of that step and those after it."""
        if len(list(Path(self.log_dir).glob("events.*"))) > 1:
            self.experiment.close()
            self._experiment, self._kwargs["purge_step"] = None, before
