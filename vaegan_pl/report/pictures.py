"""Grids of images with a caption that says what they are."""

import struct
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from vaegan_pl.data.images import to_grey_values
from vaegan_pl.storage.files import RefusedError, atomic_write, is_next_to, printable, read_bytes
from vaegan_pl.storage.outputs import MADE_BY

MARGIN = 2
MAGNIFICATION = 2
CAPTION_SIZE = 16
MOST_BYTES, MOST_PIXELS = 2**24, 2**24
"""Limits on pictures that are read; enough for eight rows of eight magnified images of 256 pixels."""

LONGEST_CAPTION = 1000
"""In characters; longer captions are cut."""

_UNREADABLE = (
    ValueError,
    SyntaxError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
"""DejaVu Sans covers many alphabets; Pillow's own font lacks accents."""

INK, PAPER = "black", "white"

Images = Float[Tensor, "image channel side side"]


def single(image: Float[Tensor, "1 side side"]) -> Image.Image:
    """One grey image in [-1, 1], at its own size."""
    return Image.fromarray(to_grey_values(image)[0].numpy())


def grid(images: Images, columns: int, caption: str) -> Image.Image:
    """Images in [-1, 1] in rows of `columns`, magnified twice, above a strip with the caption."""
    return captioned(tiles(to_grey_values(images), columns), caption)


def tiles(images: UInt8[Tensor, "image channel side side"], columns: int) -> Image.Image:
    """Grey values 0..255 in rows of `columns`, twice as large."""
    picture = Image.fromarray(make_grid(images, nrow=columns, padding=MARGIN)[0].numpy())
    return picture.resize((MAGNIFICATION * picture.width, MAGNIFICATION * picture.height), Image.Resampling.NEAREST)


def pairs(above: Images, below: Images, caption: str) -> Image.Image:
    """Two sets of images in [-1, 1] in rows of eight pairs, each image of the first set above its counterpart."""
    columns = min(8, len(above))
    blank = above.new_full((-len(above) % columns, *above.shape[1:]), -1)
    rows = (torch.cat([images, blank]).split(columns) for images in (above, below))
    return grid(torch.cat([row for pair in zip(*rows, strict=True) for row in pair]), columns, caption)


def titled_rows(rows: Mapping[str, Images], caption: str, columns: int | None = None) -> Image.Image:
    """Sets of images in [-1, 1], each above a strip with its title, and one caption at the bottom.

    Args:
        rows: the sets by title.
        caption: the caption.
        columns: images in a row; None puts each set in one row.
    """
    pictures = [grid(images, columns or len(images), title) for title, images in rows.items()]
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
    """The picture above a strip with its caption, wrapped to the picture's width."""
    font = ImageFont.truetype(FONT, CAPTION_SIZE)
    lines: list[str] = []
    shown = printable(caption)
    for word in (shown if len(shown) <= LONGEST_CAPTION else f"{shown[:LONGEST_CAPTION]} ...").split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= picture.width - 8:
            lines[-1] += f" {word}"
            continue
        while font.getlength(word) > picture.width - 8 and len(word) > 1:
            fits = max(1, sum(font.getlength(word[: i + 1]) <= picture.width - 8 for i in range(len(word))))
            lines.append(word[:fits])
            word = word[fits:]
        lines += [word] if word else []
    line_height = CAPTION_SIZE + 6
    sheet = Image.new("L", (picture.width, picture.height + line_height * len(lines)), PAPER)
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((4, picture.height + i * line_height), line, INK, font)
    return sheet


def read_picture(path: Path) -> Image.Image:
    """Read a picture that claims to be drawn by this project, from a directory that is not trusted.

    Raises:
        OSError: if it cannot be opened.
        RefusedError: unless it is a grey PNG of a size that this project draws; checked before it is decoded.
    """
    picture = _opened(read_bytes(path, MOST_BYTES))
    if picture.mode != "L":
        raise RefusedError("is not a picture of this project")
    try:
        picture.load()
    except OSError as error:
        if error.errno is not None:
            raise
        raise RefusedError("is damaged") from error
    except _UNREADABLE as error:
        raise RefusedError("is damaged, or too large") from error
    return picture


def read_png(path: Path, folder: Path) -> bytes:
    """Read the bytes of a PNG, for a browser to show.

    Args:
        path: the file.
        folder: the folder that must contain it, not through a symbolic link.

    Raises:
        OSError: if it cannot be opened.
        RefusedError: if it lies elsewhere, or is not a PNG of a size that this project draws.
    """
    if not is_next_to(path, folder):
        raise RefusedError("lies elsewhere")
    data = read_bytes(path, MOST_BYTES)
    _opened(data)
    return data


def _opened(data: bytes) -> Image.Image:
    """Open a PNG and check its size, without decoding it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(BytesIO(data), formats=["PNG"])
    except (OSError, *_UNREADABLE) as error:
        raise RefusedError("is damaged, or too large") from error
    if picture.width * picture.height > MOST_PIXELS:
        raise RefusedError("is not a picture of this project")
    return picture


def png(picture: Image.Image, provenance: str) -> bytes:
    """A PNG with its provenance, and this project as its author, in the metadata."""
    info = PngInfo()
    info.add_text("Description", printable(provenance))
    info.add_text("Software", MADE_BY)
    buffer = BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def save_png(picture: Image.Image, path: Path, provenance: str) -> None:
    """Write a picture as a PNG; see `png`."""
    atomic_write(path, png(picture, provenance), durable=False)
