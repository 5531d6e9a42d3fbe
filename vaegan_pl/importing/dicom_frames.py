"""Where the frames of a DICOM image lie and how their values are to be read: single slices, multi-frame, mosaics."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from vaegan_pl.data.dicom import MOST_PIXELS, Window, first_value, padding, window_of
from vaegan_pl.importing.volumes import MOST_VOXELS, LeftOutError

_INACCURATE = 0.02
"""How far directions in a header may be from perpendicular and from length 1."""


@dataclass(frozen=True)
class Frame:
    """One slice of an image, without its values.

    Attributes:
        path: the file.
        index: its number in the file; None if the file holds one frame.
        tile: left and top corner of the slice in a mosaic; None without one.
        shape: rows and columns of the slice.
        position: the centre of its first pixel in millimetres, to the patient's left, back and head; None if unknown.
        orientation: directions of increasing columns and of increasing rows, likewise.
        spacing: millimetres between rows and between columns.
        thickness: millimetres from slice to slice by the header; used only if there is no other slice.
        rescale: slope and intercept of a multi-frame image's functional groups; None uses those of the whole image.
        window: the range of values to show.
        inverted: whether the lowest value is white.
        number: its instance number, or its number in the file.
        instance: the SOPInstanceUID of the file.
    """

    path: Path
    index: int | None
    tile: tuple[int, int] | None
    shape: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float]
    thickness: float
    rescale: tuple[float, float] | None
    window: Window | None
    inverted: bool
    number: int
    instance: str

    @property
    def normal(self) -> ndarray:
        """The direction perpendicular to the slice."""
        assert self.orientation is not None
        return np.cross(self.orientation[:3], self.orientation[3:])


def read_frames(path: Path) -> list[Frame]:
    """The frames of a file, from its header.

    Raises:
        LeftOutError: if they are too large.
        Exception: whatever pydicom raises for a damaged file.
    """
    import pydicom

    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    n = int(dataset.get("NumberOfFrames") or 1)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows * columns > MOST_PIXELS or rows * columns * n > MOST_VOXELS:
        raise LeftOutError(f"{n} frames of {columns} x {rows} pixels, more than {MOST_VOXELS:,} values")
    frames = [_frame(dataset, path, i, n) for i in range(n)]
    if n == 1 and "MOSAIC" in (dataset.get("ImageType") or ()):
        return list(_tiles(dataset, frames[0]))
    return frames


def _frame(dataset: Any, path: Path, index: int, n: int) -> Frame:
    """One frame, by its functional groups (PS3.3 C.7.6.16) or, where they are silent, by the whole image."""

    def group(name: str) -> Any:
        for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            sequence = dataset.get(groups) or ()
            i = index if groups.startswith("Per") else 0
            found = sequence[i].get(name) if i < len(sequence) else None
            if found:
                return found[0]
        return dataset

    measures = group("PixelMeasuresSequence")
    transformation = group("PixelValueTransformationSequence")
    rescale = None
    if transformation is not dataset:
        rescale = float(transformation.RescaleSlope), float(transformation.RescaleIntercept)
    position = _numbers(group("PlanePositionSequence").get("ImagePositionPatient"), 3)
    orientation = _numbers(group("PlaneOrientationSequence").get("ImageOrientationPatient"), 6)
    several_at_one_place = n > 1 and "PerFrameFunctionalGroupsSequence" not in dataset
    placed = position is not None and _is_plane(orientation) and not several_at_one_place
    return Frame(
        path,
        index if n > 1 else None,
        None,
        (int(dataset.Rows), int(dataset.Columns)),
        position if placed else None,
        orientation if placed else None,
        _spacing(measures, dataset),
        abs(first_value(measures.get("SpacingBetweenSlices")) or first_value(measures.get("SliceThickness")) or 1.0),
        rescale,
        window_of(group("FrameVOILUTSequence")),
        dataset.PhotometricInterpretation == "MONOCHROME1",
        index if n > 1 else int(first_value(dataset.get("InstanceNumber")) or 0),
        str(dataset.get("SOPInstanceUID") or path),
    )


def _is_plane(orientation: tuple[float, ...] | None) -> bool:
    """Whether an orientation is two perpendicular directions of length 1, as far as headers are accurate."""
    if orientation is None:
        return False
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    products = [across @ across - 1, down @ down - 1, across @ down]
    return bool(np.isfinite(products).all() and np.abs(products).max() < _INACCURATE)


def _spacing(measures: Any, dataset: Any) -> tuple[float, float]:
    """Millimetres between rows and between columns; only their ratio, or squares, if the file does not say more."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        found = _numbers(measures.get(name) or dataset.get(name), 2)
        if found is not None:
            if not all(math.isfinite(value) and value > 0 for value in found):
                raise LeftOutError(f"pixels of {found[0]:g} x {found[1]:g} mm")
            return found[0], found[1]
    return 1.0, 1.0


