"""Grey images, and the ranges of stored values that become black to white."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray

RANGES = ("fixed", "file", "percentile", "series")
"""Where the range comes from: `data.white` or a DICOM window, a file's extremes, its percentiles, or a DICOM series."""

PERCENTILES = (0.5, 99.5)

LOSSY_REACH, LOSSY_EDGES = 32, 0.5
"""See `count_levels`. Of 2,500 slices of the public set, all have at least 1.6 times as many pixels in between."""

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


def count_levels(values: Shaped[ndarray, "*shape"], *, lossy: bool = False) -> int:
    """Number of different values: 1, 2, or 3 for more.

    Args:
        values: stored values.
        lossy: whether they went through a compression such as JPEG's, which surrounds the edges of two-valued images
            with other values. Such images count as two-valued if at most `LOSSY_EDGES` times as many pixels lie in
            between as near the rarer of the two values.
    """
    low, high = values.min(), values.max()
    if low == high:
        return 1
    reach = LOSSY_REACH if lossy and high - low >= 4 * LOSSY_REACH else 0
    dark, bright = (int(near.sum()) for near in (values <= low + reach, values >= high - reach))
    return 2 if values.size - dark - bright <= (LOSSY_EDGES * min(dark, bright) if reach else 0) else 3
