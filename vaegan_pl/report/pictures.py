"""Grids of images with a caption that says what they are."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from vaegan_pl.data.images import to_grey_values
from vaegan_pl.sealed import publish

MARGIN = 2
MAGNIFICATION = 2
CAPTION_SIZE = 16
INK, PAPER = "black", "white"

Images = Float[Tensor, "image channel side side"]


def single(image: Float[Tensor, "1 side side"]) -> Image.Image:
    """One grey image in [-1, 1] as it is."""
    return Image.fromarray(to_grey_values(image)[0].numpy())


def grid(images: Images, columns: int, caption: str) -> Image.Image:
    """Images in [-1, 1] in rows of `columns`, twice as large, over a strip with the caption."""
    return captioned(tiles(to_grey_values(images), columns), caption)


def tiles(images: UInt8[Tensor, "image channel side side"], columns: int) -> Image.Image:
    """Grey values 0..255 in rows of `columns`, twice as large."""
    picture = Image.fromarray(make_grid(images, nrow=columns, padding=MARGIN)[0].numpy())
    return picture.resize((MAGNIFICATION * picture.width, MAGNIFICATION * picture.height), Image.Resampling.NEAREST)


def pairs(above: Images, below: Images, caption: str) -> Image.Image:
    """Two sets of images in [-1, 1], each image of the first right above its partner, in rows of eight pairs."""
    columns = min(8, len(above))
    blank = above.new_full((-len(above) % columns, *above.shape[1:]), -1)
    rows = (torch.cat([images, blank]).split(columns) for images in (above, below))
    return grid(torch.cat([row for pair in zip(*rows, strict=True) for row in pair]), columns, caption)


def titled_rows(rows: Mapping[str, Images], caption: str) -> Image.Image:
    """Sets of images in [-1, 1], one in each row, over strips with their titles, and a caption for all."""
    pictures = [grid(images, len(images), title) for title, images in rows.items()]
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    sheet = Image.new("L", size, PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return captioned(sheet, caption)


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures from left to right, aligned at the top."""
    width = sum(picture.width for picture in pictures) + 8 * MARGIN * (len(pictures) - 1)
    sheet = Image.new("L", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + 8 * MARGIN
    return sheet


def captioned(picture: Image.Image, caption: str) -> Image.Image:
    """The picture over a strip with its caption, broken into lines that fit."""
    font = ImageFont.load_default(CAPTION_SIZE)
    lines: list[str] = []
    for word in caption.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= picture.width - 8:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    line_height = CAPTION_SIZE + 6
    sheet = Image.new("L", (picture.width, picture.height + line_height * len(lines)), PAPER)
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((4, picture.height + i * line_height), line, INK, font)
    return sheet


def png(picture: Image.Image, provenance: str) -> bytes:
    """A PNG whose `Description` metadata carries where its content came from."""
    info = PngInfo()
    info.add_text("Description", provenance)
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def save_png(picture: Image.Image, path: Path, provenance: str) -> None:
    """Write such a PNG."""
    publish(path, png(picture, provenance), verified=False)
