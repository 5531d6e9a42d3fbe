"""Report on a run on the console."""

import logging
import shlex
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only

from vaegan_pl.console import as_typed
from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.hardware import native_bfloat16, peak_memory
from vaegan_pl.progress import duration, on_terminal
from vaegan_pl.report import data_report
from vaegan_pl.runs import next_steps
from vaegan_pl.training.callbacks.common import data_of, epochs_of
from vaegan_pl.training.checkpoints import trained
from vaegan_pl.training.loggers import TensorBoard, WandB

log = logging.getLogger(__name__)


RESULTS = {"psnr": "PSNR {:.1f} dB", "ssim": "SSIM {:.2f}", "kid": "KID {:.3f}", "coverage": "coverage {:.2f}"}
"""Metrics of an epoch that are reported, with their formats."""


LARGE = 64
"""Side of images, in pixels, above which the expected time and memory are reported."""

_WARM_UP, _LEAST_BATCHES, _LEAST_SECONDS = 3, 3, 5.0
"""Batches of an epoch before the measured ones, and the least number and time of these."""


def _cost(seconds: float, trainer: L.Trainer, memory: int) -> str:
    """The time and memory that training takes, in words.

    Args:
        seconds: the time of a batch.
        trainer: the trainer.
        memory: the largest amount of memory so far in bytes; 0 if it is unknown.
    """
    batches = int(trainer.num_training_batches)
    words = f"{duration(seconds * batches)} for an epoch"
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        left = max(0, trainer.max_epochs * batches - trained(trainer))
        words += f", {duration(seconds * left)} until epoch {trainer.max_epochs}"
    words += ", without validation and pictures"
    return words + (f"; memory so far {memory / 2**30:.1f} GiB" if memory else "")


class Console(L.Callback):
    """Reports device, data and directory when training starts, and results and next commands when it ends.

    Args:
        directory: the run's directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.started = 0.0
        self.warm_since = 0.0
        self.has_cost = False
        self.data_options: list[str] | None = None
        """Data options that `evaluate` needs; None if they are not known."""

    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report device and data."""
        self.started = monotonic()
        data = data_of(trainer)
        device, native = pl_module.device, native_bfloat16(pl_module.device)
        several = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
        log.info("device       %s%s, %d CPU threads", several, device, torch.get_num_threads())
        log.info("precision    %s (native bfloat16 here: %s)", trainer.precision, native or "none")
        log.info("data         %s, %s", data.source.caption, data.root.resolve())
        for line in data.collection.summary():
            log.info("%s", line)
        log.info("  see        %s", self.directory / data_report.PAGE)
        if data.source.kind == "phantom":
            log.warning("These are PHANTOMS, drawn by this project, not MRI. For MRI: data=mri data.root=PATH")

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report loggers and directory."""
        for logger in trainer.loggers:
            if isinstance(logger, WandB):
                run = logger.experiment
                if not logger.unavailable and (logger.mode == "offline" or not run.offline):
                    log.info("W&B          %s", f"offline; to upload it: {logger.upload}" if run.offline else run.url)
            elif isinstance(logger, TensorBoard):
                log.info("TensorBoard  tensorboard --logdir %s", shlex.quote(str(self.directory)))
        log.info("directory    %s", self.directory)

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report once, for large images, how long training will take by its first batches, and its memory."""
        if self.has_cost or data_of(trainer).decoding.image_size <= LARGE:
            return
        if batch_idx + 1 <= _WARM_UP:
            self.warm_since = monotonic()
        measured, seconds = batch_idx + 1 - _WARM_UP, monotonic() - self.warm_since
        if measured >= _LEAST_BATCHES and seconds >= _LEAST_SECONDS:
            self.has_cost = True
            log.info("cost         %s", _cost(seconds / measured, trainer, peak_memory(pl_module.device)))

    @rank_zero_only
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the previous epoch's metrics if no progress bar is shown; `on_fit_end` reports the last epoch's."""
        results = self._results(trainer)
        if results and not on_terminal(sys.stdout):
            log.info("epoch %d of %s  %s", trainer.current_epoch, trainer.max_epochs, results)

    @staticmethod
    def _results(trainer: L.Trainer) -> str:
        figures = {name: trainer.callback_metrics.get(f"validation/{name}") for name in RESULTS}
        return ", ".join(RESULTS[name].format(float(value)) for name, value in figures.items() if value is not None)

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report results, files and the next commands."""
        minutes = (monotonic() - self.started) / 60
        epochs = f"{epochs_of(trainer):g} of {trainer.max_epochs} epochs, {trained(trainer)} batches"
        log.info("%s in %.1f minutes on %s", epochs, minutes, data_of(trainer).source.caption)
        left = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
        if any(seconds is not None and seconds <= 0 for seconds in left):
            again = f"python -m vaegan_pl.train {as_typed('resume', self.directory)} trainer.max_time=null"
            log.warning("stopped by the time limit trainer.max_time; to continue: %s", again)
        results = self._results(trainer)
        if results:
            features = " (KID in this project's own features)" if "KID" in results else ""
            log.info("held out     %s%s", results, features)
        log.info("look at      %s", self.directory / "images" / "progress.png")
        if (self.directory / "curves.png").exists():
            log.info("curves       %s", self.directory / "curves.png")
        model = self.directory / "vae_gan_model.pth"
        if not model.exists():
            kept = self.directory / "checkpoints"
            log.info("no model file%s", f"; the weights are in {kept}" if kept.exists() else "")
            return
        log.info("the model    %s", model)
        how = "measure it   " if self.data_options is not None else "measure it, with this run's data options: "
        log.info("%s%s", how, next_steps.evaluate(model, self.data_options or []))
        log.info("sample it    %s", next_steps.sample(model))
        images = data_of(trainer)
        where = f" {as_typed('data.root', images.root)}" if type(images) is ImageFolders else ""
        log.info("open it      python -m vaegan_pl.explore %s%s", as_typed("weights", model), where)
