"""One self-contained HTML page of sections, tables and pictures; every HTML report is made here."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from vaegan_pl.storage.files import printable
from vaegan_pl.storage.outputs import MADE_BY

LONGEST_LABEL = 60
"""Letters of a text in a figure."""


def _plain(value: object) -> object:
    """Text with characters that hide or turn others, and undecodable bytes, as escapes; its line breaks stay."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "\n".join(map(printable, value.split("\n")))


_PAGES = Environment(
    loader=PackageLoader("vaegan_pl.report", "."),
    autoescape=True,
    finalize=_plain,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Table:
    """A table; cells are shown as text, numbers to the right.

    Attributes:
        columns: headings.
        rows: cells of each row.
        total: whether the last row sums up the others.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int]]
    total: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture, inside the page.

    Attributes:
        png: the PNG file.
        alt: what it shows, for those who cannot see it.
        caption: text below it.
    """

    png: bytes
    alt: str
    caption: str = ""

    @property
    def address(self) -> str:
        """The picture as a data URL."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        title: heading.
        text: paragraphs.
        tables: tables, below the text.
        pictures: pictures, below the tables.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = field(default=())


def render(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The page as HTML; needs no other file and no network."""
    return _PAGES.get_template("page.html.j2").render(title=title, lead=lead, sections=sections, generator=MADE_BY)


def picture(image: Image.Image | Figure, alt: str, caption: str = "") -> Picture:
    """A Pillow image or a matplotlib figure for a page."""
    if isinstance(image, Figure):
        return Picture(drawn(image, 110, bbox_inches="tight"), alt, caption)
    buffer = BytesIO()
    image.save(buffer, format="png")
    return Picture(buffer.getvalue(), alt, caption)


def literal(text: object) -> str:
    """Text for a figure as it stands: no formula between dollar signs, no control characters, and not too long."""
    shown = printable(text)
    shown = shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 4]} ..."
    return shown.replace("$", r"\$")


def drawn(figure: Figure, dpi: int, **options: Any) -> bytes:
    """A matplotlib figure as a PNG that says that this project wrote it."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": MADE_BY}, **options)
    return buffer.getvalue()
