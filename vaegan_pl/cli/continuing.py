"""Resuming a run: which checkpoint to start from, and the error if it cannot be restored."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from vaegan_pl.cli import build
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import printable

if TYPE_CHECKING:
    from vaegan_pl.training.callbacks import RunDirectory

log = logging.getLogger(__name__)

Checkpoint = tuple[Path, dict[str, Any]]
"""The file of a checkpoint and its contents."""


def checkpoint_of(directory: Path, config: DictConfig) -> Checkpoint | None:
    """The checkpoint to resume a run from; None if the run was stopped before it wrote one.

    Raises:
        UserError: if the run is finished and its limits are unchanged, or its checkpoint is missing or does not fit.
    """
    import torch

    from vaegan_pl.runs.metrics import METRICS, read_series
    from vaegan_pl.training.checkpoints import check_fits, limits_reached, newest

    if config.trainer.get("overfit_batches"):
        raise UserError(f"resume={directory}: runs with trainer.overfit_batches cannot be resumed; start a new one")
    if (directory / METRICS).exists():
        read_series(directory / METRICS)
    found = newest(directory / "checkpoints")
    if found is None:
        for made in sorted(directory.glob("vae_gan_model*.pth")):
            raise UserError(
                f"resume={directory}: contains no checkpoint to resume from, and training again would overwrite "
                f"{made.name}; start a new run"
            )
        log.warning("%s was stopped before its first checkpoint; it starts again from the beginning", config.resume)
        return None
    path, content = found
    limits = limits_reached(content)
    if limits is not None and all(config.trainer[name] == value for name, value in limits.items()):
        ended = ", ".join(f"trainer.{name}={value}" for name, value in limits.items() if value not in (None, -1))
        raise UserError(
            f"resume={config.resume}: is finished, after {content['global_step']} batches; raise {ended} to go on"
        )
    if build.spans_the_run(config) and limits and limits["max_epochs"] != config.trainer.max_epochs:
        log.warning("optimizer.schedule now spans the longer run: the learning rates rise again before they decay")
    with torch.device("meta"):
        module = build.module(config)
        check_fits(path, content, module, module.model.NETWORKS)
    return found


@contextmanager
def restoring(found: Checkpoint | None, run: "RunDirectory") -> Iterator[None]:
    """If Lightning cannot restore a checkpoint, report that in one message and leave the run's directory unchanged.

    Raises:
        UserError: if it cannot be restored.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if found is None or run.started:
            raise
        raise UserError(f"{found[0]}: cannot be restored ({type(error).__name__}: {printable(error)[:200]})") from error
