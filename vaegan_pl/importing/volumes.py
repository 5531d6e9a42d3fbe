"""What readers return: volumes with their orientation, pictures, and what they left out."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from vaegan_pl.data.dicom import Window

MOST_VOXELS = 2**28
"""1,000 slices of 512 x 512. Larger volumes are left out: this many values take 1 GiB."""

PLANES = ("sagittal", "coronal", "axial")
"""The planes perpendicular to the three axes of a volume in RAS+ orientation."""

ACQUIRED = "acquired"


class LeftOutError(Exception):
    """A file or series that is not imported; the message is the reason, without the name."""


@dataclass(frozen=True)
class LeftOut:
    """What is not imported.

    Attributes:
        name: the file, or the folder of the series, relative to the folder that is imported.
        reason: the reason.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """One finished slice.

    Attributes:
        grey: its grey values.
        name: its name within its source, such as `axial-012`; empty if it is the only one.
        label: its class; None for that of its source.
        patient: its patient; None for that of its source.
        split: the split folder that it belongs to; None for that of its source.
    """

    grey: UInt8[ndarray, "height width"]
    name: str
    label: str | None = None
    patient: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Volume:
    """A stack of slices in space.

    Attributes:
        values: the values; NaN where there is none (padding).
        axes: the step along each axis of `values` in millimetres, in columns: to the patient's right, front and head.
        slice_axis: the axis of `values` along which the slices were acquired.
        name: distinguishes it from other volumes of its source; empty if there is one.
        window: the range of values to show; None if the file names none.
        inverted: whether the lowest value is white.
        only_acquired: why it can be cut only as it was acquired; empty if it can be cut in any plane.
        oriented: whether the file says how the patient lies in the volume; if not, `axes` only holds the spacing.
    """

    values: Float32[ndarray, "i j k"]
    axes: Float[ndarray, "3 3"]
    slice_axis: int
    name: str = ""
    window: Window | None = None
    inverted: bool = False
    only_acquired: str = ""
    oriented: bool = True

    @property
    def acquired_plane(self) -> str:
        """The one of `PLANES` that is nearest to the acquired slices."""
        return PLANES[closest(self.axes)[self.slice_axis]]


class Reader(Protocol):
    """Reads one source."""

    def __call__(self) -> Iterator[Volume | Picture | LeftOut]:
        """The volumes or pictures of the source, and parts of it that are left out.

        Raises:
            LeftOutError: if the whole source is left out.
        """
        ...


@dataclass(frozen=True)
class Found:
    """A file below the folder that is imported, or in an archive there.

    Attributes:
        name: its path relative to that folder, with forward slashes.
        path: where it is.
    """

    name: str
    path: Path


def closest(axes: Float[ndarray, "3 3"]) -> tuple[int, int, int]:
    """For each axis of an array, the patient's axis that is nearest to it: 0 left-right, 1 back-front, 2 feet-head."""
    directions = np.abs(axes / np.linalg.norm(axes, axis=0))
    i, j, k = max(permutations(range(3)), key=lambda order: directions[list(order), range(3)].sum())
    return i, j, k


def canonical(volume: Volume) -> tuple[Float32[ndarray, "x y z"], tuple[float, float, float]]:
    """A view of a volume whose axes point to the patient's right, front and head (RAS+), and its spacing."""
    nearest = closest(volume.axes)
    order = [nearest.index(axis) for axis in range(3)]
    values = volume.values.transpose(order)
    signs = [volume.axes[axis, order[axis]] for axis in range(3)]
    x, y, z = np.linalg.norm(volume.axes, axis=0)[order].tolist()
    return values[tuple(slice(None, None, -1 if sign < 0 else 1) for sign in signs)], (x, y, z)
