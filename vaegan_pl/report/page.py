"""Self-contained HTML pages of sections, tables and pictures; all HTML reports are rendered here."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from vaegan_pl.storage.files import printable
from vaegan_pl.storage.outputs import MADE_BY

LONGEST_LABEL = 60
"""The most characters of a text in a figure."""

DPI = 110
LEGIBLE = 0.75
"""The smallest scale at which a figure's text can be read: letters of 10 points become 11 pixels high."""

WIDEST = 1000
"""CSS pixels: no chart is kept wider than a page on a desktop."""


def _plain(value: object) -> object:
    """Text in which control characters, characters that reorder others and undecodable bytes are escaped.

    Line breaks stay.
    """
    if not isinstance(value, str) or value.isprintable():
        return value
    return "\n".join(map(printable, value.split("\n")))


PAGES = Environment(
    loader=PackageLoader("vaegan_pl.report", "."),
    autoescape=True,
    finalize=_plain,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Table:
    """A table. Numbers are aligned to the right.

    Attributes:
        columns: headings.
        rows: cells of each row.
        total: whether the last row sums up the others.
        terms: what terms of the table mean, listed below it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int]]
    total: bool = False
    terms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A picture, embedded in the page.

    Attributes:
        png: content of the PNG file.
        alt: what it shows, for those who cannot see it.
        caption: text below it.
        drawn: the caption inside the picture; narrow pages repeat it below, since it is too small to read there.
        least_width: CSS pixels. On a narrower page the picture keeps this width and scrolls in its own box.
    """

    png: bytes
    alt: str
    caption: str = ""
    drawn: str = ""
    least_width: int = 0

    @property
    def address(self) -> str:
        """The picture as a data URL."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        title: heading.
        text: paragraphs below the heading.
        tables: shown below the text.
        pictures: shown below the tables.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = field(default=())


def render(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The page as HTML; needs no other file and no network."""
    return PAGES.get_template("page.html.j2").render(title=title, lead=lead, sections=sections, generator=MADE_BY)


def picture(image: Image.Image | Figure, alt: str, caption: str = "", drawn_caption: str = "") -> Picture:
    """A picture for a page.

    Args:
        image: a Pillow image, which shrinks with the page, or a matplotlib figure, which stays legible.
        alt: see `Picture`.
        caption: see `Picture`.
        drawn_caption: the caption inside the image, if it has one.
    """
    if isinstance(image, Figure):
        png = drawn(image, DPI, bbox_inches="tight")
        with Image.open(BytesIO(png)) as opened:
            least_width = min(WIDEST, round(LEGIBLE * opened.width))
        return Picture(png, alt, caption, drawn_caption, least_width)
    buffer = BytesIO()
    image.save(buffer, format="png")
    return Picture(buffer.getvalue(), alt, caption, drawn_caption)


def literal(text: object) -> str:
    """Text that a figure shows unchanged: without formulas or control characters, and shortened if it is too long."""
    shown = printable(text)
    shown = shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 4]} ..."
    return shown.replace("$", r"\$")


def drawn(figure: Figure, dpi: int, **options: Any) -> bytes:
    """A matplotlib figure as a PNG, with the name of this project in its metadata."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": MADE_BY}, **options)
    return buffer.getvalue()
