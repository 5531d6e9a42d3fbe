"""Read image files as grey pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vaegan_pl.data.images import FORMATS, UNREADABLE, read_grey
from vaegan_pl.importing.slices import Cutting, to_grey
from vaegan_pl.importing.volumes import LeftOutError, Picture
from vaegan_pl.storage.files import first_line

_WIDE = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
"""Pillow's modes of images with 16 bits."""

_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class ImageReader:
    """Reads one image file.

    Attributes:
        path: the file.
        how: the percentiles between which 16-bit values are shown.
    """

    path: Path
    how: Cutting

    def __call__(self) -> Iterator[Picture]:
        """The picture, at its own size; values of 16 bits are mapped between percentiles of the file.

        Raises:
            LeftOutError: if it cannot be read.
        """
        try:
            wide = _is_wide(self.path)
            grey = read_grey(self.path, white=65535)  # also checks sizes and ranges
            if wide:
                with Image.open(self.path, formats=FORMATS) as image:
                    values = np.asarray(image, dtype=np.float32)
                low, high = np.percentile(values, [self.how.lowest, self.how.highest])
                if not high > low:
                    raise LeftOutError(f"has no contrast: nearly all its values are {low:g}")
                grey = to_grey(((values - low) / (high - low)).clip(0, 1), (values.shape[1], values.shape[0]))
        except UNREADABLE as error:
            if is_lfs_pointer(self.path):
                raise LeftOutError("a pointer of Git LFS; run git lfs pull") from error
            raise LeftOutError(f"cannot be read: {first_line(error)}") from error
        yield Picture(grey, "")


def _is_wide(path: Path) -> bool:
    with Image.open(path, formats=FORMATS) as image:
        return image.mode in _WIDE


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a pointer that Git LFS left in place of the file."""
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS
