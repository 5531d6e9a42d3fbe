"""What is shown on the console and kept in a run's log."""

import errno
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from vaegan_pl.storage.files import printable

_PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_./@%+:-]*")
_NOT_TEXT = re.compile(r"null|true|false|inf|nan|\.[0-9_]+(e.*)?", re.IGNORECASE)


def as_typed(name: str, value: object) -> str:
    """An option as it must be typed, so that a shell and Hydra take its value as one piece of text.

    Args:
        name: the option, with a + where it is to be added.
        value: the value as it is meant.
    """
    return quoted(as_option(name, value))


def quoted(argument: str) -> str:
    """An argument as it must be typed, so that a shell takes it as one."""
    return subprocess.list2cmdline([argument]) if os.name == "nt" else shlex.quote(argument)


def as_option(name: str, value: object) -> str:
    """The same for Hydra alone, without a shell."""
    text = str(value)
    if not _PLAIN.fullmatch(text) or _NOT_TEXT.fullmatch(text):
        escaped = re.sub(r'(\\+)(?="|$)', r"\1\1", text).replace('"', '\\"')
        text = f'"{escaped}"'
    return f"{name}={text}"


class PlainFormatter(logging.Formatter):
    """Messages alone. Text from files, which may hold control characters, cannot move the cursor or forge lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The message, with control characters as escapes; its own line breaks stay."""
        return "\n".join(map(printable, super().formatMessage(record).split("\n")))


def drop_timestamps() -> None:
    """Show messages alone on the console from now on; Hydra puts the time before them between the jobs of a sweep."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(PlainFormatter("%(message)s"))


class RunLog(logging.FileHandler):
    """The log of a run, which is not written before the run has its directory: a refused command leaves none.

    Args:
        filename: the log.
    """

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", errors="backslashreplace", delay=True)
        self.held: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or keep it until the log may be written."""
        if self.held is not None:
            self.held.append(record)
        else:
            super().emit(record)

    def _open(self) -> TextIO:  # type: ignore[override]
        """Open the log to append to it, unless it is a link."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self.baseFilename, flags, 0o666), "a", encoding=self.encoding, errors=self.errors)

    def begin(self, directory: Path) -> None:
        """Write what was kept, and everything from now on, into a directory."""
        self.close()
        self.baseFilename = str(directory.resolve() / Path(self.baseFilename).name)
        held, self.held = self.held, None
        for record in held or ():
            super().emit(record)


def begin_log(directory: Path) -> None:
    """Let the log of a run be written from now on, into its directory."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog):
            handler.begin(directory)


def keep_log(directory: Path) -> None:
    """The same for what has no directory yet."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog) and handler.held is not None:
            handler.begin(directory)


class EnduringStream:
    """A stream whose reader may go away: a closed pipe, a lost terminal or a full disk behind it stops nothing.

    Args:
        stream: the stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, if anybody still reads."""
        with self._outliving():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if anybody still reads."""
        with self._outliving():
            self.stream.flush()

    @contextmanager
    def _outliving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it was closed
            if not isinstance(error, OSError) or error.errno != errno.ENOSPC:
                self._detach()

    def _detach(self) -> None:
        """Write into nothing from now on; what waits in buffers would fail again when the process ends."""
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)


@contextmanager
def enduring_streams() -> Iterator[None]:
    """Let the console go away without ending the command, and show text that it cannot encode as escapes."""
    before = sys.stdout, sys.stderr
    if None in before:  # they were closed before Python started
        nothing = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (for as long as the process lives)
        sys.stdout, sys.stderr = (stream or nothing for stream in before)
        before = sys.stdout, sys.stderr
    for stream in before:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with suppress(OSError, ValueError):  # it was closed
                reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (cast("TextIO", EnduringStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
