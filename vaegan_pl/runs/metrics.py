"""Reading a run's `metrics.csv`, which may come from anyone."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import RefusedError, printable, read_text

METRICS = "metrics.csv"

Series = dict[str, list[tuple[int, float]]]
"""For each metric, pairs of batch number and value."""

BEST = {
    "validation/kid": "min",
    "validation/coverage": "max",
    "validation/variety": "max",
    "validation/psnr": "max",
    "validation/ssim": "max",
}
"""Metrics whose best value, not the last, goes into the summary of a run, and which value is best."""

MOST_METRICS, MOST_COLUMNS, MOST_VALUES = 2**24, 100, 2**19
"""Limits on the bytes, columns and values of a `metrics.csv`; a thousand epochs take a few megabytes."""

_STEP = re.compile(r"[0-9]{1,15}")


def read_rows(metrics: Path) -> Iterator[dict[str, str]]:
    """The rows of a `metrics.csv`; a last row without a line break is left out.

    Raises:
        OSError: if it cannot be opened.
        UserError: if it contains anything that a run does not write.
    """
    try:
        lines = read_text(metrics, MOST_METRICS).splitlines(keepends=True)
        reader = csv.reader((line for line in lines if line.endswith("\n")), strict=True)
        names, left = next(reader, None), MOST_VALUES
        if names is None:
            return
        _check_names(names)
        for row in reader:
            left -= len(row)
            if left < 0:
                raise RefusedError(f"contains more than {MOST_VALUES:,} values")
            for name, value in zip(names, row, strict=True):
                if value and not (_STEP.fullmatch(value) if name == "step" else _is_number(value)):
                    raise RefusedError(f"is damaged (line {reader.line_num}: {printable(value)[:40]} is not a number)")
            yield dict(zip(names, row, strict=True))
    except (RefusedError, csv.Error, ValueError) as error:
        reason = error if isinstance(error, RefusedError) else f"is damaged ({printable(error)})"
        raise UserError(f"{metrics}: {reason}; move it away, or restore it") from error


def _check_names(names: Sequence[str]) -> None:
    can_be_shown = all(name and len(name) < MOST_COLUMNS and printable(name) == name for name in names)
    once = len({*names}) == len(names) <= MOST_COLUMNS
    if not can_be_shown or not once or "step" not in names:
        raise RefusedError("is damaged (its first line does not name the columns)")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def read_series(metrics: Path) -> Series:
    """The columns of a `metrics.csv` as pairs of batch number and value; empty cells are left out.

    Raises:
        OSError: see `read_rows`.
        UserError: see `read_rows`.
    """
    series: Series = defaultdict(list)
    for row in read_rows(metrics):
        for name, value in row.items():
            if value and row["step"]:
                series[name].append((int(row["step"]), float(value)))
    return series
