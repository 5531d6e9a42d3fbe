"""Find the files and series to import among files."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from vaegan_pl.data import images
from vaegan_pl.data.masks import image_of
from vaegan_pl.errors import import_extra
from vaegan_pl.importing import containers, dicom_headers, nifti
from vaegan_pl.importing.archives import is_archive
from vaegan_pl.importing.dicom_series import SeriesReader
from vaegan_pl.importing.flat import ImageReader
from vaegan_pl.importing.labelling import Source
from vaegan_pl.importing.slices import Cutting
from vaegan_pl.importing.volumes import Found, LeftOut, LeftOutError
from vaegan_pl.progress import track

log = logging.getLogger(__name__)

_OTHERS = frozenset({".json", ".csv", ".tsv", ".txt", ".xml", ".md", ".bval", ".bvec", ".xlsx", ".pdf", ".html"})
_BIDS = ("participants.tsv", "dataset_description.json")


@dataclass(frozen=True)
class Choosing:
    """Which files and series are imported, and how.

    Attributes:
        include: patterns of paths such as `*_T1w.nii.gz`, of which one must fit; none takes all.
        series: regular expression for the descriptions of DICOM series; None takes all.
        class_tag: keyword of the DICOM element that holds the class; None if none does.
        volume: the volume to take from files and series that hold several; None leaves them out.
        cutting: how volumes are cut.
    """

    include: Sequence[str]
    series: str | None
    class_tag: str | None
    volume: int | None
    cutting: Cutting


def sources(files: Sequence[Found], how: Choosing) -> tuple[list[Source], list[LeftOut], "Redaction"]:
    """The sources among files, sorted by name, what is left out, and what removes patients' names from messages.

    Raises:
        UserError: if a package that is needed is not installed.
    """
    found: list[Source] = []
    left_out: list[LeftOut] = []
    dicom: list[tuple[Found, dicom_headers.Header]] = []
    is_bids = any(file.name in _BIDS for file in files)
    names = {str(PurePosixPath(file.name).with_suffix("")) for file in files}
    for file in track(files, "looking at files", "file"):
        try:
            _check_wanted(file.name, how.include, is_bids, names)
            kind = _kind(file)
            if kind == "dicom":
                import_extra("pydicom", "dicom", f"{file.path}: reading DICOM")
                dicom.append((file, dicom_headers.read(file.path, how.class_tag)))
            else:
                found += _sources_in(file, kind, how)
        except LeftOutError as error:
            left_out.append(LeftOut(file.name, str(error)))
        except OSError as error:
            left_out.append(LeftOut(file.name, f"cannot be read: {error.strerror or error}"))
    found += _series(dicom, how, left_out)
    return sorted(found, key=lambda source: source.name), left_out, Redaction([header for _, header in dicom])


class Redaction:
    """Removes what names patients from paths and messages.

    Args:
        headers: the headers of all DICOM files.
    """

    def __init__(self, headers: Sequence[dicom_headers.Header]) -> None:
        names = {name for header in headers for name in (header.patient, header.person, *header.person.split("^"))}
        long, short = (
            "|".join(re.escape(name) for name in sorted(some, key=len, reverse=True))
            for some in ([name for name in names if len(name) > 3], [name for name in names if 0 < len(name) <= 3])
        )
        folders = rf"(?<![^\s/\\:'\"])(?:{short})(?=[/\\])|(?<=[/\\])(?:{short})(?=\.)"
        patterns = [*([long] if long else []), *([folders] if short else [])]
        self.pattern = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def __call__(self, text: str) -> str:
        """The text with dots in place of PatientIDs and names.

        Those of at most three letters are replaced only where they are whole names of folders and files.
        """
        return text if self.pattern is None else self.pattern.sub("...", text)


def _check_wanted(name: str, include: Sequence[str], is_bids: bool, names: set[str]) -> None:
    """Check that a file is to be imported, by its name.

    Raises:
        LeftOutError: if it is not.
    """
    if include and not any(fnmatch(name, pattern) or fnmatch(PurePosixPath(name).name, pattern) for pattern in include):
        raise LeftOutError("not in include")
    if is_bids and name.startswith(("derivatives/", "sourcedata/", "code/")):
        raise LeftOutError("in a BIDS folder for other data (derivatives, sourcedata or code)")
    path = name[: -len(".gz")] if name.lower().endswith(".nii.gz") else name
    bare = str(PurePosixPath(path).with_suffix(""))
    is_volume = name.lower().endswith(nifti.SUFFIXES)
    image = image_of(PurePosixPath(bare).name)
    if image is not None and (is_volume or str(PurePosixPath(bare).with_name(image)) in names):
        raise LeftOutError("a mask, by its name")


def _kind(file: Found) -> str:
    """The kind of a file.

    Raises:
        LeftOutError: if it is none that is imported.
        OSError: if it cannot be read.
    """
    name, suffix = file.name.lower(), PurePosixPath(file.name).suffix.lower()
    if name.endswith(nifti.SUFFIXES):
        return "nifti"
    if suffix in images.SUFFIXES - dicom_headers.SUFFIXES:
        return "image"
    if suffix in (".npz", ".mat"):
        return suffix[1:]
    if is_archive(name):
        raise LeftOutError("an archive in an archive; unpack it by hand")
    if suffix not in _OTHERS and dicom_headers.is_dicom(file.path):
        return "dicom"
    raise LeftOutError(f"{suffix or 'without suffix, and'} not an image")


def _sources_in(file: Found, kind: str, how: Choosing) -> Iterator[Source]:
    """The sources in one file.

    Raises:
        LeftOutError: if there is none.
        UserError: if a package that is needed is not installed.
    """
    stamp = _stamp([file])
    if kind == "nifti":
        import_extra("nibabel", "nifti", f"{file.path}: reading NIfTI")
        yield Source(file.name, stamp, nifti.NiftiReader(file.path, how.volume), "volume")
    elif kind == "image":
        yield Source(file.name, stamp, ImageReader(file.path), "image")
    elif kind == "mat":
        import_extra("h5py", "mat", f"{file.path}: reading MATLAB files")
        yield Source(file.name, stamp, containers.FigshareReader(file.path, how.cutting), "container")
    else:
        for split in containers.medmnist_splits(file.path):
            reader = containers.MedMnistReader(file.path, split)
            yield Source(f"{file.name}:{split}", stamp, reader, "container")


def _series(
    dicom: Sequence[tuple[Found, dicom_headers.Header]], how: Choosing, left_out: list[LeftOut]
) -> Iterator[Source]:
    """The series that DICOM files belong to; those whose description does not fit are left out."""
    groups: dict[str, list[tuple[Found, dicom_headers.Header]]] = {}
    for file, header in dicom:
        groups.setdefault(header.series or header.instance or file.name, []).append((file, header))
    single = len({header.patient for _, header in dicom}) == 1 and len({header.study for _, header in dicom}) > 1
    if single:
        log.info("all DICOM series have one PatientID; each study counts as a patient")
    for uid, members in groups.items():
        files = tuple(file for file, _ in members)
        first = members[0][1]
        folder = os.path.commonpath([PurePosixPath(file.name).parent for file in files])
        name = files[0].name if len(files) == 1 else f"{folder}/" if folder else files[0].name
        if how.series is not None and not re.search(how.series, first.description):
            left_out += [LeftOut(file.name, f"not selected by series: {first.description}") for file in files]
            continue
        person = (first.study if single else first.patient or first.study) or uid
        yield Source(
            name,
            _stamp(files),
            SeriesReader(files, how.volume),
            "dicom",
            (uid, *filter(None, (first.study, first.patient))),
            first.tag,
            first.patient,
            first.person,
            dicom_headers.pseudonym(person),
        )


def _stamp(files: Sequence[Found]) -> str:
    """A digest of the names, sizes and times of files."""
    facts = [(file.name, (stat := file.path.stat()).st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()[:16]
