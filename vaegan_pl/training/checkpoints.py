"""Checkpoints from which a run continues exactly: when they are written, what is in them, and how they are read."""

import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor
from torch.optim import Optimizer

from vaegan_pl.console import as_typed
from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.errors import UserError
from vaegan_pl.storage import tensor_files
from vaegan_pl.storage.files import RefusedError, printable
from vaegan_pl.training.loggers import Continued

log = logging.getLogger(__name__)

FORMAT = "vaegan_pl checkpoint"
FORMAT_VERSION = 2
"""Files of version 1 carry a checksum of their own."""
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The newest checkpoint of a run, and the one before it, which stands in for a damaged one."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
REQUEUE = getattr(signal, "SIGUSR2", None)
"""What submitit has Slurm send before a job of a sweep is out of time; its handler requeues the job."""

EVERY = 10


class PlainCheckpointIO(TorchCheckpointIO):
    """Writes and reads Lightning's checkpoints as files of tensors and plain containers.

    Attributes:
        failure: why the last one could not be written; None if it was. The first device alone writes, and must not
            leave the others waiting for it.
    """

    failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint in one step; the earlier one is kept as `PREVIOUS`."""
        self.failure = None
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **checkpoint}
        try:
            tensor_files.save(Path(path), content, keep_as=Path(path).with_name(PREVIOUS))
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
        content = tensor_files.load(path)
    except RefusedError as error:
        raise UserError(f"{path}: {error}") from error
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: is no checkpoint of this project, or of an earlier version; start a new run")
    version = content.get("format_version")
    if type(version) is not int or version not in (1, FORMAT_VERSION):
        raise UserError(
            f"{path}: has format {version}, this vaegan_pl reads {FORMAT_VERSION}; take the version that wrote it"
        )
    return content


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint in a folder and its contents; None if there are none.

    Raises:
        OSError: if one cannot be opened.
        UserError: if all of them are damaged, or of another kind.
    """
    damage: UserError | None = None
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            damage = damage or UserError(f"{path}: is missing")
            continue
        try:
            content = read(path)
        except UserError as error:
            damage = error if damage is None else UserError(f"{damage}; {error}")
            continue
        if damage is not None:
            log.warning("%s; resuming from the checkpoint before it, %s", damage, path.name)
        return path, content
    if damage is not None and (folder / LAST).exists() | (folder / PREVIOUS).exists():
        raise UserError(f"{damage}; start a new run")
    return None


