"""Grey images, and the ranges of stored values that become black to white."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray

RANGES = ("fixed", "file", "percentile", "series")
"""Where the range comes from: `data.white` or a DICOM window, a file's extremes, its percentiles, or a DICOM series."""

PERCENTILES = (0.5, 99.5)

Grey = UInt8[ndarray, "height width"]


@dataclass(frozen=True)
class GreyImage:
    """A decoded file.

    Attributes:
        grey: grey values 0..255.
        peak: the largest stored value of a file of more than 8 bits; 0 for 8 bits, floats and DICOM.
        levels: number of different stored values: 1, 2, or 3 for more.
        coloured: whether the file shows colours, which are lost.
    """

    grey: Grey
    peak: int
    levels: int
    coloured: bool


def own_range(values: Float[ndarray, "*shape"], range_: str) -> tuple[float, float]:
    """The values of an image that become black and white, if they depend on this image alone.

    Args:
        values: the values; (0, 1) is returned if there are none.
        range_: `percentile` for `PERCENTILES`; anything else for the smallest and largest value, which are also used if
            the percentiles are equal.
    """
    if not values.size:
        return 0.0, 1.0
    low, high = map(float, np.percentile(values, PERCENTILES)) if range_ == "percentile" else (0.0, 0.0)
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def count_levels(values: Shaped[ndarray, "*shape"]) -> int:
    """Number of different values: 1, 2, or 3 for more."""
    low, high = values.min(), values.max()
    if low == high:
        return 1
    return 2 if bool(((values == low) | (values == high)).all()) else 3
