"""Recognise DICOM files, and tell images to train on from other objects (needs the optional `dicom` extra)."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vaegan_pl.errors import UserError, import_extra
from vaegan_pl.importing.volumes import LeftOutError

SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})

_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "Rows",
    "PhotometricInterpretation",
)

_NO_IMAGES = {
    "1.2.840.10008.1.3.10": "a DICOM directory",
    "1.2.840.10008.5.1.4.1.1.4.2": "a spectroscopy",
    "1.2.840.10008.5.1.4.1.1.9.": "a waveform",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.66": "raw or registration data",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report",
    "1.2.840.10008.5.1.4.1.1.104.": "a document",
    "1.2.840.10008.5.1.4.1.1.481.": "a radiotherapy object",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose grid",
}
"""Beginnings of SOP classes (PS3.4 B.5) that are no images to train on; the longest that fits counts."""

_MODALITIES = {"SEG": "a segmentation", "RTDOSE": "a dose grid", "SR": "a structured report"}

_LOCALIZER = re.compile(r"locali[sz]|scout|survey|topogram|3[- _]?plane[- _]?loc", re.IGNORECASE)

DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Header:
    """What grouping and naming need to know about a file.

    Attributes:
        patient: its PatientID; empty if it has none. It is never printed or written.
        person: its PatientName, likewise.
        study: its StudyInstanceUID.
        series: its SeriesInstanceUID.
        instance: its SOPInstanceUID.
        description: its SeriesDescription.
        tag: the value of the element that holds the class; empty if none is asked for or it is missing.
    """

    patient: str
    person: str
    study: str
    series: str
    instance: str
    description: str
    tag: str


def check_keyword(keyword: str) -> None:
    """Check that an element of this name exists.

    Raises:
        UserError: if it does not.
    """
    import_extra("pydicom", "dicom", f"class_tag={keyword}: reading DICOM")
    from pydicom.datadict import tag_for_keyword

    if tag_for_keyword(keyword) is None:
        raise UserError(f"class_tag={keyword}: is not the keyword of a DICOM element, such as StudyDescription")


def is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM, or a name that DICOM files have: a suffix of theirs, of digits, or none.

    Raises:
        OSError: if it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or (head[:2] in (b"\x08\x00", b"\x02\x00") and (not suffix or suffix[1:].isdigit()))


def read(path: Path, class_tag: str | None) -> Header:
    """The header of an image.

    Args:
        path: the file.
        class_tag: keyword of the element that holds the class; None if none does.

    Raises:
        LeftOutError: if the file cannot be read, or is no image to train on.
    """
    import pydicom

    tags: list[Any] = [*_TAGS, *filter(None, [class_tag])]
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
        meta = getattr(dataset, "file_meta", {})
        syntax = meta.get("TransferSyntaxUID")
        words = {tag: _text(dataset.get(tag)) for tag in tags}
        words["SOPClassUID"] = words["SOPClassUID"] or _text(meta.get("MediaStorageSOPClassUID"))
    except Exception as error:  # a damaged file can make the decoder raise anything
        raise LeftOutError(f"cannot be read: {error}") from error
    if not words["SOPClassUID"] and not words["Rows"]:
        raise LeftOutError("not DICOM, or damaged")
    if syntax == DEFLATED:
        raise LeftOutError("the whole file is deflated, and its real size unknown; save it without deflation")
    _check_image(words)
    return Header(
        words["PatientID"],
        words["PatientName"],
        words["StudyInstanceUID"],
        words["SeriesInstanceUID"],
        words["SOPInstanceUID"],
        words["SeriesDescription"],
        words[class_tag] if class_tag else "",
    )


def _check_image(words: dict[str, str]) -> None:
    """Check that a header is that of a grey image to train on.

    Raises:
        LeftOutError: if it is not.
    """
    known = [kind for kind in _NO_IMAGES if words["SOPClassUID"].startswith(kind)]
    if known:
        raise LeftOutError(_NO_IMAGES[max(known, key=len)])
    if words["Modality"] in _MODALITIES:
        raise LeftOutError(_MODALITIES[words["Modality"]])
    if not words["Rows"]:
        raise LeftOutError("holds no image")
    if "LOCALIZER" in words["ImageType"] or _LOCALIZER.search(words["SeriesDescription"]):
        raise LeftOutError("a localizer")
    if not words["PhotometricInterpretation"].startswith("MONOCHROME"):
        raise LeftOutError("a colour image")


def _text(value: Any) -> str:
    """An element as text; several values are joined by a backslash, as in the file."""
    several = isinstance(value, list) or type(value).__name__ == "MultiValue"
    return "\\".join(map(str, value)) if several else "" if value is None else str(value).strip()


@cache
def pseudonym(patient: str) -> str:
    """A name for a patient, from the PatientID; always the same, and slow to compute, so that IDs are not easily tried.

    Takes about 40 ms. It is a pseudonym: whoever knows an ID can compute its name.
    """
    return "p" + hashlib.scrypt(patient.encode(), salt=b"vaegan_pl", n=2**14, r=8, p=1, dklen=6).hex()