def limits_reached(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The limits that a run ended at, from its checkpoint; None if it has not ended.

    Raises:
        UserError: if the checkpoint holds something else.
    """
    try:
        limits = content["callbacks"][Checkpoint.__qualname__]["finished"]
        names = {"max_epochs", "max_steps", "max_time"}
        plain = limits is None or all(value is None or type(value) in (int, str) for value in limits.values())
        if plain and type(content["global_step"]) is int and (limits is None or limits.keys() == names):
            return limits  # type: ignore[no-any-return]
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError("the checkpoint was not written by this project; start a new run")


def check_fits(path: Path, content: Mapping[str, Any], module: L.LightningModule, optimizers: Sequence[str]) -> None:
    """Refuse a checkpoint of another model or other optimizers before anything is built or written.

    Args:
        path: the checkpoint.
        content: what it holds.
        module: what is to be trained; on the meta device, its sizes are known and cost no memory.
        optimizers: the names of its networks, in the order of their optimizers.

    Raises:
        UserError: if it does not fit.
    """
    try:
        if not re.fullmatch(r"2\.\d+\.\d+\S{0,20}", content["pytorch-lightning_version"]):
            raise ValueError("another version of Lightning")
        if type(content["skipped"]) is not int or type(content["global_step"]) is not int or content["global_step"] < 0:
            raise ValueError("invalid step or batch counts")
        own, stored = module.state_dict(), content["state_dict"]
        _same("networks", {key: _kind(value) for key, value in own.items()}, {k: _kind(v) for k, v in stored.items()})
        if not all(value.isfinite().all() for value in stored.values()):
            raise ValueError("numbers that are not finite")
        states, made = content["optimizer_states"], module.configure_optimizers()
        assert isinstance(made, tuple)
        fresh, schedulers = made
        _same("optimizers", len(fresh), len(states))
        for name, optimizer, state in zip(optimizers, fresh, states, strict=True):
            _check_optimizer(name, optimizer, state, bool(schedulers))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise UserError(
            f"{path}: does not fit the run's config.yaml ({printable(str(error))[:200]}); start a new run"
        ) from error


def _kind(value: Tensor) -> tuple[tuple[int, ...], bool]:
    return tuple(value.shape), value.is_floating_point()


def _kinds(state: Mapping[str, Any]) -> dict[str, object]:
    """The same of an optimizer's state; counts may be numbers or tensors."""
    return {
        key: _kind(value) if isinstance(value, Tensor) and value.dim() else isinstance(value, Tensor | int | float)
        for key, value in state.items()
    }


def _same(what: str, own: object, stored: object) -> None:
    if own != stored:
        raise ValueError(f"other {what}")


def _check_optimizer(name: str, optimizer: Optimizer, state: Mapping[str, Any], scheduled: bool) -> None:
    """Refuse the state of another optimizer; the learning rate may differ if a schedule sets it anew."""
    (group,), (stored,) = optimizer.param_groups, state["param_groups"]
    for key, value in group.items():
        if key not in ("params", "lr") and key in stored:
            if isinstance(stored[key], Tensor):
                raise TypeError(f"a tensor as {key} of the optimizer of the {name}")
            both = (list(each) if isinstance(each, tuple) else each for each in (value, stored[key]))
            _same(f"{key} of the optimizer of the {name}", *both)
    rate = stored["lr"]
    if type(rate) not in (int, float) or not (scheduled or 0 <= rate <= group["initial_lr"]):
        raise ValueError(f"another learning rate of the {name}")
    _same(f"parameters of the {name}", [*range(len(group["params"]))], stored["params"])
    if state["state"]:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        own = {i: _kinds(optimizer.state[parameter]) for i, parameter in enumerate(group["params"])}
        _same(f"state of the optimizer of the {name}", own, {i: _kinds(values) for i, values in state["state"].items()})
    for i, values in state["state"].items():
        shape = group["params"][i].shape
        for value in values.values():
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape != shape:
                raise ValueError(f"other parameters of the {name}")
            if isinstance(value, Tensor) and not value.isfinite().all():
                raise ValueError(f"numbers of the optimizer of the {name} that are not finite")


class Checkpoint(L.Callback):
    """Keeps one checkpoint up to date, between two batches, and stops a run that is told to.

    One is written when so many minutes or batches have passed, when training ends, and when SIGTERM, SIGINT or SIGHUP
    comes, after which the process exits with 143, 130 or 129; a second SIGINT ends it at once. On Slurm, SIGUSR1 also
    requeues the job, and what handles SIGUSR2 already is called after the checkpoint. All devices follow the first.

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
            log.warning(
                "stopping after this batch; press Ctrl-C again to quit now and lose work since the last checkpoint"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals, and drop the figures that an earlier process logged after the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, Continued):
                logger.keep(before=trained(trainer))
        if self.path.with_name(PREVIOUS) == Path(trainer.ckpt_path or "") and trainer.is_global_zero:
            self.path.with_name(PREVIOUS).replace(self.path)  # the last one was damaged, or is not there
        self.saved, self.saved_at = monotonic(), trained(trainer)
        if threading.current_thread() is threading.main_thread():  # Lightning has put in its own, and removes all
            for number in SIGNALS:
                requeues = number != getattr(signal, "SIGUSR1", None) or "SLURM_JOB_ID" in os.environ
                if requeues and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
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
        checkpoint["loops"]["fit_loop"] |= _progress(done, *divmod(done, int(trainer.num_training_batches)))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the state of Lightning's loops from the number of batches alone, whatever else the file says."""
        done, data = checkpoint["global_step"], checkpoint[type(trainer.datamodule).__qualname__]  # type: ignore[attr-defined]
        both = {"ready": done, "completed": done}
        fit = trainer.fit_loop.state_dict()
        fit["epoch_loop.state_dict"] = {"_batches_that_stepped": done}
        fit["epoch_loop.manual_optimization.optim_step_progress"] = {"total": both, "current": dict(both)}
        checkpoint["loops"] = {"fit_loop": {**fit, **_progress(done, data["epoch"], data["batch"])}}
        checkpoint["epoch"] = data["epoch"]

    def _save(self, trainer: L.Trainer, must: bool) -> None:
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path)
        files = trainer.strategy.checkpoint_io
        if isinstance(files, PlainCheckpointIO) and files.failure is not None:
            if must:
                raise files.failure
            log.warning("no checkpoint could be written (%s); training goes on, and tries again", files.failure)
        self.saved, self.saved_at = monotonic(), trained(trainer)

    def _leave(self, trainer: L.Trainer, done: int, told: signal.Signals) -> None:
        directory = self.path.parent.parent
        if trainer.is_global_zero:
            images = trainer.datamodule  # type: ignore[attr-defined]
            again = [as_typed("resume", directory)]
            if type(images) is ImageFolders:  # phantoms lie where this project put them
                again.append(as_typed("data.root", images.root))
            command = f"python -m vaegan_pl.train {' '.join(again)}"
            log.warning("stopped by %s after %d batches; continue with %s", told.name, done, command)
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


def _progress(done: int, epoch: int, batch: int) -> dict[str, Any]:
    """Where training is, as the states of Lightning's loops say it.

    Args:
        done: batches trained on, over all epochs.
        epoch: epochs done.
        batch: batches done of the next one.
    """
    begun = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    return {
        "epoch_progress": {"total": begun, "current": dict(begun)},
        "epoch_loop.batch_progress": {"total": _all(done), "current": _all(batch), "is_last_batch": False},
    }


def _all(number: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), number)
