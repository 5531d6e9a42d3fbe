"""Checkpoints from which a run continues exactly: when they are written, what is in them, and how they are read."""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.plugins import TorchCheckpointIO

from vaegan_pl import sealed
from vaegan_pl.errors import UserError
from vaegan_pl.loggers import Continued

log = logging.getLogger(__name__)

FORMAT = "vaegan_pl checkpoint"
FORMAT_VERSION = 1
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
REQUEUE = getattr(signal, "SIGUSR2", None)
"""What submitit has Slurm send before a job of a sweep is out of time; its handler requeues the job."""

EVERY = 10


class SealedCheckpointIO(TorchCheckpointIO):
    """Writes and reads Lightning's checkpoints as sealed files of plain containers.

    Attributes:
        failure: why the last one could not be written; None if it was. The first device alone writes, and must not
            leave the others waiting for it.
    """

    failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint in one step, the earlier one standing until the new one was read back."""
        self.failure = None
        try:
            sealed.write(Path(path), {"format": FORMAT, "format_version": FORMAT_VERSION, **checkpoint})
        except OSError as error:
            self.failure = error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See `read`."""
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this project without executing anything in it.

    Raises:
        OSError: if it cannot be opened.
        UserError: if it is damaged, another kind of file, or of a newer version.
    """
    try:
        content = sealed.read(path)
    except sealed.RefusedError as error:
        raise UserError(f"{path}: {error}; the run cannot be continued from it") from error
    if content.get("format") != FORMAT or sealed.SEAL not in content:
        raise UserError(f"{path}: is no checkpoint of this project, or of an earlier version; start a new run")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: has format {version}, this vaegan_pl reads {FORMAT_VERSION}; take the version that wrote it"
        )
    return content


def limits_reached(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The limits that a run ended at, from its checkpoint; None if it has not ended."""
    limits: dict[str, Any] | None = content["callbacks"][Checkpoint.__qualname__]["finished"]
    return limits


class Checkpoint(L.Callback):
    """Keeps one checkpoint up to date, between two batches, and stops a run that is told to.

    One is written when so many minutes or batches have passed, when training ends, and when SIGTERM or SIGINT comes,
    after which the process exits with 143 or 130; a second SIGINT ends it at once. On Slurm, SIGUSR1 requeues the job
    besides, and what handles SIGUSR2 already is called after the checkpoint. All devices follow the first.

    Args:
        path: the checkpoint.
        minutes: the longest between two of them.
        batches: likewise in batches; None for no such limit.
        limits: what training ends at, by name, for the record of a run that is finished.

    Raises:
        ValueError: if an interval is not positive.
    """

    def __init__(
        self, path: str | Path, minutes: float, batches: int | None, limits: Mapping[str, int | str | None]
    ) -> None:
        if minutes <= 0 or (batches is not None and batches < 1):
            raise ValueError("callbacks.checkpoint: minutes and batches must be positive")
        self.path = Path(path)
        self.minutes = minutes
        self.batches = batches
        self.saved = self.saved_at = 0.0
        self.signal: signal.Signals | None = None
        self.passed_on: Any = None
        self.limits = dict(limits)
        self.finished = False

    def state_dict(self) -> dict[str, Any]:
        """The limits that training ended at; None before it did."""
        return {"finished": self.limits if self.finished else None}

    def _notice(self, number: int, _: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            log.warning("stopping after this batch; press Ctrl-C again to lose what came after the last checkpoint")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals, and drop the figures that an earlier process logged after the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, Continued):
                logger.keep(before=trained(trainer))
        self.saved, self.saved_at = monotonic(), trained(trainer)
        if threading.current_thread() is threading.main_thread():  # Lightning has put in its own, and removes all
            for number in SIGNALS:
                if number != signal.SIGUSR1 or "SLURM_JOB_ID" in os.environ:
                    signal.signal(number, self._notice)
            self.passed_on = None if REQUEUE is None else signal.getsignal(REQUEUE)
            if REQUEUE is not None and callable(self.passed_on):
                signal.signal(REQUEUE, self._notice)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, before the batch is looked at; everything of the batches before it is done.

        Raises:
            SystemExit: if a signal came.
        """
        done = trained(trainer)
        trainer.fit_loop.epoch_loop._batches_that_stepped = done  # after a restart Lightning may be one off
        if trainer.world_size == 1 or done % EVERY == 0:
            due = monotonic() - self.saved >= 60 * self.minutes
            due |= self.batches is not None and done - self.saved_at >= self.batches
            due, told = trainer.strategy.broadcast((due, self.signal))  # one that comes meanwhile waits for the next
            if (due or told is not None) and done > self.saved_at:
                self._save(trainer, must=told is not None)
            if told is not None:
                self._leave(trainer, done, told)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save for good."""
        self.finished = True
        self._save(trainer, must=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say where training is, in the only words by which Lightning continues between two batches of an epoch."""
        done = trained(trainer)
        epoch, batch = divmod(done, int(trainer.num_training_batches))
        begun = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
        loops = checkpoint["loops"]["fit_loop"]
        loops["epoch_progress"] = {"total": begun, "current": dict(begun)}
        loops["epoch_loop.batch_progress"] = {"total": _all(done), "current": _all(batch), "is_last_batch": False}

    def _save(self, trainer: L.Trainer, must: bool) -> None:
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)
        files = trainer.strategy.checkpoint_io
        if isinstance(files, SealedCheckpointIO) and files.failure is not None:
            if must:
                raise files.failure
            log.warning("no checkpoint could be written (%s); training goes on, and tries again", files.failure)
        self.saved, self.saved_at = monotonic(), trained(trainer)

    def _leave(self, trainer: L.Trainer, done: int, told: signal.Signals) -> None:
        directory = self.path.parent.parent
        if trainer.is_global_zero:
            log.warning(
                "stopped by %s after %d batches; continue with python -m vaegan_pl.train resume=%s",
                told.name,
                done,
                directory,
            )
            if told == signal.SIGUSR1:
                requeue(os.environ)
            elif told == REQUEUE:
                self.passed_on(told, None)
        # Lightning kills the first process once another has ended with an error.
        raise SystemExit(128 + told if trainer.is_global_zero else 0)


def trained(trainer: L.Trainer) -> int:
    """How many batches were trained on, over all epochs."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)


def requeue(environment: Mapping[str, str]) -> None:
    """Ask Slurm to start this job again."""
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)  # noqa: S603, S607
        failure = result.stderr.strip() if result.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure is None:
        log.warning("job %s is requeued", job)
    else:
        log.warning("job %s could not be requeued: %s; submit it again", job, failure)


def _all(number: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), number)
