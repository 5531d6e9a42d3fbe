"""Write, read and check the checkpoints from which a run resumes exactly."""

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
"""Files of version 1 contain an additional checksum."""
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The newest checkpoint of a run, and the previous one, which is used if the newest is damaged."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
REQUEUE = getattr(signal, "SIGUSR2", None)
"""Signal that submitit has Slurm send before the time limit of a sweep's job; submitit's handler requeues the job."""

EVERY = 10


class PlainCheckpointIO(TorchCheckpointIO):
    """Writes and reads Lightning's checkpoints as files of tensors and plain containers.

    Attributes:
        failure: error of the last attempt to write; None if it succeeded. It is not raised at once, because only the
            first device writes, and the others would wait for it.
    """

    failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint atomically; the earlier one is kept as `PREVIOUS`."""
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
    """Read a checkpoint of this project without executing code in it.

    Raises:
        OSError: if it cannot be opened.
        UserError: if it is damaged, of another kind, or of a newer version.
    """
    try:
        content = tensor_files.load(path)
    except RefusedError as error:
        raise UserError(f"{path}: {error}") from error
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: is not a checkpoint of this project, or is an earlier version's; start a new run")
    version = content.get("format_version")
    if type(version) is not int or version not in (1, FORMAT_VERSION):
        raise UserError(
            f"{path}: has format {version}, but this vaegan_pl reads {FORMAT_VERSION}; use the version that wrote it"
        )
    return content


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest intact checkpoint in a folder and its contents; None if there is none.

    Raises:
        OSError: if one cannot be opened.
        UserError: if all checkpoints are damaged or of another kind.
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
            log.warning("%s; resuming from the previous checkpoint, %s", damage, path.name)
        return path, content
    if damage is not None and (folder / LAST).exists() | (folder / PREVIOUS).exists():
        raise UserError(f"{damage}; start a new run")
    return None


def limits_reached(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the limits at which a run ended, from its checkpoint; None if it has not ended.

    Raises:
        UserError: if the checkpoint contains anything else.
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
    """Check that a checkpoint belongs to this model and these optimizers, before anything is built or written.

    Args:
        path: the checkpoint.
        content: its contents.
        module: the module to train; on the meta device it takes no memory.
        optimizers: names of its networks, in the order of their optimizers.

    Raises:
        UserError: if it does not match.
    """
    try:
        if not re.fullmatch(r"2\.\d+\.\d+\S{0,20}", content["pytorch-lightning_version"]):
            raise ValueError("a different version of Lightning")
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
            f"{path}: does not match the run's config.yaml ({printable(str(error))[:200]}); start a new run"
        ) from error


def _kind(value: Tensor) -> tuple[tuple[int, ...], bool]:
    return tuple(value.shape), value.is_floating_point()


def _kinds(state: Mapping[str, Any]) -> dict[str, object]:
    """Return the kinds of an optimizer's state; counts may be numbers or tensors."""
    return {
        key: _kind(value) if isinstance(value, Tensor) and value.dim() else isinstance(value, Tensor | int | float)
        for key, value in state.items()
    }


def _same(what: str, own: object, stored: object) -> None:
    if own != stored:
        raise ValueError(f"different {what}")


def _check_optimizer(name: str, optimizer: Optimizer, state: Mapping[str, Any], scheduled: bool) -> None:
    """Check the state of an optimizer; the learning rate may differ if a schedule sets it."""
    (group,), (stored,) = optimizer.param_groups, state["param_groups"]
    for key, value in group.items():
        if key not in ("params", "lr") and key in stored:
            if isinstance(stored[key], Tensor):
                raise TypeError(f"a tensor for {key} of the optimizer of the {name}")
            both = (list(each) if isinstance(each, tuple) else each for each in (value, stored[key]))
            _same(f"{key} of the optimizer of the {name}", *both)
    rate = stored["lr"]
    if type(rate) not in (int, float) or not (scheduled or 0 <= rate <= group["initial_lr"]):
        raise ValueError(f"a different learning rate for the {name}")
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
                raise ValueError(f"different parameters of the {name}")
            if isinstance(value, Tensor) and not value.isfinite().all():
                raise ValueError(f"numbers of the optimizer of the {name} that are not finite")