def _numbers(value: Any, n: int) -> tuple[float, ...] | None:
    """`n` numbers; None if an element is absent, empty or of another length."""
    values = () if value is None or value == "" else tuple(float(v) for v in np.atleast_1d(value))
    return values if len(values) == n else None


def _tiles(dataset: Any, whole: Frame) -> Iterator[Frame]:
    """The slices of a Siemens mosaic, which shows them in rows in one square image.

    The position in the header is that of a slice as large as the whole mosaic, with the same centre.

    Raises:
        LeftOutError: if the header does not say how many there are.
    """
    element = dataset.get((0x0019, 0x100A))
    matrix = [int(value) for value in dataset.get("AcquisitionMatrix") or () if value]
    rows, columns = whole.shape
    if element is not None and int(first_value(element.value) or 0) > 0:
        n = int(first_value(element.value) or 0)
        side = math.ceil(math.sqrt(n))
    elif len(matrix) == 2 and max(rows, columns) % max(matrix) == 0:
        side = max(rows, columns) // max(matrix)
        n = side**2
    else:
        raise LeftOutError("a mosaic that does not say how many slices it holds")
    height, width = rows // side, columns // side
    if not height or not width or side * height != rows or side * width != columns:
        raise LeftOutError(f"a mosaic of {columns} x {rows} pixels that {n} slices do not fill")
    for i in range(n):
        position = None
        if whole.position is not None and whole.orientation is not None:
            across, down = np.array(whole.orientation[:3]), np.array(whole.orientation[3:])
            shift = across * whole.spacing[1] * (columns - width) / 2 + down * whole.spacing[0] * (rows - height) / 2
            position = tuple((np.array(whole.position) + shift + i * whole.thickness * whole.normal).tolist())
        top, left = divmod(i, side)
        yield Frame(
            **{**vars(whole), "tile": (left * width, top * height), "shape": (height, width), "position": position}
        )


def read_values(frames: Sequence[Frame]) -> tuple[Float32[ndarray, "slice row column"], dict[Path, str]]:
    """The values of frames, rescaled (PS3.3 C.11.1), with NaN for padding; each file is opened once.

    Returns:
        The values, and the files that cannot be decoded, with the reason; the values of their frames are undefined.
    """
    values = np.empty((len(frames), *frames[0].shape), dtype=np.float32)
    by_file: dict[Path, list[int]] = {}
    for i, frame in enumerate(frames):
        by_file.setdefault(frame.path, []).append(i)
    failed = {}
    for path, numbers in by_file.items():
        try:
            for i, frame_values in zip(numbers, _of_file(path, [frames[i] for i in numbers]), strict=True):
                values[i] = frame_values
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can make the decoder raise anything
            failed[path] = reason(error)
    return values, failed


def _of_file(path: Path, frames: Sequence[Frame]) -> Iterator[Float32[ndarray, "row column"]]:
    """The values of frames of one file."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # a file without a head: the default of PS3.5 10.1
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    rescaled: ndarray = np.zeros((0, 0), dtype=np.float32)
    index: int | None = -1
    for frame in frames:
        if frame.index != index:
            stored = pixel_array(dataset, index=frame.index)
            if stored.shape != (dataset.Rows, dataset.Columns):
                raise ValueError(f"pixels of shape {stored.shape}")
            if frame.rescale is None:
                rescaled = np.array(apply_modality_lut(stored, dataset), dtype=np.float32)
            else:
                rescaled = (stored * frame.rescale[0] + frame.rescale[1]).astype(np.float32)
            rescaled[padding(stored, dataset)] = np.nan
            index = frame.index
        left, top = frame.tile or (0, 0)
        yield rescaled[top : top + frame.shape[0], left : left + frame.shape[1]]


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words; some decoders list all libraries that could be installed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    detail = lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0].partition(". ")[0]
    return f"cannot be read: {detail}"
