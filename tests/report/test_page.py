"""The page that all HTML reports share, parsed, and on a screen as narrow as a phone's."""

import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from selenium import webdriver

from vaegan_pl.report.page import Section, Table, picture, render

from .conftest import PHONE


class Terms(HTMLParser):
    """The terms that a page explains, with their meanings."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.terms: list[str] = []
        self.meanings: list[str] = []
        self.inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("dt", "dd"):
            (self.terms if self.inside == "dt" else self.meanings).append(data)


def chart(inches: float) -> Figure:
    figure = Figure(figsize=(inches, 2))
    figure.subplots().plot([0, 1])
    return figure


def everything() -> list[Section]:
    """A wide table, long words without spaces, a large picture with its caption inside, and two charts."""
    terms = {"KID": "A distance.", "a < b": "Some order."}
    row = ["KID", *["0.123 [0.100, 0.150]"] * 9]
    return [
        Section("x" * 200, ["y" * 300], [Table(["name", *map(str, range(9))], [row], terms=terms)]),
        Section("settings", tables=[Table(["setting", "value"], [["data", "/a/path/" + "long" * 50]])]),
        Section("picture", pictures=[picture(Image.new("L", (2000, 300)), "a grid", drawn_caption="small words")]),
        Section("charts", pictures=[picture(chart(10), "wide", "below"), picture(chart(4.4), "small")]),
    ]


def test_terms_stand_below_their_table_as_text() -> None:
    found = Terms(render("t", [], everything()))
    assert found.terms == ["KID", "a < b"]
    assert found.meanings == ["A distance.", "Some order."]


def test_a_page_without_terms_has_no_list_of_them() -> None:
    assert "<dl>" not in render("t", [], [Section("one", tables=[Table(["a"], [["b"]])])])


def test_charts_keep_a_legible_width_and_photographs_shrink() -> None:
    """Letters of 10 points are 15 pixels high at 110 dots per inch; three quarters of that can be read."""
    wide, photograph = picture(chart(10), "wide"), picture(Image.new("L", (2000, 300)), "a grid")
    with Image.open(BytesIO(wide.png)) as drawn:
        assert wide.least_width == round(0.75 * drawn.width)
    assert 0 < picture(chart(4.4), "small").least_width <= 368  # a phone, less its margins
    assert picture(chart(30), "huge").least_width == 1000
    assert photograph.least_width == 0
    page = render("t", [], [Section("pictures", pictures=[wide, photograph])])
    assert re.findall(r"min-width: (\d+)px\"", page) == [str(wide.least_width)]
    assert re.search(r"figure img \{[^}]*max-width: 100%", page)


def test_a_phone_scrolls_wide_tables_and_charts_but_not_the_page(phone: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(render("t", ["z" * 300], everything()), encoding="utf-8")
    phone.get(path.as_uri())
    assert phone.execute_script("return innerWidth") == PHONE
    assert phone.execute_script("return document.documentElement.scrollWidth") == PHONE
    boxes = phone.execute_script(
        "return [...document.querySelectorAll('.wide')].map(b => b.scrollWidth - b.clientWidth)"
    )
    assert boxes[0] > 0  # ten columns
    assert boxes[1] == 0  # a setting's long value breaks
    assert boxes[2] > 0  # the wide chart
    assert boxes[3] == 0
    widths = phone.execute_script("return [...document.images].map(i => i.getBoundingClientRect().width)")
    assert widths[0] == pytest.approx(PHONE - 32, abs=1)
    shown = phone.execute_script("return getComputedStyle(document.querySelector('.drawn')).display")
    assert shown == "block"  # the words inside the picture are too small here
