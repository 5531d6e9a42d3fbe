"""The class and the patient of each source, and the folder and name of its pictures."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from vaegan_pl.data.folders import plain, split_of
from vaegan_pl.errors import UserError
from vaegan_pl.importing.tables import Table
from vaegan_pl.importing.volumes import LeftOut, Reader
from vaegan_pl.storage.files import LONGEST_NAME, printable

HOW_TO_CLASS = (
    "give table=FILE.csv with the classes, class_pattern=REGEX to find them in paths, or class_name=NAME for one class"
)

_SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)")
_CONTRAST = re.compile(
    r"[-_. ](?:t1|t1n|t1c|t1ce|t1gd|t1w|t2|t2f|t2w|t2star|flair|pd|pdw|dwi|adc|swi|bold|asl|mra|ct)$", re.IGNORECASE
)
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]+')
_LONGEST_STEM = 100


@dataclass(frozen=True)
class Source:
    """A file or series that is imported as a whole.

    Attributes:
        name: its path relative to the imported folder, or the folder of a DICOM series.
        stamp: changes when its files change.
        read: reads it.
        kind: `volume`, `dicom`, `image` or `container`.
        names: what a table may call it besides its path: DICOM UIDs, the PatientID.
        tag: the class by a DICOM element; empty if there is none.
        patient_id: the PatientID; never written.
        person: the PatientName; never written.
        patient: the patient, or empty if unknown.
        label: the class; empty if its pictures name it themselves.
        split: the split folder of its pictures; empty without one.
        stem: the beginning of the names of its pictures; different for each source.
    """

    name: str
    stamp: str
    read: Reader
    kind: str
    names: tuple[str, ...] = ()
    tag: str = ""
    patient_id: str = ""
    person: str = ""
    patient: str = ""
    label: str = ""
    split: str = ""
    stem: str = ""


@dataclass(frozen=True)
class Labelling:
    """How classes and patients are known.

    Attributes:
        table: the table; None without one.
        participants: the table of patients of a BIDS data set; None without one.
        class_pattern: regular expression whose first group is the class in a path.
        patient_pattern: likewise for the patient.
        class_name: one class for all.
        class_names: other names for classes.
    """

    table: Table | None
    participants: Table | None
    class_pattern: str | None
    patient_pattern: str | None
    class_name: str | None
    class_names: Mapping[str, str]

    def __call__(self, sources: Sequence[Source], folder: Path) -> tuple[list[Source], list[LeftOut]]:
        """The sources with their classes, patients, folders and names, and those whose class is not known.

        Raises:
            UserError: if no class is known, a table does not fit, or classes cannot be told apart.
        """
        splits = bool(sources) and all(split_of(_top(source.name)) for source in sources)
        labelled, left_out = [], []
        matched: dict[str, str] = {}
        for source in sources:
            path = source.name.partition("/")[2] if splits else source.name
            found = replace(source, split=_top(source.name) if splits else "", stem=_stem(source))
            label, reason = self._label(found, path, matched)
            if label or source.kind == "container":
                found = replace(found, label=self.folder_of(label) if label else "", patient=self._patient(found, path))
                labelled.append(found)
            else:
                left_out.append(LeftOut(source.name, reason))
        if left_out and not labelled:
            example = f"{printable(left_out[0].name)}: {left_out[0].reason}"
            raise UserError(f"from={folder}: no class is known ({example}); {HOW_TO_CLASS}")
        _check_classes([source.label for source in labelled], folder)
        return labelled, left_out

    def folder_of(self, label: str) -> str:
        """The name of the folder of a class.

        Raises:
            UserError: if there can be no such class folder.
        """
        label = self.class_names.get(label, label)
        name = _UNSAFE.sub("_", label.strip()).strip(". ")
        if not name or name.startswith("__") or len(name.encode()) > LONGEST_NAME or split_of(name) is not None:
            raise UserError(
                f"{printable(label)[:60]}: cannot be the name of a class folder; {_renaming(label, 'NAME')}"
            )
        return name

    def _label(self, source: Source, path: str, matched: dict[str, str]) -> tuple[str, str]:
        """The class of a source, or the reason why it has none.

        Raises:
            UserError: if a file name in the table stands for several files.
        """
        if self.class_name is not None:
            return self.class_name, ""
        if source.tag:
            return source.tag, ""
        for table in filter(None, (self.table, None if self.class_pattern else self.participants)):
            if not table.has_classes:
                continue
            found = table.find(_names(source))
            if found is None:
                return "", f"{table.path.name} does not list it"
            name, row = found
            other = matched.setdefault(name, source.name)
            if other != source.name and name in (PurePosixPath(source.name).name, _bare(source.name)):
                raise UserError(
                    f"table={table.path}: line {row.line}: {printable(name)} names several files, such as "
                    f"{printable(other)} and {printable(source.name)}; give paths instead of file names"
                )
            return row.label, "" if row.label else f"{table.path.name} has no class for it (line {row.line})"
        if self.class_pattern is not None:
            match = re.search(self.class_pattern, source.name)
            return (match[1] or "", "") if match else ("", "class_pattern does not match its path")
        top = _top(path)
        if source.kind == "container":
            return "", ""  # its pictures have classes of their own
        if not top:
            return "", "it is in no class folder"
        if (
            _is_same(top, source.patient_id)
            or _is_same(top, source.person)
            or (_SUBJECT.match(top) and source.kind != "image")
        ):
            return "", "its folder is a patient's, not a class"
        return top, ""

    def _patient(self, source: Source, path: str) -> str:
        """The patient of a source: by the table or pattern, PatientID, BIDS or, for volumes, folder or file name."""
        found = self.table.find(_names(source)) if self.table is not None else None
        if found is not None and found[1].patient:
            told = found[1].patient
        elif self.patient_pattern is not None:
            match = re.search(self.patient_pattern, source.name)
            told = match[1] or "" if match else ""
        else:
            told = ""
        if told:
            return source.patient if told == source.patient_id else told
        subject = _SUBJECT.search(source.name)
        if source.patient or subject:
            return source.patient or (subject[1] if subject else "")
        if source.kind != "volume":
            return ""
        folders = PurePosixPath(path).parts[:-1]
        below = folders[1:] if self.class_name is None and self.table is None else folders
        return below[0] if below else _CONTRAST.sub("", _bare(source.name))


def _is_same(folder: str, patient: str) -> bool:
    """Whether a folder is named after a patient, however the words are joined."""
    one, other = (re.sub(r"[\W_]+", "", text).lower() for text in (folder, patient))
    return bool(one) and one == other


def _names(source: Source) -> list[str]:
    """What a table may call a source: its path, name, patient or folders, each with and without the suffix."""
    path = PurePosixPath(source.name)
    is_folder = source.name.endswith("/")
    subject = _SUBJECT.search(source.name)
    subjects = [subject[1], subject[1].removeprefix("sub-")] if subject else []
    folders = [str(parent) for parent in (*([path] if is_folder else []), *path.parents) if parent.name]
    bare = _bare(source.name)
    files = [] if is_folder else [source.name, str(path.with_name(bare)), path.name, bare]
    return [*files, *source.names, *subjects, *folders, *map(_last, folders)]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _top(path: str) -> str:
    """The first folder of a path; empty if it has none."""
    top, slash, _ = path.partition("/")
    return top if slash else ""


def _bare(path: str) -> str:
    """A file name without its suffix, of which `.nii.gz` is one."""
    name = _last(path)
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else PurePosixPath(name).stem


def _stem(source: Source) -> str:
    """The beginning of the names of a source's pictures, from its name; from nothing that names a patient for DICOM."""
    unique = source.names[0] if source.kind == "dicom" and source.names else source.name
    sha = hashlib.sha256(unique.encode(errors="surrogateescape")).hexdigest()
    shown = source.patient or "image" if source.kind == "dicom" else _UNSAFE.sub("_", _bare(source.name)).strip(". ")
    kept = shown.encode(errors="replace")[:_LONGEST_STEM].decode(errors="ignore")
    return f"{kept}-{sha[:8]}"


def _renaming(label: str, name: str) -> str:
    """How to give a class another name: the option, if Hydra can read the names."""
    if all(re.fullmatch(r"[\w.+-]+( [\w.+-]+)*", each, re.ASCII) for each in (label, name)):
        return f"rename it with '+class_names={{{label}:{name}}}'"
    return "rename it in the table or in the folders"


def _check_classes(labels: Sequence[str], folder: Path) -> None:
    """Check that no two classes have names that are read as one.

    Raises:
        UserError: if there are such.
    """
    known: dict[str, str] = {}
    for label in filter(None, labels):
        other = known.setdefault(plain(label), label)
        if other != label:
            raise UserError(
                f"from={folder}: the classes {printable(other)} and {printable(label)} differ only in case, spaces, "
                f"hyphens or underscores; {_renaming(label, other)}"
            )
