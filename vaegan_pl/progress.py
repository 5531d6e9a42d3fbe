"""Progress bars on a terminal, a line now and then elsewhere, and the announcement of long waits."""

import logging
import sys
from collections.abc import Iterable, Iterator, Sized
from time import monotonic
from typing import TextIO, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS, SHARE = 30.0, 0.1
"""Minimum time and minimum share of the work between two log lines, where no terminal shows a bar."""

_MINUTES = 120
"""Durations of at least so many minutes are given in hours."""

LEAST_ANNOUNCED = 5.0
"""Seconds; shorter waits are not announced."""


def on_terminal(stream: TextIO) -> bool:
    """Return whether a stream shows progress bars; files, pipes and closed streams do not."""
    return not stream.closed and stream.isatty()


def track(items: Iterable[Item], description: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, with a progress bar on a terminal.

    In files and pipes, such as the log of a Slurm job, one line is logged after at least `SECONDS` and `SHARE` of the
    work since the start or the previous line. Short tasks therefore log nothing.

    Args:
        items: the items to process.
        description: what is being done, such as "reading images".
        unit: what one item is called, such as "image".
        total: how many items there are; None uses `len(items)`.
    """
    if total is None:
        assert isinstance(items, Sized)
        total = len(items)
    if on_terminal(sys.stderr):
        from tqdm import tqdm

        yield from tqdm(items, description, total, unit=unit, leave=False)
        return
    started = last_time = monotonic()
    last = 0
    for done, item in enumerate(items):
        now = monotonic()
        if now - last_time >= SECONDS and done - last >= SHARE * total:
            left = (now - started) / done * (total - done)
            log.info("%s: %d of %d, %s left", description, done, total, duration(left))
            last_time, last = now, done
        yield item


def announce(work: str, seconds: float) -> None:
    """Log one line before a wait, unless it is expected to be shorter than `LEAST_ANNOUNCED`.

    Args:
        work: what is going to be done, such as "drawing 1,600 phantoms (first time only)".
        seconds: how long it is expected to take, on two CPU cores.
    """
    if seconds >= LEAST_ANNOUNCED:
        log.info("%s; this takes %s", work, duration(seconds))


def duration(seconds: float) -> str:
    """A duration in words: rounded up to tens of seconds or, above 55 seconds, rounded to minutes, then to hours."""
    if seconds <= 55:
        return f"about {max(1, -int(-seconds // 10)) * 10} seconds"
    minutes = max(1, round(seconds / 60))
    if minutes >= _MINUTES:
        return f"about {round(minutes / 60)} hours"
    return f"about {minutes} minute{'s' if minutes > 1 else ''}"
