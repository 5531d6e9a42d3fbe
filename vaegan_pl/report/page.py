"""One self-contained HTML page of sections, tables and pictures; every HTML report is made here."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

_PAGES = Environment(
    loader=PackageLoader("vaegan_pl.report", "."),
    autoescape=True,
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
    return _PAGES.get_template("page.html.j2").render(title=title, lead=lead, sections=sections)


def picture(image: Image.Image | Figure, alt: str, caption: str = "") -> Picture:
    """A Pillow image or a matplotlib figure for a page."""
    buffer = BytesIO()
    if isinstance(image, Figure):
        image.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    else:
        image.save(buffer, format="png")
    return Picture(buffer.getvalue(), alt, caption)
