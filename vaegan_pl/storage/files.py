"""Reading files within limits, since they may be untrusted, and writing files atomically."""

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
"""The largest size of a configuration, record or card in bytes; genuine ones take a few thousand."""

MOST_DEPTH = 32
"""The deepest nesting of containers in a file."""

LONGEST_NAME = 200
"""The longest name of a class in bytes; folders and files are named after classes."""

UNFINISHED = re.compile(r"\.vaegan_pl-\d+-[0-9a-f]{8}\.part")
"""Names of temporary files of `atomic_write`; those of a killed process remain."""


class RefusedError(Exception):
    """A file that must not be used; the message says why, and is written after the file's path."""


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes.

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
    """Read a file of UTF-8 text.

    Raises:
        OSError: see `read_bytes`.
        RefusedError: see `read_bytes`; also if it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise RefusedError("is damaged (not UTF-8 text)") from error


def read_json(path: Path, most: int = MOST_TEXT) -> Any:
    """Read a JSON file.

    Raises:
        OSError: see `read_bytes`.
        RefusedError: see `read_text`; also if it is not JSON.
    """
    try:
        return json.loads(read_text(path, most))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"is damaged (not JSON: {first_line(error)})") from error


def first_line(error: Exception | str) -> str:
    """The first line of an error or other message, safe to display."""
    return printable(str(error).partition("\n")[0])[:200]


def printable(text: object) -> str:
    """Text that is safe to display: control characters, invisible characters and undecodable bytes become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def is_next_to(path: Path, folder: Path) -> bool:
    """Whether a file is in a folder, at any depth, and is not reached through a link."""
    return path.is_file() and path.resolve() == folder.resolve() / path.relative_to(folder)


def unexpected_entries(folder: Path) -> Iterator[Path]:
    """Links that lead out of a folder, pipes and devices in it, at any depth; no run's directory contains them."""
    top = folder.resolve()
    for parent, folders, files in os.walk(top):
        for path in (Path(parent, name) for name in (*folders, *files)):
            try:
                inside = path.is_symlink() and path.resolve().is_relative_to(top)
            except (OSError, RuntimeError):  # a cycle of links
                inside = False
            if not inside and not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
                yield path


def atomic_write(path: Path, data: bytes | memoryview | str, durable: bool = True, keep_as: Path | None = None) -> None:
    """Write a file atomically: to a temporary file, flushed to disk and read back, then renamed over the old file.

    Args:
        path: the file; its folder is created if it is missing.
        data: the contents; text is written as UTF-8, with undecodable bytes as escapes.
        durable: False skips flushing and reading back, which take time, for files that can be regenerated.
        keep_as: the new path of the old file; None does not keep it.

    Raises:
        OSError: if this fails, with the path; the old file then stays as it was.
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
    """Check that a model file exists, before anything heavy is imported.

    Raises:
        UserError: if it does not.
    """
    if path.is_dir():
        raise UserError(f"weights={path}: is a folder; give the vae_gan_model.pth in it")
    if not path.exists():
        raise UserError(
            f"weights={path}: no such file; a training run writes vae_gan_model.pth in its directory, "
            "and weights=pretrained is the model that comes with the project"
        )
