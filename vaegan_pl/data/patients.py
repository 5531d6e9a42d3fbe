"""Which patient an image shows: by a table, by paths, by DICOM files, or by families of file names."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import printable
from vaegan_pl.storage.tables import read_rows

UNKNOWN = ""
"""The patient of an image whose patient is not known."""


@dataclass(frozen=True)
class Patients:
    """The patients of images.

    Attributes:
        of: the patient of each image; `UNKNOWN` where it is not known.
        source: how they are known: `table`, `paths`, `DICOM` or `families` (of file names); empty if they are not.
    """

    of: list[str]
    source: str

    @property
    def known(self) -> bool:
        """Whether the user or the files name them; families of file names are no patients."""
        return self.source in ("table", "paths", "DICOM")

    def __str__(self) -> str:
        """How many there are, and with how many images."""
        sizes = Counter(filter(None, self.of)).values()
        images = f"{min(sizes)} to {max(sizes)} images" if len(set(sizes)) > 1 else f"{max(sizes)} images"
        return f"{len(sizes)} patients, {images} each"


FILE_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "image_id")
PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id", "participant_id", "case", "pid")
"""Names of the two columns of a table, in lower case."""

IMPORTED = "imported.jsonl"
"""The record of an import, in the folder that `import_images` wrote."""

TABLE, REPORT = "patients.csv", "import_report.json"
"""What it writes there when it has finished: the table of patients, if any are known, and the report."""

CONTACT_SHEET = "contact_sheet.png"
OF_AN_IMPORT = (IMPORTED, TABLE, REPORT, CONTACT_SHEET)
"""All that an import writes next to the class folders."""

_NAMED = 3


def imported_table(root: Path) -> Path | None:
    """The table of patients that an import wrote into a folder; None for other folders, or if no patient is known.

    Raises:
        UserError: if the import has not finished.
    """
    if not (root / IMPORTED).is_file():
        return None
    if not (root / REPORT).is_file():
        raise UserError(f"data.root={root}: its import has not finished; run the same import_images command again")
    return root / TABLE if (root / TABLE).is_file() else None


def from_paths(pattern: str, paths: Sequence[str]) -> list[str]:
    """The patient of each image: the first group of a regular expression in its path.

    Raises:
        UserError: if the expression finds no patient in a path.
    """
    found = []
    for path in paths:
        match = re.search(pattern, path)
        if match is None or not match[1]:
            raise UserError(f"data.patient={pattern}: matches no patient in {path}; correct the expression")
        found.append(match[1])
    return found


def from_table(table: Path, paths: Sequence[str], unknown_alone: bool) -> list[str]:
    """The patient of each image by a CSV or TSV file with the columns path (or file name) and patient.

    The delimiter is detected. Without a header, the first two columns are taken. A path is relative to `data.root`; a
    file name, with or without its suffix, must name a single image.

    Args:
        table: the file.
        paths: paths of the images, relative to `data.root`.
        unknown_alone: whether images that the table does not list are `UNKNOWN`; otherwise they are an error.

    Raises:
        UserError: for a table that cannot be read, a line that is wrong, and images without a patient.
    """
    places = _places(paths)
    found: dict[int, tuple[str, int]] = {}
    unmatched: list[tuple[int, str]] = []
    for line, file, patient in _rows(table):
        matches = places.get(file) or places.get(PurePosixPath(file).name, [])
        if not matches:
            unmatched.append((line, file))
            continue
        if len(matches) > 1:
            raise UserError(
                f"data.patients={table}: line {line}: {printable(file)} names {len(matches)} images, such as "
                f"{paths[matches[0]]} and {paths[matches[1]]}; give paths instead of file names"
            )
        (image,) = matches
        before = found.get(image)
        if before is not None and before[0] != patient:
            raise UserError(
                f"data.patients={table}: line {line}: {printable(file)} has another patient in line {before[1]}; "
                "correct one of them"
            )
        found[image] = (patient, line)
    if not found:
        example = f", such as {printable(unmatched[0][1])} in line {unmatched[0][0]}" if unmatched else ""
        raise UserError(
            f"data.patients={table}: no line names an image of data.root{example}; paths must be relative to "
            f"data.root, as {paths[0]} is"
        )
    missing = [path for i, path in enumerate(paths) if i not in found]
    if missing and not unknown_alone:
        raise UserError(
            f"data.patients={table}: does not list {len(missing)} images, such as {', '.join(missing[:_NAMED])}; add "
            "them, or set data.unknown_patients=alone to treat them as of patients of their own"
        )
    return [found[i][0] if i in found else UNKNOWN for i in range(len(paths))]


def _places(paths: Sequence[str]) -> Mapping[str, list[int]]:
    """The images that a path, a file name, or either without its suffix stands for."""
    places: dict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        pure = PurePosixPath(path)
        for name in {path, pure.name, str(pure.with_suffix("")), pure.stem}:
            places[name].append(i)
    return places


def _rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, file and patient of each row.

    Raises:
        UserError: if the table cannot be read, or a line lacks a column.
    """
    rows = read_rows(table, "data.patients")
    first = next(rows, (1, []))
    if len(first[1]) < 2:
        raise UserError(
            f"data.patients={table}: the first line has a single column; separate path and patient by a comma, "
            "semicolon or tab"
        )
    file_column, patient_column, has_header = _columns(table, first[1])
    for line, cells in rows if has_header else chain([first], rows):
        if len(cells) <= max(file_column, patient_column):
            raise UserError(f"data.patients={table}: line {line}: has {len(cells)} columns; complete it")
        file, patient = cells[file_column].replace("\\", "/"), cells[patient_column]
        if not file or not patient:
            raise UserError(f"data.patients={table}: line {line}: has no {'patient' if file else 'path'}; fill it in")
        yield line, file, patient


