"""Read an image file of any supported format and mode as a grey square."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageOps

from vaegan_pl.data import dicom

if TYPE_CHECKING:  # folders are listed and checked before torch is imported
    from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}) | dicom.SUFFIXES

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Formats that Pillow may decode. It goes by content, not by file name, and hands some formats to other programs."""

UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, MemoryError, Image.DecompressionBombError)
"""What `read_grey` raises for a file that is not a complete image with a known range of values."""

ASPECT_RATIOS = ("pad", "squash")

PREPROCESSING = {
    "colour": "grey: ITU-R 601 luma, transparency over black",
    "resize": "bilinear, antialiased",
    "range": [-1.0, 1.0],
}
"""What `read_grey`, `fit` and `to_unit_range` do, recorded in model files."""

_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})

Grey = UInt8[ndarray, "height width"]


def read_grey(path: Path, white: int) -> Grey:
    """Decode an image at its own size and convert it to grey.

    Colour becomes ITU-R 601 luma, transparency is composited over black, [0, `white`] at 16 bits becomes [0, 255], and
    DICOM slices are windowed by `dicom.read_slice`.

    Raises:
        UNREADABLE: if the file is truncated, is not an image, or has pixels whose white level is unknown: floats, or
            integers of more than 16 bits.
    """
    if path.suffix.lower() in dicom.SUFFIXES:
        return dicom.read_slice(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > dicom.MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {dicom.MOST_PIXELS}")
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a camera's JPEG with previews
                raise ValueError(f"holds {frames} images; save each as a separate file")
            return _grey(ImageOps.exif_transpose(image), white)
    except UNREADABLE:
        raise
    except Exception as error:  # a damaged file can make the decoder raise anything
        raise ValueError(f"not an image that can be read: {error}") from error


def _grey(image: Image.Image, white: int) -> Grey:
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image, dtype=np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels of more than 16 bits; save it with 8 or 16 bits")
        return (values * (255 / white)).clip(0, 255).round().astype(np.uint8)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white level; save it with 8 or 16 bits")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "black"), opaque)
    elif image.mode in {"P", "CMYK", "YCbCr", "LAB", "HSV"}:
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


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
