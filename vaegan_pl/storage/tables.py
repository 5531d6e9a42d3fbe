"""Reading CSV and TSV files that people made."""

import csv
from collections.abc import Iterator
from pathlib import Path

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import RefusedError, read_text

_DELIMITERS = ",;\t|"
_MOST_BYTES = 2**26


def read_rows(path: Path, option: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is not empty, without spaces around cells; the delimiter is detected.

    Args:
        path: the file.
        option: the option that names it, for messages.

    Raises:
        UserError: if it cannot be read, or is not CSV.
    """
    try:
        lines = read_text(path, _MOST_BYTES).removeprefix("\ufeff").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{option}={path}: no such file") from error
    except RefusedError as error:
        raise UserError(f"{option}={path}: {error}; give a CSV or TSV file of text") from error
    first = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(_DELIMITERS, key=first.count), strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{option}={path}: line {reader.line_num}: is not CSV ({error}); correct it") from error
