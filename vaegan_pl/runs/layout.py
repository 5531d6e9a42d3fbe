"""Directories of training runs: locking, checks, and the link to the newest run."""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import UNFINISHED, printable, unexpected_entries

log = logging.getLogger(__name__)

TRACES = ("vae_gan_model.pth", "checkpoints", "metrics.csv", "config.yaml")
"""Names that every run writes; a directory with any of them contains a run."""

WRITTEN = re.compile(
    r"vae_gan_model_best\.pth|model_card(_best)?\.md|images|curves\.png|hparams\.yaml|overrides\.yaml|"
    r"data_report\.(html|json)|wandb|tensorboard|(lost|not_finite)_in_batch_\d+\.txt|train\.log"
)
"""Other names that runs write, depending on their loggers and callbacks."""


PICTURES = re.compile(r"progress\.png|(samples|reconstructions)_epoch_\d+\.png")

_OF_WANDB = re.compile(r"(\d{1,9}/seed_\d+/)?wandb/(offline-)?run-[^/]+/")
"""Earlier parts of W&B runs: they contain links to W&B's own logs, and nothing is written into them again."""


def lock(directory: Path, until: float = 0.0) -> int | None:
    """Lock a run's directory until the descriptor is closed or this process ends.

    Args:
        directory: the directory.
        until: when to give up, by the monotonic clock.

    Returns:
        The descriptor; None if directories cannot be locked here.

    Raises:
        UserError: if another process has locked it.
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
    """Lock a run's directory within the context; see `lock`.

    Raises:
        UserError: if another process has locked it.
    """
    held = lock(directory)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def is_held(directory: Path) -> bool:
    """Whether another process has locked a run's directory."""
    try:
        held = lock(directory)
    except UserError:
        return True
    if held is not None:
        os.close(held)
    return False


def check_free(directory: Path, written: re.Pattern[str] = WRITTEN, option: str = "hydra.run.dir") -> None:
    """Check that a new run can use a directory: that it contains no run, and no files with names that a run writes.

    Args:
        directory: the directory; must exist.
        written: the names of other files that a run writes into it.
        option: the option by which the user chose the directory, for the message.

    Raises:
        UserError: if it contains such files.
    """
    for entry in sorted(directory.iterdir()):
        if entry.name in TRACES:
            raise UserError(f"{directory}: already contains a run ({entry.name}); choose another {option}")
        if written.fullmatch(entry.name):
            raise UserError(f"{entry}: is in the way of a file that a run writes; choose another {option}")


def check_entries(directory: Path) -> None:
    """Check that training in a run's directory writes no files outside it.

    Raises:
        UserError: if it contains links to other places, pipes, devices, or settings that W&B would read.
    """
    for entry in unexpected_entries(directory):
        if _OF_WANDB.match(entry.relative_to(directory.resolve()).as_posix()):
            continue
        raise UserError(
            f"{printable(entry)}: is a pipe, a device or a link to somewhere else, which a run's directory must not "
            "contain; nothing was started; remove it, or replace it with a regular file or folder"
        )
    if (directory / "wandb" / "settings").exists():
        raise UserError(f"{directory / 'wandb' / 'settings'}: would change where W&B sends its data; remove it")


def clean(directory: Path) -> None:
    """Remove files from a run's directory that a killed process left half-written."""
    for folder in (directory, directory / "checkpoints", directory / "images"):
        for path in folder.glob(".*"):
            if UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)


def point_latest(directory: Path, output_root: Path) -> None:
    """Make `output_root/latest` a link to a run, unless there is a file or folder of that name."""
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
