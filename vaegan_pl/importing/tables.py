"""Tables of files with their classes and patients: CSV or TSV, such as `participants.tsv` of BIDS."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaegan_pl.data.patients import FILE_COLUMNS, PATIENT_COLUMNS
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import printable
from vaegan_pl.storage.tables import read_rows

CLASS_COLUMNS = (
    "class",
    "label",
    "diagnosis",
    "dx",
    "group",
    "category",
    "target",
    "pathology",
    "disease",
    "condition",
    "finding",
)
"""Names of the column of classes, in lower case."""

_MISSING = frozenset({"", "n/a", "na", "nan"})


@dataclass(frozen=True)
class Row:
    """What a table says about a file, folder or patient.

    Attributes:
        line: the number of the line.
        label: the class; empty if the table has none for it.
        patient: the patient, likewise.
    """

    line: int
    label: str
    patient: str


@dataclass(frozen=True)
class Table:
    """A table, by what its rows name.

    Attributes:
        path: the file.
        by_file: rows by file, folder or DICOM UID; by patient if there is no such column.
        has_files: whether rows name files, and not only patients.
        has_classes: whether there is a column of classes.
        columns: the names of all columns.
    """

    path: Path
    by_file: dict[str, Row]
    has_files: bool
    has_classes: bool
    columns: list[str]

    def find(self, names: Iterable[str]) -> tuple[str, Row] | None:
        """The row of the first of several names that has one, with that name."""
        return next(((name, self.by_file[name]) for name in names if name in self.by_file), None)


def read(path: Path, option: str, columns: Sequence[str | None], need_class: bool) -> Table:
    """Read a table.

    Args:
        path: the file.
        option: the option that names it, for messages.
        columns: the columns of files, classes and patients; each None to find it by its name.
        need_class: whether a table without a column of classes is an error.

    Raises:
        UserError: if it cannot be read, lacks a column, or says two things about one file.
    """
    rows: dict[str, Row] = {}
    header: list[str] = []
    places: list[int | None] = []
    for line, cells in read_rows(path, option):
        if not header:
            header = cells
            places = _places(path, option, header, columns, need_class)
            continue
        file, label, patient = (_cell(cells, place) for place in places)
        name = (file if places[0] is not None else patient).replace("\\", "/").removeprefix("./").rstrip("/")
        if not name:
            raise UserError(f"{option}={path}: line {line}: names no file or patient; fill it in")
        row = Row(line, label, patient)
        before = rows.setdefault(name, row)
        if (before.label, before.patient) != (label, patient):
            raise UserError(
                f"{option}={path}: line {line}: says other things about {printable(name)} than line {before.line}; "
                "correct one of them"
            )
    if not rows:
        raise UserError(f"{option}={path}: has no rows below its header; give a table of files and classes")
    return Table(path, rows, places[0] is not None, places[1] is not None, header)


def _cell(cells: Sequence[str], place: int | None) -> str:
    value = cells[place] if place is not None and place < len(cells) else ""
    return "" if value.lower() in _MISSING else value


def _places(
    path: Path, option: str, header: Sequence[str], columns: Sequence[str | None], need_class: bool
) -> list[int | None]:
    """The columns of files, classes and patients; None for those that there are not."""
    names = [name.lower() for name in header]
    found: list[int | None] = []
    kinds = zip(("file", "class", "patient"), columns, (FILE_COLUMNS, CLASS_COLUMNS, PATIENT_COLUMNS), strict=True)
    there = ", ".join(map(printable, header))
    for kind, asked, known in kinds:
        if asked is not None and asked.lower() not in names:
            raise UserError(f"{kind}_column={asked}: {path} has no such column; it has {there}")
        wanted = known if asked is None else (asked.lower(),)
        found.append(next((names.index(name) for name in wanted if name in names), None))
    if found[0] is None and found[2] is None:
        raise UserError(f"{option}={path}: no column names files or patients; set file_column to one of {there}")
    if found[1] is None and (need_class or found[2] is None):
        raise UserError(f"{option}={path}: no column names classes; set class_column to one of {there}")
    return found
