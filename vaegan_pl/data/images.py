"""One image file to one grey square, whatever its mode."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What `read_grey` raises for a file that is not a whole image."""

_SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})


def read_grey(path: Path, size: int) -> UInt8[Tensor, "size size"]:
    """Decode an image, make it grey and resize it to `size` x `size` with antialiasing.

    Colour becomes ITU-R 601 luma, transparency is laid over black, 16-bit values map [0, 65535] to [0, 255].

    Raises:
        OSError, ValueError, SyntaxError, DecompressionBombError: if the file is truncated or no image (`UNREADABLE`).
    """
    with Image.open(path) as image:
        grey = _grey(ImageOps.exif_transpose(image))
    resized = grey.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).clip(0, 255).round().astype(np.uint8))


def _grey(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        return Image.fromarray(np.asarray(image, dtype=np.float32) / 257)
    if image.mode == "F":
        return Image.fromarray(np.asarray(image, dtype=np.float32))
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
