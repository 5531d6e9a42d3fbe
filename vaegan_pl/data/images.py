"""One image file to one grey square, whatever its mode."""

import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)
"""What `read_grey` raises for a file that is not a whole image of a known range."""

PREPROCESSING = {
    "colour": "grey: ITU-R 601 luma, transparency over black",
    "resize": "bilinear, antialiased, not keeping the aspect ratio",
    "range": [-1.0, 1.0],
}
"""What `read_grey` and `to_unit_range` do, for files that must say so."""

_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})


def read_grey(path: Path, size: int) -> UInt8[Tensor, "size size"]:
    """Decode an image, make it grey and resize it to `size` x `size` with antialiasing.

    Colour becomes ITU-R 601 luma, transparency is laid over black, 16-bit values map [0, 65535] to [0, 255].

    Raises:
        UNREADABLE: if the file is truncated, is no image, or has pixels without a known white: floats, or integers
            beyond 16 bits.
    """
    with Image.open(path) as image:
        grey = _grey(ImageOps.exif_transpose(image))
    resized = grey.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).clip(0, 255).round().astype(np.uint8))


def _grey(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image, dtype=np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels beyond 16 bits; save it with 8 or 16 bits")
        return Image.fromarray(values / 257)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white; save it with 8 or 16 bits")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "black"), opaque).convert("L")
    return (
        image.convert("RGB").convert("L") if image.mode in {"P", "CMYK", "YCbCr", "LAB", "HSV"} else image.convert("L")
    )


def to_unit_range(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Grey values 0..255 to [-1, 1]."""
    return images.float() / 127.5 - 1


def to_grey_values(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1] to grey values 0..255, rounded; the inverse of `to_unit_range`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
