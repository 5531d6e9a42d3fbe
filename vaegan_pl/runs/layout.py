"""Directories of training runs: a fresh one for each, and the link to the newest."""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import UNFINISHED, printable, strange_entries

log = logging.getLogger(__name__)

TRACES = ("vae_gan_model.pth", "checkpoints", "metrics.csv", "config.yaml")
"""What every run writes; a directory with any of them holds a run."""

WRITTEN = re.compile(
    r"vae_gan_model_best\.pth|model_card(_best)?\.md|images|curves\.png|hparams\.yaml|overrides\.yaml|data_report\.(html|json)|wandb|"
    r"tensorboard|lost_in_batch_\d+\.txt|train\.log"
)
"""What runs write besides, with one logger or another."""


PICTURES = re.compile(r"progress\.png|(samples|reconstructions)_epoch_\d+\.png")

_OF_WANDB = re.compile(r"(\d{1,9}/seed_\d+/)?wandb/(offline-)?run-[^/]+/")
"""Earlier parts of W&B runs, which hold links to W&B's own logs and are not written again."""


def lock(directory: Path, until: float = 0.0) -> int | None:
    """Hold a run's directory against other processes until the descriptor is closed, or this process ends.

    Args:
        directory: the directory.
        until: how long to try, by the monotonic clock.

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
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if monotonic() < until:
                sleep(0.05)
                continue
            os.close(held)
            raise UserError(f"{directory}: another process is training in it; wait for it, or stop it") from error
        except OSError:  # some network file systems
            os.close(held)
            return None
        return held


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a run's directory against other processes meanwhile; see `lock`.

    Raises:
        UserError: if another process holds it.
    """
    held = lock(directory)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def is_held(directory: Path) -> bool:
    """Whether another process holds a run's directory."""
    try:
        held = lock(directory)
    except UserError:
        return True
    if held is not None:
        os.close(held)
    return False


def check_free(directory: Path, written: re.Pattern[str] = WRITTEN) -> None:
    """Refuse a directory for a new run that holds a run, or other files in places where a run would write.

    Args:
        directory: the run's directory; must exist.
        written: names of other files that a run writes into it.

    Raises:
        UserError: if it holds such files.
    """
    for entry in sorted(directory.iterdir()):
        if entry.name in TRACES:
            raise UserError(f"{directory}: holds a run already ({entry.name}); choose another hydra.run.dir")
        if written.fullmatch(entry.name):
            raise UserError(f"{entry}: is in the way of a file that a run writes; choose another hydra.run.dir")


def check_entries(directory: Path) -> None:
    """Refuse a run's directory through which files outside of it would be written.

    Raises:
        UserError: for links, pipes and devices in it, and for settings that W&B would take from it.
    """
    for entry in strange_entries(directory):
        if _OF_WANDB.match(entry.relative_to(directory.resolve()).as_posix()):
            continue
        raise UserError(
            f"{printable(entry)}: is a pipe, a device or a link to somewhere else, which a run's directory must not "
            "contain; nothing was started; remove it, or replace it with a regular file or folder"
        )
    if (directory / "wandb" / "settings").exists():
        raise UserError(f"{directory / 'wandb' / 'settings'}: would change where W&B sends its data; remove it")


def clean(directory: Path) -> None:
    """Remove what a killed process left half-written in a run's directory."""
    for folder in (directory, directory / "checkpoints", directory / "images"):
        for path in folder.glob(".*"):
            if UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)


def point_latest(directory: Path, output_root: Path) -> None:
    """Make `output_root/latest` point at a run, unless a file or folder of that name is there."""
    latest, link = output_root / "latest", output_root / f".latest-{os.getpid()}"
    try:
        output_root.mkdir(parents=True, exist_ok=True)
        if latest.exists() and not latest.is_symlink():
            raise FileExistsError(errno.EEXIST, "is not the link that this project makes")
        place = os.path.relpath(directory.resolve(), output_root.resolve())
        link.symlink_to(place, target_is_directory=True)
        link.replace(latest)
    except OSError as error:
        with suppress(OSError):
            link.unlink(missing_ok=True)
        log.warning("%s could not be pointed at this run: %s", latest, error)
