"""Read volumes in NIfTI and MGH files (needs the optional `nifti` extra)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from vaegan_pl.importing.volumes import MOST_VOXELS, LeftOutError, Volume

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")

_FEW = 8
"""Volumes of whole numbers with at most this many different values are masks, not images."""


@dataclass(frozen=True)
class NiftiReader:
    """Reads one file.

    Attributes:
        path: the file.
        number: the volume to take if it holds several; None leaves such files out.
    """

    path: Path
    number: int | None

    def __call__(self) -> Iterator[Volume]:
        """Its volume.

        Raises:
            LeftOutError: if the file cannot be read or holds no grey volume.
        """
        yield read(self.path, self.number)


def read(path: Path, number: int | None) -> Volume:
    """The volume in a file; see `NiftiReader`.

    Raises:
        LeftOutError: if the file cannot be read or holds no grey volume.
    """
    import nibabel

    try:
        image: Any = nibabel.load(path)
        if not hasattr(image, "affine"):
            raise LeftOutError("not a volume, but values on a surface or between regions")
        values, slice_axis = _values(image, number)
        axes = np.asarray(image.affine, dtype=np.float64)[:3, :3]
        header = image.header
        oriented = "sform_code" not in header or bool(header["sform_code"]) or bool(header["qform_code"])
    except (LeftOutError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make the decoder raise anything
        raise LeftOutError(f"cannot be read: {error}") from error
    if not np.isfinite(axes).all() or abs(np.linalg.det(axes)) < 1e-9:
        raise LeftOutError("its voxels have no size")
    if values.dtype.kind in "iub" and _is_mask(values):
        raise LeftOutError(f"a mask: at most {_FEW} different values")
    shown = np.asarray(values, dtype=np.float32)
    if values.dtype.kind == "f":
        shown = np.where(np.isfinite(shown), shown, np.float32(np.nan))
    unknown = "" if oriented else "its header has no orientation; plane=acquired takes the slices as stored"
    return Volume(shown, axes, slice_axis, only_acquired=unknown, oriented=oriented)


def _values(image: Any, number: int | None) -> tuple[ndarray, int]:
    """The values of one volume, and the axis along which it was acquired: the third if the header is silent."""
    shape = tuple(image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if image.get_data_dtype().kind not in "iufb":
        raise LeftOutError(f"values of type {image.get_data_dtype()}, not grey")
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise LeftOutError(f"{' x '.join(map(str, shape))} values, not a volume")
    if np.prod(shape[:3], dtype=np.int64) > MOST_VOXELS:
        raise LeftOutError(f"{' x '.join(map(str, shape))} values, more than {MOST_VOXELS:,} in a volume")
    if len(shape) == 4 and number is None:
        raise LeftOutError(f"holds {shape[3]} volumes; volume=0 to {shape[3] - 1} takes one")
    if len(shape) == 4 and number is not None and number >= shape[3]:
        raise LeftOutError(f"holds {shape[3]} volumes, no volume={number}")
    wanted = (slice(None),) * min(len(shape), 3) + ((number,) if len(shape) == 4 else ())
    wanted += (0,) * (image.ndim - len(wanted))
    values = np.asarray(image.dataobj[wanted] if image.ndim > 3 else image.dataobj)
    slice_axis = image.header.get_dim_info()[2] if hasattr(image.header, "get_dim_info") else None
    return values.reshape(*shape[:3], *(1,) * (3 - len(shape[:3]))), 2 if slice_axis is None else int(slice_axis)


def _is_mask(values: ndarray) -> bool:
    """Whether there are few different values, as in a segmentation; first looks at some of them, to be fast."""
    flat = values.ravel(order="K")  # in the order of memory, which is faster
    few = len(np.unique(flat[:: max(1, flat.size // 65536)])) <= _FEW
    return few and len(np.unique(flat)) <= _FEW
