"""Read image files as grey pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vaegan_pl.data.images import UNREADABLE, read_grey
from vaegan_pl.importing.volumes import LeftOutError, Picture
from vaegan_pl.storage.files import first_line

_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class ImageReader:
    """Reads one image file.

    Attributes:
        path: the file.
    """

    path: Path

    def __call__(self) -> Iterator[Picture]:
        """The picture, at its own size; values of more than 8 bits are mapped between percentiles of the file.

        Raises:
            LeftOutError: if it cannot be read, or has a single value.
        """
        try:
            grey = read_grey(self.path, 65535, "percentile")
        except UNREADABLE as error:
            if is_lfs_pointer(self.path):
                raise LeftOutError("a pointer of Git LFS; run git lfs pull") from error
            raise LeftOutError(f"cannot be read: {first_line(error)}") from error
        if grey.min() == grey.max():
            raise LeftOutError("has no contrast: all its values are equal")
        yield Picture(grey, "")


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a pointer that Git LFS left in place of the file."""
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS
