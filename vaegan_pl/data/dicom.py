"""Read single DICOM slices as grey images (needs the optional `dicom` extra)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from vaegan_pl.data.grey import PERCENTILES, GreyImage, count_levels, own_range
from vaegan_pl.errors import UserError, import_extra
from vaegan_pl.progress import track
from vaegan_pl.storage.files import first_line

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = frozenset({".dcm", ".dicom"})
MOST_PIXELS = 2**26
"""8192 x 8192. Larger images are refused, since a file of a few bytes can decode to gigabytes."""

_SAMPLED = 2**12
"""Number of pixels of each slice from which the percentiles of a series are computed."""

_HEADER = ("SeriesInstanceUID", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")


@dataclass(frozen=True)
class Window:
    """A window (PS3.3 C.11.2), in rescaled values.

    Attributes:
        centre: the value that becomes mid-grey.
        width: the width of the range from black to white.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`.
    """

    centre: float
    width: float
    function: str

    def __call__(self, values: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
        """Values mapped to [0, 1]; NaN stays."""
        if self.function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(-4 * (values - self.centre) / self.width)), dtype=values.dtype)
        if self.function == "LINEAR_EXACT":
            shown = (values - self.centre) / self.width + 0.5
        elif self.width == 1:  # C.11.2.1.2.1: a step
            shown = np.where(np.isnan(values), np.nan, values > self.centre - 0.5)
        else:
            shown = (values - (self.centre - 0.5)) / (self.width - 1) + 0.5
        return np.asarray(shown.clip(0, 1), dtype=values.dtype)


def read_slice(path: Path, range_: str, series: Window | None) -> GreyImage:
    """Decode one slice: rescaled (PS3.3 C.11.1) and mapped to grey values, with 0 as black.

    Padding pixels are black. MONOCHROME1, whose lowest value is white, is inverted.

    Args:
        path: the file.
        range_: which values become black to white, one of `grey.RANGES`. `fixed` uses the file's VOI look-up table or
            first window (C.11.2), or the slice's smallest and largest value if it has neither.
        series: the window of the slice's series, for the range `series`; None treats the slice as `fixed` does.

    Raises:
        UserError: if pydicom is not installed.
        ValueError: if the file is not DICOM, has several frames or colour, or is compressed in a way that the installed
            libraries cannot read.
    """
    pydicom = _pydicom(path)
    try:
        slice_ = _checked(path, pydicom)
        stored = slice_.pixel_array
        if stored.ndim != 2 or slice_.PhotometricInterpretation not in {"MONOCHROME1", "MONOCHROME2"}:
            raise ValueError(
                f"{stored.shape} pixels of kind {slice_.PhotometricInterpretation}; save single grey slices"
            )
        outside = padding(stored, slice_)
        values = _rescaled(stored, slice_)
        if range_ == "series" and series is not None:
            shown = series(values)
        elif range_ in ("file", "percentile"):
            shown = _between(values, *own_range(values[~outside], range_))
        else:
            shown = _windowed(values, slice_, ~outside)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the decoder raise anything
        raise ValueError(f"not a DICOM slice that can be shown: {_reason(error)}") from error
    if slice_.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[outside] = 0.0
    return GreyImage(np.asarray((255 * shown).round(), dtype=np.uint8), 0, count_levels(stored), coloured=False)


def series_windows(paths: Sequence[Path]) -> dict[Path, Window]:
    """One window for all DICOM slices of each series (0020,000E): the median of their windows.

    In a series without windows, it spans `grey.PERCENTILES` of the values of all slices. Other files, and slices that
    cannot be read, have no entry.

    Raises:
        UserError: if pydicom is not installed.
    """
    members: dict[str, list[Path]] = {}
    windows: dict[str, list[Window]] = {}
    slices = [path for path in paths if path.suffix.lower() in SUFFIXES]
    for path in track(slices, "reading series", "slice"):
        header = _header(path, _HEADER)
        if header is None:
            continue
        series = str(header.get("SeriesInstanceUID") or path)
        members.setdefault(series, []).append(path)
        own = window_of(header)
        if own is not None and not header.get("VOILUTSequence"):
            windows.setdefault(series, []).append(own)
    found: dict[Path, Window] = {}
    for series, of_series in members.items():
        window = _median(windows[series]) if series in windows else _spanning(of_series)
        if window is not None:
            found |= dict.fromkeys(of_series, window)
    return found


def _median(windows: Sequence[Window]) -> Window:
    return Window(median(w.centre for w in windows), median(w.width for w in windows), windows[0].function)


def _spanning(paths: Iterable[Path]) -> Window | None:
    """A window from the lower to the upper percentile of the values of some slices; None if none can be read."""
    sampled = []
    for path in paths:
        try:
            slice_ = _checked(path, _pydicom(path))
            stored = slice_.pixel_array
            values = _rescaled(stored, slice_)[~padding(stored, slice_)]
        except UserError:
            raise
        except Exception:  # noqa: S112 (reading the slice again reports what is wrong with it)
            continue
        sampled.append(values[:: max(1, values.size // _SAMPLED)])
    if not sum(map(len, sampled)):
        return None
    low, high = map(float, np.percentile(np.concatenate(sampled), PERCENTILES))
    return Window((low + high) / 2, max(high - low, 1e-9), "LINEAR_EXACT")


def _pydicom(path: Path) -> ModuleType:
    return import_extra("pydicom", "dicom", f"{path}: reading DICOM")


def _checked(path: Path, pydicom: ModuleType) -> "Dataset":
    """A file whose pixels may be decoded."""
    from pydicom.filereader import read_file_meta_info

    if read_file_meta_info(path).get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
        raise ValueError("the whole file is deflated, and its real size unknown; save it without deflation")
    slice_: Dataset = pydicom.dcmread(path)
    if int(slice_.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{slice_.NumberOfFrames} frames; python -m vaegan_pl.import_images splits it")
    if int(slice_.Rows) * int(slice_.Columns) > MOST_PIXELS:
        raise ValueError(f"{slice_.Columns} x {slice_.Rows} pixels, more than {MOST_PIXELS}")
    return slice_


def _rescaled(stored: ndarray, slice_: "Dataset") -> Float[ndarray, "height width"]:
    from pydicom.pixels.processing import apply_modality_lut

    return np.asarray(apply_modality_lut(stored, slice_), dtype=np.float64)


def _reason(error: Exception) -> str:
    """What went wrong in one line; pydicom lists every decoder that is not installed on a line of its own."""
    line = first_line(error)
    if "missing dependencies" in line:
        kind = line.split("'")[1] if line.count("'") > 1 else "a compression"
        return f"no installed library decodes {kind}; pip install -e '.[dicom]'"
    return line


def _header(path: Path, elements: Sequence[str]) -> "Dataset | None":
    """Some elements of a DICOM file; None if it is damaged.

    Raises:
        OSError: if the file cannot be opened.
    """
    pydicom = _pydicom(path)
    try:
        header: Dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(elements))
    except OSError:
        raise
    except Exception:  # a damaged file can make the decoder raise anything; its pixels are another matter
        return None
    return header


def patient_id(path: Path) -> str:
    """The PatientID (0010,0020) of a DICOM file; empty for other files and where it is missing.

    Raises:
        OSError: if the file cannot be opened.
    """
    if path.suffix.lower() not in SUFFIXES:
        return ""
    header = _header(path, ["PatientID"])
    return "" if header is None else str(header.get("PatientID") or "")


def padding(stored: ndarray, slice_: "Dataset") -> Bool[ndarray, "height width"]:
    """Whether each pixel has the padding value, or one in its range (C.7.5.1.1.2)."""
    first = slice_.get("PixelPaddingValue")
    if first is None:
        return np.zeros_like(stored, dtype=bool)
    last = slice_.get("PixelPaddingRangeLimit")
    low, high = sorted((int(first), int(first if last is None else last)))
    return np.asarray((stored >= low) & (stored <= high))


def _windowed(
    values: Float[ndarray, "height width"], slice_: "Dataset", inside: Bool[ndarray, "height width"]
) -> Float[ndarray, "height width"]:
    """Values mapped to [0, 1] by the slice's look-up table or window, or by its own range if it has neither."""
    if slice_.get("VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi

        bits = int(slice_.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(values.astype(np.int64), slice_) / (2**bits - 1), dtype=np.float64)
    window = window_of(slice_)
    return window(values) if window is not None else _between(values, *own_range(values[inside], "file"))


def window_of(slice_: "Dataset") -> Window | None:
    """The first window of a slice; None if it has none, or one without a width."""
    centre, width = first_value(slice_.get("WindowCenter")), first_value(slice_.get("WindowWidth"))
    function = str(slice_.get("VOILUTFunction") or "LINEAR")
    least = 1 if function == "LINEAR" else np.finfo(float).tiny
    if centre is None or width is None or not (np.isfinite(centre) and least <= width < np.inf):
        return None
    return Window(centre, width, function)


def _between(values: Float[ndarray, "height width"], low: float, high: float) -> Float[ndarray, "height width"]:
    return ((values - low) / max(high - low, 1e-9)).clip(0, 1)


def first_value(value: Any) -> float | None:
    """The first of several alternatives; None if an element is absent or empty."""
    values: Any = [] if value is None or value == "" else np.atleast_1d(value)
    return float(values[0]) if len(values) else None