def _columns(table: Path, first: Sequence[str]) -> tuple[int, int, bool]:
    """The columns of file and patient, and whether the first row is a header."""
    names = [name.lower() for name in first]
    file = next((names.index(name) for name in FILE_COLUMNS if name in names), None)
    patient = next((names.index(name) for name in PATIENT_COLUMNS if name in names), None)
    if file is not None and patient is not None:
        return file, patient, True
    if file is not None or patient is not None:
        lacking, known = ("path", FILE_COLUMNS) if file is None else ("patient", PATIENT_COLUMNS)
        raise UserError(
            f"data.patients={table}: line 1: names no column for the {lacking}; call it {' or '.join(known[:3])}"
        )
    return 0, 1, False


_AUGMENTED = (
    re.compile(r"^(?:aug|augmented)[_-](?P<base>.+?)(?:[_-]\d+){0,2}$", re.IGNORECASE),
    re.compile(
        r"^(?P<base>.+?)[_-](?:aug(?:mented)?|rot(?:ated)?|flip(?:ped)?|mirror(?:ed)?|hflip|vflip|crop(?:ped)?|noise|blur|"
        r"bright(?:ness)?|zoom|shear)[_-]?\d*$",
        re.IGNORECASE,
    ),
)
"""Names of augmented files; `base` is the original's."""

_NUMBERED = re.compile(r"^(?P<base>.+?)(?: ?\(\d+\)| - copy|_copy)$", re.IGNORECASE)
"""Names of copies, but only next to a file of the name `base`: many datasets number all their files like this."""


def families(paths: Sequence[str]) -> list[str]:
    """The family of each image by its name: a file and its ready-made augmentations; `UNKNOWN` if it is alone.

    Files such as `aug_Y100_0_2052.jpg` and `Y100.jpg`, or `x_rot90.png`, `x_flip.png` and `x (1).png`, are a family.
    """
    there = {str(PurePosixPath(path).with_suffix("")) for path in paths}
    found = [_family(PurePosixPath(path).with_suffix(""), there) for path in paths]
    sizes = Counter(found)
    return [family if sizes[family] > 1 else UNKNOWN for family in found]


def _family(path: PurePosixPath, there: set[str]) -> str:
    while True:
        numbered = _NUMBERED.match(path.name)
        if numbered and str(path.with_name(numbered["base"])) in there:
            path = path.with_name(numbered["base"])
            continue
        match = next((m for m in (pattern.match(path.name) for pattern in _AUGMENTED) if m), None)
        if match is None:
            return f"{path.parent.name}/{path.name}"
        path = path.with_name(match["base"])
