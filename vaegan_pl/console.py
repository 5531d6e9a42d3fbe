"""Messages on the console and in a run's log, and options quoted for the command line."""

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
    """An option quoted for the shell and for Hydra, so that its value is read as one string.

    Args:
        name: the option, with a leading + if it is to be added.
        value: the value, without quotes.
    """
    return quoted(as_option(name, value))


def quoted(argument: str) -> str:
    """An argument quoted for the shell, so that it stays a single argument."""
    return subprocess.list2cmdline([argument]) if os.name == "nt" else shlex.quote(argument)


def as_option(name: str, value: object) -> str:
    """An option quoted only for Hydra, not for the shell; see `as_typed`."""
    text = str(value)
    if not _PLAIN.fullmatch(text) or _NOT_TEXT.fullmatch(text):
        escaped = re.sub(r'(\\+)(?="|$)', r"\1\1", text).replace('"', '\\"')
        text = f'"{escaped}"'
    return f"{name}={text}"


class PlainFormatter(logging.Formatter):
    """Formats a record as its message only, with control characters escaped.

    Text from files then cannot move the cursor or forge lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The message with control characters escaped; line breaks stay."""
        return "\n".join(map(printable, super().formatMessage(record).split("\n")))


def drop_timestamps() -> None:
    """From now on, show messages on the console without timestamps, which Hydra adds between the jobs of a sweep."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(PlainFormatter("%(message)s"))


class RunLog(logging.FileHandler):
    """The log file of a run, written once the run has its directory, so that a command that fails earlier leaves none.

    Args:
        filename: the log file.
    """

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", errors="backslashreplace", delay=True)
        self.held: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or hold it until `begin`."""
        if self.held is not None:
            self.held.append(record)
        else:
            super().emit(record)

    def _open(self) -> TextIO:  # type: ignore[override]
        """Open the log file for appending; a symbolic link is an error."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self.baseFilename, flags, 0o666), "a", encoding=self.encoding, errors=self.errors)

    def begin(self, directory: Path) -> None:
        """Write the held messages, and all later ones, into a directory."""
        self.close()
        self.baseFilename = str(directory.resolve() / Path(self.baseFilename).name)
        held, self.held = self.held, None
        for record in held or ():
            super().emit(record)


def begin_log(directory: Path) -> None:
    """Write the log of a run into its directory from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog):
            handler.begin(directory)


def keep_log(directory: Path) -> None:
    """Write the log into a directory, unless it already goes to one."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog) and handler.held is not None:
            handler.begin(directory)


class EnduringStream:
    """A stream that ignores failed writes: a closed pipe, a lost terminal or a full disk does not end the command.

    Args:
        stream: the stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write; ignored if the stream is gone."""
        with self._ignoring_failure():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; ignored if the stream is gone."""
        with self._ignoring_failure():
            self.stream.flush()

    @contextmanager
    def _ignoring_failure(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it was closed
            if not isinstance(error, OSError) or error.errno != errno.ENOSPC:
                self._detach()

    def _detach(self) -> None:
        """Redirect the stream to the null device, so that buffered text does not fail again when the process ends."""
        with suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)


@contextmanager
def enduring_streams() -> Iterator[None]:
    """Keep the command running if the console goes away, and escape characters that it cannot encode."""
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
