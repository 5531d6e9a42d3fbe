"""Read MedMNIST's .npz files and the .mat files of Cheng et al.'s brain tumours on figshare."""

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from vaegan_pl.data.dicom import MOST_PIXELS
from vaegan_pl.importing.slices import Cutting, percentile_range, to_grey
from vaegan_pl.importing.volumes import MOST_VOXELS, LeftOutError, Picture
from vaegan_pl.storage.files import first_line

SPLITS = {"train": "Training", "val": "Validation", "test": "Testing"}
"""MedMNIST's splits and their folders."""

TUMOURS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
"""The labels of doi 10.6084/m9.figshare.1512427."""


@dataclass(frozen=True)
class MedMnistReader:
    """Reads one split of a MedMNIST file.

    Attributes:
        path: the file.
        split: one of `SPLITS`.
    """

    path: Path
    split: str

    def __call__(self) -> Iterator[Picture]:
        """Its images, decoded one at a time; those of volumes are all slices, of one patient for each volume.

        Raises:
            LeftOutError: if the file cannot be read, or has several labels for each image.
        """
        try:
            yield from self._pictures()
        except (LeftOutError, MemoryError):
            raise
        except Exception as error:  # a damaged file can make the decoder raise anything
            raise LeftOutError(f"cannot be read: {first_line(error)}") from error

    def _pictures(self) -> Iterator[Picture]:
        with zipfile.ZipFile(self.path) as archive:
            with archive.open(f"{self.split}_labels.npy") as file:
                shape, dtype = _array_header(file)
                if math.prod(shape) != shape[0] or math.prod(shape) > MOST_VOXELS or dtype.kind not in "iu":
                    raise LeftOutError(
                        f"labels of shape {shape} and type {dtype}; there must be a number for each image"
                    )
                labels = np.frombuffer(_exactly(file, math.prod(shape) * dtype.itemsize), dtype)
            with archive.open(f"{self.split}_images.npy") as file:
                shape, dtype = _array_header(file)
                if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] == 0):
                    raise LeftOutError(f"images of shape {shape} and type {dtype}, not 8-bit images")
                if math.prod(shape[1:]) > MOST_PIXELS or shape[0] != len(labels):
                    raise LeftOutError(f"images of shape {shape} and {len(labels)} labels")
                digits = max(5, len(str(shape[0])))
                for i, label in enumerate(labels.tolist()):
                    values = np.frombuffer(_exactly(file, math.prod(shape[1:])), np.uint8).reshape(shape[1:])
                    name = f"{self.split}-{i:0{digits}d}"
                    for part, grey in _greys(values):
                        patient = f"{self.path.stem}-{name}" if part else ""
                        yield Picture(grey, f"{name}{part}", str(label), patient, SPLITS[self.split])


def _greys(values: UInt8[ndarray, "..."]) -> Iterator[tuple[str, UInt8[ndarray, "height width"]]]:
    """The slices of a volume, or an image itself, with colour as luma."""
    if values.ndim == 2:
        yield "", values
    elif values.shape[-1] == 3:
        yield "", np.asarray(Image.fromarray(values).convert("L"))
    else:
        yield from ((f"-{i:03d}", grey) for i, grey in enumerate(values))


def _array_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in an open .npy file, of which only the header is read."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran or dtype.hasobject:
        raise LeftOutError("an array in an order or of a type that is not supported")
    return shape, dtype


def _exactly(file: Any, n: int) -> bytes:
    data: bytes = file.read(n)
    if len(data) != n:
        raise LeftOutError("is truncated")
    return data


def medmnist_splits(path: Path) -> list[str]:
    """The splits in a file.

    Raises:
        LeftOutError: if it is not a file of MedMNIST's kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise LeftOutError(f"cannot be read: {first_line(error)}") from error
    found = [split for split in SPLITS if {f"{split}_images.npy", f"{split}_labels.npy"} <= names]
    if not found:
        raise LeftOutError("has no arrays train_images and train_labels, as MedMNIST's files have")
    return found


@dataclass(frozen=True)
class FigshareReader:
    """Reads one .mat file of version 7.3.

    Attributes:
        path: the file.
        how: the percentiles between which values are shown.
    """

    path: Path
    how: Cutting

    def __call__(self) -> Iterator[Picture]:
        """The slice, with its class and its patient's code.

        Raises:
            LeftOutError: if the file has no such slice, or cannot be read.
        """
        import h5py

        try:
            with h5py.File(self.path, "r") as file:
                values = _dataset(file, "image", MOST_PIXELS)
                label = int(_dataset(file, "label", 1).item())
                patient = "".join(map(chr, _dataset(file, "PID", 100).reshape(-1).astype(int).tolist()))
        except (LeftOutError, MemoryError):
            raise
        except Exception as error:  # a damaged file can make the decoder raise anything
            raise LeftOutError(f"not a MATLAB file of version 7.3 with cjdata: {first_line(error)}") from error
        if values.ndim != 2 or label not in TUMOURS:
            raise LeftOutError(f"a cjdata of shape {values.shape} and label {label}")
        values = values.T.astype(np.float32)  # MATLAB stores columns
        low, high = percentile_range(values, self.how)
        grey = to_grey(((values - low) / (high - low)).clip(0, 1), (values.shape[1], values.shape[0]))
        yield Picture(grey, "", TUMOURS[label], patient.strip("\0 "))


def _dataset(file: Any, name: str, most: int) -> ndarray:
    """The values of a small data set that is inside the file.

    Raises:
        LeftOutError: if there is none, or it is too large or elsewhere.
    """
    import h5py

    link = file.get("cjdata") and file["cjdata"].get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise LeftOutError(f"has no cjdata/{name}, as the files on figshare have")
    data = file["cjdata"][name]
    if not isinstance(data, h5py.Dataset) or data.size > most or data.external or data.is_virtual:
        raise LeftOutError(f"has a cjdata/{name} that is too large, or in another file")
    return np.asarray(data[()])
