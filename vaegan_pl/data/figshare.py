"""Recognises slices of the public brain-tumour set by their pixels, and the patients they come from.

The tumour images of the Kaggle dataset "Brain Tumor MRI Dataset" are slices that Cheng et al. published on figshare
(doi 10.6084/m9.figshare.1512427, CC BY 4.0), copied, mirrored and re-encoded. Their five cross-validation folds divide
by patient code. Here, persons who were scanned more than once and have several codes are in one fold. Codes are known
for half of the slices only. `figshare.csv` has the signature, the number, the fold and the patient of each slice;
`tests/figshare_table.py` makes it.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from numpy import ndarray

from vaegan_pl.data.copies import by_parity, largest_by_turn, low_frequencies

FOLDS = 5
_FILE = Path(__file__).with_name("figshare.csv")
_KEPT = 16
_BITS = _KEPT**2 - 1
_MOST_DIFFERENT = 16
"""Bits in which the signatures of two images of one slice may differ, of 255.

Re-encoding and resizing (JPEG quality 60, 150 to 512 pixels) change 14 at most. Slices of patients in different folds
differ in 18 at least.
"""

_AT_ONCE = 512

Signatures = UInt8[ndarray, "image 32"]


@dataclass(frozen=True)
class Slice:
    """A published slice.

    Attributes:
        number: its number in the publication, from 1. Several rows of the table can show one slice.
        fold: the authors' fold, from 0; one fold for persons who were scanned more than once.
        patient: the authors' code of the patient, or a name of this project's; empty where it is not known.
    """

    number: int
    fold: int
    patient: str


def signatures(images: UInt8[ndarray, "image 64 64"]) -> Signatures:
    """Signatures of grey images: for each of their 255 lowest frequencies, whether it exceeds the median of them.

    The frequencies are those of a two-dimensional discrete cosine transform. Brightness, contrast, size and compression
    hardly change a signature.
    """
    return np.packbits(_above_median(low_frequencies(images, _KEPT)), axis=1)


def recognise(found: Signatures) -> Int32[ndarray, " image"]:
    """Index of the published slice that each image shows, in any of the four `copies.TURNS`; -1 for other images."""
    known = by_parity(_signs(_table()[0]))
    result = [np.zeros(0, dtype=np.int32)]
    for start in range(0, len(found), _AT_ONCE):
        own = by_parity(_signs(found[start : start + _AT_ONCE]))
        # For signs, the number of different bits is (bits - inner product) / 2.
        products = (mine @ other.T for mine, other in zip(own, known, strict=True))
        agreement = largest_by_turn(*products).numpy()
        nearest = agreement.argmax(1)
        different = (_BITS - agreement[np.arange(len(nearest)), nearest]) / 2
        result.append(np.where(different <= _MOST_DIFFERENT, nearest, -1).astype(np.int32))
    return np.concatenate(result)


def slices() -> list[Slice]:
    """The published slices, in the order of their indices."""
    return _table()[1]


def _above_median(frequencies: Float32[ndarray, "image 16 16"]) -> UInt8[ndarray, "image 255"]:
    values = frequencies.reshape(len(frequencies), -1)[:, 1:]  # without the mean
    return np.asarray(values > np.median(values, axis=1, keepdims=True), dtype=np.uint8)


def _signs(of: Signatures) -> Float32[ndarray, "image 16 16"]:
    """Signatures as signs, 0 for the mean. Those of a turned image differ in the odd frequencies, up to a few bits."""
    signs = np.unpackbits(of, axis=1, count=_BITS).astype(np.float32) * 2 - 1
    return np.pad(signs, ((0, 0), (1, 0))).reshape(-1, _KEPT, _KEPT)


@cache
def _table() -> tuple[Signatures, list[Slice]]:
    with _FILE.open(encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file))
    found = np.array([list(bytes.fromhex(row["signature"])) for row in rows], dtype=np.uint8)
    return found, [Slice(int(row["slice"]), int(row["fold"]), row["patient"]) for row in rows]
