"""Read single DICOM slices as grey images (needs the optional `dicom` extra)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from vaegan_pl.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = frozenset({".dcm", ".dicom"})
MOST_PIXELS = 2**26
"""8192 x 8192. Larger images are refused, since a file of a few bytes can decode to gigabytes."""


def read_slice(path: Path) -> UInt8[ndarray, "height width"]:
    """Decode one slice: rescaled (PS3.3 C.11.1) and windowed (C.11.2), with 0 as black.

    The VOI look-up table or the first window of the file is mapped to [0, 255]; without either, the slice's own
    range of values is used instead. Padding pixels are black. MONOCHROME1, whose lowest value is white, is inverted.

    Raises:
        UserError: if pydicom is not installed.
        ValueError: if the file is not DICOM, has several frames or colour, or is compressed in a way that the installed
            libraries cannot read.
    """
    try:
        import pydicom
        from pydicom.filereader import read_file_meta_info
        from pydicom.pixels.processing import apply_modality_lut
    except ImportError as error:
        raise UserError(f"{path}: reading DICOM needs pydicom; pip install 'pydicom>=3'") from error
    try:
        if read_file_meta_info(path).get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
            raise ValueError("the whole file is deflated, and its real size unknown; save it without deflation")
        slice_ = pydicom.dcmread(path)
        if int(slice_.get("NumberOfFrames") or 1) > 1:
            raise ValueError(f"{slice_.NumberOfFrames} frames; save single grey slices")
        if int(slice_.Rows) * int(slice_.Columns) > MOST_PIXELS:
            raise ValueError(f"{slice_.Columns} x {slice_.Rows} pixels, more than {MOST_PIXELS}")
        stored, kind = slice_.pixel_array, slice_.PhotometricInterpretation
        if stored.ndim != 2 or kind not in {"MONOCHROME1", "MONOCHROME2"}:
            raise ValueError(f"{stored.shape} pixels of kind {kind}; save single grey slices")
        outside = padding(stored, slice_)
        shown = _window(np.asarray(apply_modality_lut(stored, slice_), dtype=np.float64), slice_, ~outside)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the decoder raise anything
        raise ValueError(f"not a DICOM slice that can be shown: {error}") from error
    if kind == "MONOCHROME1":
        shown = 1 - shown
    shown[outside] = 0.0
    return np.asarray((255 * shown).round(), dtype=np.uint8)


def patient_id(path: Path) -> str:
    """The PatientID (0010,0020) of a DICOM file; empty for other files and where it is missing.

    Raises:
        OSError: if the file cannot be opened.
    """
    if path.suffix.lower() not in SUFFIXES:
        return ""
    import pydicom

    try:
        return str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID") or "")
    except OSError:
        raise
    except Exception:  # a damaged file can make the decoder raise anything; its pixels are another matter
        return ""


def padding(stored: ndarray, slice_: "Dataset") -> Bool[ndarray, "height width"]:
    """Whether each pixel has the padding value, or one in its range (C.7.5.1.1.2)."""
    first = slice_.get("PixelPaddingValue")
    if first is None:
        return np.zeros_like(stored, dtype=bool)
    last = slice_.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    return np.asarray((stored >= low) & (stored <= high))


def _window(
    values: Float[ndarray, "height width"], slice_: "Dataset", inside: Bool[ndarray, "height width"]
) -> Float[ndarray, "height width"]:
    """Values mapped to [0, 1] by the slice's look-up table or window, or by its own range if it has neither."""
    if slice_.get("VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi

        bits = int(slice_.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(values.astype(np.int64), slice_) / (2**bits - 1), dtype=np.float64)
    centre, width = first_value(slice_.get("WindowCenter")), first_value(slice_.get("WindowWidth"))
    if centre is not None and width is not None:
        function = slice_.get("VOILUTFunction", "LINEAR")
        if width < (1 if function == "LINEAR" else np.finfo(float).tiny):
            raise ValueError(f"window of width {width:g}")
        if function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
        if function == "LINEAR_EXACT":
            return ((values - centre) / width + 0.5).clip(0, 1)
        if width == 1:  # C.11.2.1.2.1: a step
            return np.asarray(values > centre - 0.5, dtype=np.float64)
        return ((values - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1)
    low, high = (values[inside].min(), values[inside].max()) if inside.any() else (0.0, 1.0)
    return ((values - low) / max(high - low, 1e-9)).clip(0, 1)


def first_value(value: Any) -> float | None:
    """The first of several alternatives; None if an element is absent or empty."""
    values: Any = [] if value is None or value == "" else np.atleast_1d(value)
    return float(values[0]) if len(values) else None
