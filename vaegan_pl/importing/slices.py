"""Cut a volume into grey slices with square pixels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image

from vaegan_pl.data.dicom import MOST_PIXELS
from vaegan_pl.importing.volumes import ACQUIRED, PLANES, LeftOut, LeftOutError, Picture, Volume, canonical

_DARK = 0.1
"""Grey values up to this share of the range do not count as content."""

_FEWEST = 16
"""Voxels on each side of a slice in a plane other than the acquired one."""


@dataclass(frozen=True)
class Cutting:
    """How volumes become slices.

    Attributes:
        plane: `acquired`, one of `PLANES`, or `all` of them.
        first: where the slices begin, as a fraction of the volume, in [0, 1).
        last: where they end, in (`first`, 1].
        every: take every n-th slice.
        lowest: percentile of the volume's values that becomes black.
        highest: percentile that becomes white.
        empty: share of pixels brighter than a tenth of the range below which a slice counts as empty.
        window: whether the range of values that a DICOM file names is used in place of the percentiles.
    """

    plane: str
    first: float
    last: float
    every: int
    lowest: float
    highest: float
    empty: float
    window: bool


def cut(volume: Volume, how: Cutting) -> Iterator[Picture | LeftOut]:
    """The slices of a volume, seen as in radiology.

    The patient's right is on the left of axial and coronal pictures, and the front on the left of sagittal ones. The
    front is at the top of axial pictures, the head at the top of the others. Slices are numbered from feet to head,
    from back to front, or from left to right.

    Raises:
        LeftOutError: if the values have no range, or no slice is left.
    """
    own = volume.acquired_plane
    planes = {ACQUIRED: (own,), "all": PLANES}.get(how.plane, (how.plane,))
    lowest, highest = _range(volume, how)
    values, spacing = canonical(volume)
    reasons = []
    taken = 0
    for plane in planes:
        axis = PLANES.index(plane)
        across, down = (other for other in range(3) if other != axis)
        reason = _obstacle(volume, how.plane, plane, min(values.shape[across], values.shape[down]))
        if reason:
            reasons.append(f"{plane}: {reason}" if how.plane == "all" else reason)
            continue
        seen = np.moveaxis(values, axis, 0).transpose(0, 2, 1)[:, ::-1, ::-1]
        size = square_size((seen.shape[1], seen.shape[2]), spacing[down], spacing[across])
        title = "-".join(filter(None, (volume.name, plane if volume.oriented else "slice")))
        digits = max(3, len(str(len(seen))))
        for number in range(math.floor(how.first * len(seen)), math.ceil(how.last * len(seen)), how.every):
            shade = _shade(seen[number], volume, how, lowest, highest)
            if (shade > _DARK).mean() < how.empty:
                continue
            taken += 1
            yield Picture(to_grey(shade, size), f"{title}-{number:0{digits}d}")
    if not taken:
        raise LeftOutError("; ".join(reasons) or "all its slices are empty")
    for reason in reasons:
        yield LeftOut(volume.name, reason)


def _obstacle(volume: Volume, asked: str, plane: str, side: int) -> str:
    """Why a volume cannot be cut in a plane; empty if it can."""
    if asked == ACQUIRED or (volume.oriented and plane == volume.acquired_plane):
        return ""
    if volume.only_acquired:
        return volume.only_acquired
    return f"only {side} slices, too few for {plane} pictures" if side < _FEWEST else ""


def _range(volume: Volume, how: Cutting) -> tuple[float, float]:
    """The values that become black and white; unused if the volume has a window that is used."""
    values = volume.values.ravel(order="K")  # in the order of memory, which is faster
    known = values[~np.isnan(values)]
    if not known.size:
        raise LeftOutError("holds no value")
    if volume.window is not None and how.window:
        return 0.0, 1.0
    return percentile_range(known, how)


def percentile_range(values: Float32[ndarray, "*shape"], how: Cutting) -> tuple[float, float]:
    """The percentiles that become black and white.

    Raises:
        LeftOutError: if they are equal.
    """
    lowest, highest = (float(value) for value in np.percentile(values, [how.lowest, how.highest]))
    if not highest > lowest:
        raise LeftOutError(f"has no contrast: percentiles {how.lowest:g} and {how.highest:g} are both {lowest:g}")
    return lowest, highest


def _shade(
    values: Float32[ndarray, "height width"], volume: Volume, how: Cutting, lowest: float, highest: float
) -> Float32[ndarray, "height width"]:
    """Values as shades from 0, black, to 1; what has no value is black."""
    if volume.window is not None and how.window:
        shade = volume.window(values)
    else:
        shade = ((values - np.float32(lowest)) / np.float32(highest - lowest)).clip(0, 1)
    return np.asarray(np.nan_to_num(1 - shade if volume.inverted else shade, nan=0.0, copy=False))


def square_size(shape: tuple[int, int], row_spacing: float, column_spacing: float) -> tuple[int, int]:
    """Width and height of a picture with square pixels, as large as the smaller spacing.

    Raises:
        LeftOutError: if it were larger than any picture that is read.
    """
    height, width = shape
    smaller = min(row_spacing, column_spacing)
    size = max(1, round(width * column_spacing / smaller)), max(1, round(height * row_spacing / smaller))
    if size[0] * size[1] > MOST_PIXELS:
        raise LeftOutError(f"{row_spacing:g} x {column_spacing:g} mm pixels make pictures of {size[0]} x {size[1]}")
    return size


def to_grey(shade: Float32[ndarray, "height width"], size: tuple[int, int]) -> UInt8[ndarray, "height width"]:
    """Shades in [0, 1], resized linearly to a width and height, as grey values 0..255."""
    if size != shade.shape[::-1]:
        image = Image.fromarray(np.ascontiguousarray(shade))
        shade = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    return (255 * shade).round().astype(np.uint8)
