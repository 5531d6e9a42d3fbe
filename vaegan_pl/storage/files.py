"""Files: read with limits, since anyone may have made them, and written in one step."""

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaegan_pl.errors import UserError

MOST_TEXT = 2**20
"""The most bytes of a configuration, record or card; true ones have a few thousand."""

MOST_DEPTH = 32

LONGEST_NAME = 200
"""Bytes of the name of a class, after which folders and files are named."""

UNFINISHED = re.compile(r"\.vaegan_pl-\d+-[0-9a-f]{8}\.part")
"""Names of files that `atomic_write` is writing, or was when its process was killed."""


class RefusedError(Exception):
    """A file that must not be used. The message says why and goes after the file's path."""


def read_bytes(path: Path, most: int) -> bytes:
    """The contents of a regular file of at most `most` bytes.

    Raises:
        OSError: if it cannot be opened.
        RefusedError: if it is larger, or a pipe, a device or a folder.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise RefusedError("is not a regular file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise RefusedError(f"is larger than {most:,} bytes, the limit for this kind of file")
    return data


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """The same as text in UTF-8.

    Raises:
        OSError: see `read_bytes`.
        RefusedError: see `read_bytes`; also for bytes that are not UTF-8.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise RefusedError("is damaged (not UTF-8 text)") from error


def read_json(path: Path, most: int = MOST_TEXT) -> Any:
    """The same as JSON.

    Raises:
        OSError: see `read_bytes`.
        RefusedError: see `read_text`; also for anything but JSON.
    """
    try:
        return json.loads(read_text(path, most))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"is damaged (not JSON: {first_line(error)})") from error


def first_line(error: Exception) -> str:
    """What went wrong, in one line that is safe to show."""
    return printable(str(error).partition("\n")[0])[:200]


def printable(text: object) -> str:
    """Text that is safe to show: control characters, invisible characters and undecodable bytes become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def is_next_to(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, at any depth, and no link leads to it."""
    return path.is_file() and path.resolve() == folder.resolve() / path.relative_to(folder)


def strange_entries(folder: Path) -> Iterator[Path]:
    """What a run's directory never holds, at any depth: links that lead out of it, pipes and devices."""
    top = folder.resolve()
    for parent, folders, files in os.walk(top):
        for path in (Path(parent, name) for name in (*folders, *files)):
            try:
                inside = path.is_symlink() and path.resolve().is_relative_to(top)
            except (OSError, RuntimeError):  # links in a circle
                inside = False
            if not inside and not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
                yield path


def atomic_write(path: Path, data: bytes | memoryview | str, durable: bool = True, keep_as: Path | None = None) -> None:
    """Put a file in place in one step: written next to it, flushed to the disk, read back, renamed over the old one.

    Args:
        path: the file; its folder is made if it is missing.
        data: what it holds; text is written as UTF-8, and undecodable bytes in it as escapes.
        durable: False leaves out flushing and reading back, which take time, for files that can be made again.
        keep_as: where the old file goes; None lets it go.

    Raises:
        OSError: if that fails, with the path; an earlier file stays as it was.
    """
    if isinstance(data, str):
        data = data.encode(errors="backslashreplace")
    unfinished = path.with_name(f".vaegan_pl-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            if durable and unfinished.read_bytes() != data:
                raise OSError(errno.EIO, "the data read back differs from the data written")
            if keep_as is not None and path.exists():
                path.replace(keep_as)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        if durable and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_model_path(path: Path) -> None:
    """Check that there is a file where a model is said to be, before anything heavy is imported.

    Raises:
        UserError: if there is none.
    """
    if path.is_dir():
        raise UserError(f"weights={path}: is a folder; give the vae_gan_model.pth in it")
    if not path.exists():
        raise UserError(f"weights={path}: no such file; a training run writes vae_gan_model.pth in its directory")