class Checkpoint(L.Callback):
    """Writes a checkpoint between two batches, and stops a run on a signal.

    A checkpoint is written after a number of minutes or batches, when training ends, and on SIGTERM, SIGINT or SIGHUP,
    after which the process exits with 143, 130 or 129. A second SIGINT ends it at once. On Slurm, SIGUSR1 also
    requeues the job, and an existing handler of SIGUSR2 is called after the checkpoint. All devices follow the first.

    Args:
        path: the checkpoint.
        minutes: interval between checkpoints.
        batches: interval in batches; None disables it.
        limits: limits at which training ends, by name; stored in the checkpoint of a finished run.

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
        """Return the limits at which training ended; None before the end."""
        return {"finished": self.limits if self.finished else None}

    def _notice(self, number: int, _: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            log.warning(
                "stopping after this batch; press Ctrl-C again to quit now and lose the work since the last checkpoint"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install signal handlers, and drop metrics that an earlier process logged after the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, Continued):
                logger.keep(before=trained(trainer))
        if self.path.with_name(PREVIOUS) == Path(trainer.ckpt_path or "") and trainer.is_global_zero:
            self.path.with_name(PREVIOUS).replace(self.path)  # the newest one is damaged or missing
        self.saved, self.saved_at = monotonic(), trained(trainer)
        if threading.current_thread() is threading.main_thread():  # Lightning has installed its own, and removes all
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
        """Save if a checkpoint is due. The batch has not been used yet, and all earlier batches are complete.

        Raises:
            SystemExit: if a signal was received.
        """
        done = trained(trainer)
        trainer.fit_loop.epoch_loop._batches_that_stepped = done  # after a restart Lightning may be one off
        if trainer.world_size == 1 or done % EVERY == 0:
            due = monotonic() - self.saved >= 60 * self.minutes
            due |= self.batches is not None and done - self.saved_at >= self.batches
            due, told = trainer.strategy.broadcast(
                (due, self.signal)
            )  # a signal from now on is handled at the next call
            if (due or told is not None) and done > self.saved_at:
                self._save(trainer, must=told is not None)
            if told is not None:
                self._leave(trainer, done, told)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the final checkpoint."""
        self.finished = True
        self._save(trainer, must=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the state of the loops from which Lightning resumes between two batches of an epoch."""
        done = trained(trainer)
        checkpoint["loops"]["fit_loop"] |= _progress(done, *divmod(done, int(trainer.num_training_batches)))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the state of Lightning's loops from the number of batches alone; the file's own state is ignored."""
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
            log.warning("no checkpoint could be written (%s); training continues and will try again", files.failure)
        self.saved, self.saved_at = monotonic(), trained(trainer)

    def _leave(self, trainer: L.Trainer, done: int, told: signal.Signals) -> None:
        directory = self.path.parent.parent
        if trainer.is_global_zero:
            images = trainer.datamodule  # type: ignore[attr-defined]
            again = [as_typed("resume", directory)]
            if type(images) is ImageFolders:  # phantoms are found without it
                again.append(as_typed("data.root", images.root))
            command = f"python -m vaegan_pl.train {' '.join(again)}"
            log.warning("stopped by %s after %d batches; continue with %s", told.name, done, command)
            if told == signal.SIGUSR1:
                requeue(os.environ)
            elif told == REQUEUE:
                self.passed_on(told, None)
        # Lightning kills the first process if another exits with an error.
        raise SystemExit(128 + told if trainer.is_global_zero else 0)


def trained(trainer: L.Trainer) -> int:
    """Return the number of batches trained on, over all epochs."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)


def requeue(environment: Mapping[str, str]) -> None:
    """Ask Slurm to requeue this job."""
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)  # noqa: S603, S607
        failure = result.stderr.strip() if result.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    if failure is None:
        log.warning("job %s was requeued", job)
    else:
        log.warning("job %s could not be requeued: %s; submit it again", job, failure)


def _progress(done: int, epoch: int, batch: int) -> dict[str, Any]:
    """Return the progress of training as states of Lightning's loops.

    Args:
        done: batches trained on, over all epochs.
        epoch: completed epochs.
        batch: completed batches of the current epoch.
    """
    begun = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    return {
        "epoch_progress": {"total": begun, "current": dict(begun)},
        "epoch_loop.batch_progress": {"total": _all(done), "current": _all(batch), "is_last_batch": False},
    }


def _all(number: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), number)
