"""Read an image file of any supported format and mode as a grey square."""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageChops, ImageOps

from vaegan_pl.data import dicom
from vaegan_pl.data.grey import Grey, GreyImage, count_levels, own_range
from vaegan_pl.storage.files import first_line

if TYPE_CHECKING:  # folders are listed and checked before torch is imported
    from torch import Tensor

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"}) | dicom.SUFFIXES

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Formats that Pillow may decode. It goes by content, not by file name, and hands some formats to other programs."""

_LOSSY = frozenset({"JPEG", "MPO", "WEBP"})

UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, MemoryError, Image.DecompressionBombError)
"""What `read_file` raises for a file that is not a complete image with a known range of values."""

ASPECT_RATIOS = ("pad", "squash")

PREPROCESSING = {
    "colour": "grey: ITU-R 601 luma, transparency over black",
    "resize": "bilinear, antialiased",
    "range": [-1.0, 1.0],
}
"""What `read_file`, `fit` and `to_unit_range` do, recorded in model files."""

_DEEP = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
"""Pillow's modes for grey values of more than 8 bits."""

_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339
"""TIFF tags: PhotometricInterpretation is 0 if the value 0 is white, SampleFormat is 2 for signed values."""

_INSTEAD = "save it with 8 or 16 bits, or train with data.range=percentile"

_LFS = b"version https://git-lfs"

_COLOURED_BY, _COLOURED_SHARE = 32, 0.05
"""An image is coloured if the channels of this share of its pixels differ by at least this much; JPEG alone makes grey
pixels differ by less, and coloured text on a slice covers less."""


def read_grey(path: Path, white: int, range_: str) -> Grey:
    """The grey values of a file; see `read_file`."""
    return read_file(path, white, range_, None).grey


def read_file(path: Path, white: int, range_: str, series: dicom.Window | None) -> GreyImage:
    """Decode an image at its own size and convert it to grey.

    Colour becomes ITU-R 601 luma, and transparency is composited over black. Values of 8 bits are kept.
    `dicom.read_slice` decodes DICOM slices.

    Args:
        path: the file.
        white: the value of more than 8 bits that becomes white for the ranges `fixed` and `series`; 0 becomes black.
        range_: which values of more than 8 bits become black to white, one of `grey.RANGES`.
        series: see `dicom.read_slice`.

    Raises:
        UNREADABLE: if the file is truncated, is not an image, or has pixels whose white level is unknown.
    """
    if path.suffix.lower() in dicom.SUFFIXES:
        return dicom.read_slice(path, range_, series)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > dicom.MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {dicom.MOST_PIXELS}")
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a camera's JPEG with previews
                raise ValueError(f"holds {frames} images; save each as a separate file")
            tags = getattr(image, "tag_v2", {})
            return _decoded(ImageOps.exif_transpose(image), tags, white, range_, lossy=image.format in _LOSSY)
    except UNREADABLE:
        _check_pointer(path)
        raise
    except Exception as error:  # a damaged file can make the decoder raise anything
        raise ValueError(f"not an image that can be read: {first_line(error)}") from error


def _check_pointer(path: Path) -> None:
    """Say so if a file that is no image stands for one that Git LFS has not fetched.

    Raises:
        ValueError: if it does.
    """
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise ValueError("a Git LFS pointer, not the image itself; run git lfs pull in this folder")


def _decoded(image: Image.Image, tags: Mapping[int, Any], white: int, range_: str, *, lossy: bool) -> GreyImage:
    """Convert an open image.

    Args:
        image: the image.
        tags: its TIFF tags; empty for other formats.
        white: see `read_file`.
        range_: see `read_file`.
        lossy: see `grey.count_levels`.
    """
    if image.mode in _DEEP:
        values = np.asarray(image, dtype=np.float32)
        own = range_ in ("file", "percentile")
        if not np.isfinite(values).all():
            raise ValueError("pixels that are not finite; save it with 8 or 16 bits")
        if not own and image.mode == "F":
            raise ValueError(f"floating-point pixels have no known white level; {_INSTEAD}")
        if not own and (values.min() < 0 or values.max() > 65535):
            raise ValueError(f"pixels below 0 or of more than 16 bits; {_INSTEAD}")
        low, high = own_range(values, range_) if own else (0, white)
        scaled: Grey = ((values - low) * (255 / max(high - low, 1e-9))).clip(0, 255).round().astype(np.uint8)
        if tags.get(_PHOTOMETRIC) == 0:
            scaled = 255 - scaled
        peak = 0 if image.mode == "F" else max(0, int(values.max()))
        return GreyImage(scaled, peak, count_levels(values), coloured=False)
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "black"), opaque)
    elif image.mode in {"P", "CMYK", "YCbCr", "LAB", "HSV"}:
        image = image.convert("RGB")
    grey: Grey = np.asarray(image.convert("L"))
    if image.mode == "L" and 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, ())):
        grey = np.bitwise_xor(grey, np.uint8(128))  # signed: -128, stored as 128, is black, and 127 is white
    return GreyImage(grey, 0, count_levels(grey, lossy=lossy), _is_coloured(image))


def _is_coloured(image: Image.Image) -> bool:
    if image.mode not in {"RGB", "RGBA"}:
        return False
    red, green, blue = image.split()[:3]
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    differing = sum(ImageChops.difference(brightest, darkest).histogram()[_COLOURED_BY:])
    return differing >= _COLOURED_SHARE * image.width * image.height


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Count the warnings of Pillow and pydicom while files are read, in all threads, and log one line at the end."""
    seen: list[str] = []

    def note(message: Warning | str, *_: object, **__: object) -> None:
        seen.append(first_line(message) if not seen else "")

    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: note(record.getMessage())  # type: ignore[method-assign]
    libraries = [logging.getLogger(name) for name in ("PIL", "pydicom")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            for library in libraries:
                library.addHandler(handler)
                library.propagate = False
            yield
    finally:
        for library in libraries:
            library.removeHandler(handler)
            library.propagate = True
        if seen:
            log.warning("%d warnings while reading files, the first: %s", len(seen), seen[0])


def fit(grey: Grey, size: int, aspect_ratio: str) -> UInt8[ndarray, "size size"]:
    """Resize to `size` x `size` with antialiasing.

    Args:
        grey: the image.
        size: side in pixels.
        aspect_ratio: `pad` adds black on both sides of the shorter dimension; `squash` stretches the image.
    """
    image = Image.fromarray(grey)
    if aspect_ratio == "squash":
        return np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    square = Image.new("L", (size, size))
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return np.array(square)


def to_unit_range(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Grey values 0..255 to [-1, 1]."""
    return images.float() / 127.5 - 1


def to_grey_values(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1] to grey values 0..255, rounded; the inverse of `to_unit_range`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte()
