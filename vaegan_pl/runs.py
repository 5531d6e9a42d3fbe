"""Directories of training runs: a fresh one for each, and the link to the newest."""

import logging
import os
import re
from pathlib import Path

from vaegan_pl.errors import UserError

log = logging.getLogger(__name__)

TRACES = ("vae_gan_model.pth", "checkpoints", "metrics.csv", "config.yaml")
"""What a run writes; a directory with any of them holds a run."""


_UNFINISHED = re.compile(r"\..+\.(pth|ckpt|csv|yaml|png)\.\d+")


def lock(directory: Path) -> int | None:
    """Hold a run's directory against other processes until the descriptor is closed, or this process ends.

    Returns:
        The descriptor; None where directories cannot be locked.

    Raises:
        UserError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    held = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise UserError(f"{directory}: another process is training in it; wait for it, or stop it") from error
    except OSError:  # some network file systems
        os.close(held)
        return None
    return held


def is_held(directory: Path) -> bool:
    """Whether another process holds a run's directory."""
    try:
        held = lock(directory)
    except UserError:
        return True
    if held is not None:
        os.close(held)
    return False


def claim(directory: Path, output_root: Path) -> None:
    """Take a directory for a new run and make `output_root/latest` point at it.

    Args:
        directory: the run's directory; must exist.
        output_root: where `latest` stands.

    Raises:
        UserError: if the directory holds a run already.
    """
    for trace in TRACES:
        if (directory / trace).exists():
            raise UserError(f"{directory}: holds a run already ({trace}); choose another hydra.run.dir")
    point_latest(directory, output_root)


def reclaim(directory: Path, output_root: Path) -> None:
    """Take the directory of a run that is continued: what a killed process left half-written goes.

    Args:
        directory: the run's directory.
        output_root: where `latest` stands.
    """
    for folder in (directory, directory / "checkpoints", directory / "images"):
        for unfinished in folder.glob(".*"):
            if _UNFINISHED.fullmatch(unfinished.name):
                unfinished.unlink(missing_ok=True)
    point_latest(directory, output_root)


def point_latest(directory: Path, output_root: Path) -> None:
    """Make `output_root/latest` point at a run."""
    output_root.mkdir(parents=True, exist_ok=True)
    latest, link = output_root / "latest", output_root / f".latest-{os.getpid()}"
    try:
        link.symlink_to(os.path.relpath(directory, output_root), target_is_directory=True)
        link.replace(latest)
    except OSError as error:
        link.unlink(missing_ok=True)
        log.warning("%s could not be pointed at this run: %s", latest, error)
