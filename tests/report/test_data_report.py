"""The report on a folder with planted copies, read back from its JSON and its page."""

import json
import os
import shutil
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaegan_pl.data.collection import Collection, Splitting, collect
from vaegan_pl.data.phantoms import draw
from vaegan_pl.data.prepared import Decoding
from vaegan_pl.report.data_report import gather, write

from ..conftest import CLASSES, splitting_with

GROUP = splitting_with(validation_fraction=0.1, test_fraction=0.1)
OFFICIAL = splitting_with(by="official", validation_fraction=0.1, test_fraction=0.1)


def collected(root: Path, cache: Path, splitting: Splitting = GROUP, classes: list[str] | None = None) -> Collection:
    return collect(
        root,
        classes,
        {},
        None,
        "drop",
        Decoding(64, "pad", 65535, "fixed", 0.99, None, "exhaustive"),
        splitting,
        0.2,
        cache,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six phantoms of each of two classes; in Testing a byte copy, a mirrored one, a second label, one new."""
    root = tmp_path / "mine"
    for name in ("glioma", "notumor"):
        for split in ("Training", "Testing"):
            (root / split / name).mkdir(parents=True)
        for i in range(6):
            pixels = draw(name, np.random.default_rng(i))
            Image.fromarray(pixels).save(root / "Training" / name / f"{i}.png")
    training, testing = root / "Training", root / "Testing"
    shutil.copy(training / "glioma" / "0.png", testing / "glioma" / "copy.png")
    mirrored = np.ascontiguousarray(np.fliplr(np.asarray(Image.open(training / "glioma" / "1.png"))))
    Image.fromarray(mirrored).save(testing / "glioma" / "mirrored.png")
    shutil.copy(training / "glioma" / "2.png", testing / "notumor" / "<b>second & label.png")
    Image.fromarray(draw("notumor", np.random.default_rng(9))).save(testing / "notumor" / "new.png")
    (training / "notumor" / "broken.png").write_bytes(b"no image")
    (training / ".DS_Store").touch()
    return root


class Page(HTMLParser):
    """The page's cells by row, its headings, its pictures, and whatever it would load from elsewhere."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self.pictures: list[Image.Image] = []
        self.loads: list[str] = []
        self.inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        values = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        address = str(values.get("src") or values.get("href") or "#")
        if address.startswith("data:image/png;base64,"):
            self.pictures.append(Image.open(BytesIO(b64decode(address.partition(",")[2]))))
        elif not address.startswith("#"):
            self.loads.append(address)
        if tag in ("script", "link", "iframe"):
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("td", "th"):
            self.rows[-1][-1] += data
        self.text += data


def test_the_figures_of_a_planted_folder(root: Path, tmp_path: Path) -> None:
    facts = gather(collected(root, tmp_path / "cache"))
    assert facts["classes"]["all"] == {
        "images": 17,
        "groups_same_or_mirrored": 13,
        "groups": 13,
        "train": 8,
        "validation": 2,
        "test": 2,
    }
    columns = ["images", "identical pixels", "same way up", "or mirrored", "in any way"]
    assert facts["leaks"]["of_the_folders_own_split"] == {
        "glioma": dict(zip(columns, [2, 1, 1, 2, 2], strict=True)),
        "notumor": dict(zip(columns, [2, 1, 1, 1, 1], strict=True)),
        "all": dict(zip(columns, [4, 2, 2, 3, 3], strict=True)),
    }
    assert facts["leaks"]["of_the_split_used"] == {"validation": 0, "test": 0}
    assert facts["label_conflicts"] == [
        {"Training/glioma/2.png": "glioma", "Testing/notumor/<b>second & label.png": "notumor"}
    ]
    assert facts["copies"]["dropped"] == 2
    assert facts["copies"]["files_with_the_pixels_of_an_earlier_one"] == 2
    turns = {"same way up": 2, "mirrored": 1, "upside down": 0, "rotated by 180°": 0}
    assert facts["copies"]["pairs"] == {**turns, "in another frame": 0}
    assert list(facts["left_out"]["unreadable"]) == ["Training/notumor/broken.png"]
    assert facts["left_out"]["ignored"] == {"Training/.DS_Store": "hidden"}
    assert facts["sizes"] == [{"height": 128, "width": 128, "images": 16}]


def test_intensities_agree_with_numpy(root: Path, tmp_path: Path) -> None:
    collection = collected(root, tmp_path / "cache")
    facts = gather(collection)["intensity"]["glioma"]
    images = np.stack(
        [collection.prepared.images[i] for i, file in enumerate(collection.listing.files) if file.label == 0]
    )
    assert facts["mean"] == pytest.approx(images.mean())
    assert facts["standard_deviation"] == pytest.approx(images.std())
    assert facts["histogram"] == pytest.approx(np.histogram(images, 256, (0, 256))[0] / images.size)


def test_the_page_holds_everything_itself_and_says_the_figures(root: Path, tmp_path: Path) -> None:
    write(collected(root, tmp_path / "cache"), tmp_path / "report")
    assert json.loads((tmp_path / "report" / "data_report.json").read_text())["classes"]["all"]["images"] == 17
    page = Page((tmp_path / "report" / "data_report.html").read_text())
    assert page.loads == []
    assert ["all", "17", "13", "13", "8", "2", "2"] in page.rows
    assert ["glioma", "2", "1", "1", "2", "2"] in page.rows
    assert "Of the 4 images outside the training folder, 3 (75%) have a near-copy in it." in page.text
    assert "no held-out image has a near-copy among the training images" in page.text
    assert "not of new patients" in page.text
    assert "Testing/notumor/<b>second & label.png: notumor" in page.text
    assert any(row[0] == "Training/notumor/broken.png" and row[1].startswith("unreadable") for row in page.rows)
    # Two classes, three groups of copies, one conflict, one histogram.
    assert len(page.pictures) == 7


def test_copies_in_another_frame_are_counted_apart(root: Path, tmp_path: Path) -> None:
    original = np.asarray(Image.open(root / "Training" / "notumor" / "4.png"))
    Image.fromarray(np.pad(original, 12)).save(root / "Testing" / "notumor" / "framed.png")
    decoding = Decoding(64, "pad", 65535, "fixed", 0.99, 0.985, "exhaustive")
    collection = collect(root, None, {}, None, "drop", decoding, OFFICIAL, 0.2, tmp_path / "cache")
    facts = gather(collection)
    assert facts["copies"]["pairs"]["in another frame"] == 1
    row = facts["leaks"]["of_the_folders_own_split"]["notumor"]
    assert (row["or mirrored"], row["in any way"]) == (1, 2)
    assert not any("chains" in warning for warning in collection.warnings)
    write(collection, tmp_path / "report")
    assert "at least 0.985 after registration" in (tmp_path / "report" / "data_report.html").read_text()


def test_the_official_split_is_warned_of(root: Path, tmp_path: Path) -> None:
    write(collected(root, tmp_path / "cache", OFFICIAL), tmp_path / "report")
    page = Page((tmp_path / "report" / "data_report.html").read_text())
    assert "WARNING: the split used here leaks: 3 test images" in page.text
    assert "data.split=official leaves them in" in page.text


def test_unreadable_files_are_no_copies_of_each_other(root: Path, tmp_path: Path) -> None:
    (root / "Testing" / "notumor" / "broken too.png").write_bytes(b"no image")
    leaks = gather(collected(root, tmp_path / "cache"))["leaks"]["of_the_folders_own_split"]
    assert leaks["notumor"]["identical pixels"] == 1


def test_chains_of_copies_count_alike_on_the_whole_page(root: Path, tmp_path: Path) -> None:
    """A copy of a copy: a is in Training, b is its mirror image and c is b's own near-copy."""
    collection = collected(root, tmp_path / "cache", OFFICIAL)
    facts = gather(collection)
    assert facts["leaks"]["of_the_folders_own_split"]["all"]["in any way"] == 3
    assert facts["leaks"]["of_the_split_used"] == {"test": 3}


def test_without_a_correlation_the_page_speaks_of_identical_pixels(root: Path, tmp_path: Path) -> None:
    decoding = Decoding(64, "pad", 65535, "fixed", None, None, "exhaustive")
    write(collect(root, None, {}, None, "drop", decoding, GROUP, 0.2, tmp_path / "cache"), tmp_path / "report")
    text = Page((tmp_path / "report" / "data_report.html").read_text()).text
    assert "Near-copies were not searched for" in text
    assert "no held-out image has a copy with identical pixels among the training images." in text
    assert "None in one of four" not in text


def test_names_that_are_no_utf_8_are_escaped(root: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(b"\xe9.png")
    (root / "Training" / "notumor" / strange).write_bytes(b"no image")
    collection = collected(root, tmp_path / "cache")
    write(collection, tmp_path / "report")
    assert "Training/notumor/\\udce9.png" in (tmp_path / "report" / "data_report.html").read_text()
    assert any("udce9" in line for line in collection.summary())


def test_dark_images_point_to_their_white(tmp_path: Path) -> None:
    (tmp_path / "dark" / "a").mkdir(parents=True)
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 4096, (8, 8), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "dark" / "a" / f"{i}.png")
    write(collected(tmp_path / "dark", tmp_path / "cache"), tmp_path / "report")
    page = Page((tmp_path / "report" / "data_report.html").read_text())
    assert "4 images have no pixel as bright as 64 of 255" in page.text
    assert "data.white=4095" in page.text
    assert "What the folders' own split leaks" not in page.text


def test_the_real_data_reproduces_the_known_table(mri_root: Path, tmp_path: Path) -> None:
    """The dataset's published measurement, to the image where it is of groups, within one where r is at its edge."""
    facts: dict[str, Any] = gather(collected(mri_root, tmp_path / "cache", classes=CLASSES))
    rows = facts["leaks"]["of_the_folders_own_split"]
    expected = {
        "glioma": (300, 0, 0, 81),
        "meningioma": (306, 106, 109, 289),
        "notumor": (405, 105, 369, 395),
        "pituitary": (300, 5, 5, 219),
    }
    for name, numbers in expected.items():
        np.testing.assert_allclose(list(rows[name].values())[:4], numbers, atol=1)
    groups = {"glioma": 1426, "meningioma": 841, "notumor": 536, "pituitary": 948}
    assert {name: facts["classes"][name]["groups_same_or_mirrored"] for name in CLASSES} == groups
    assert facts["classes"]["all"]["groups_same_or_mirrored"] == 3747
    assert facts["classes"]["all"]["groups"] == 3628
    assert facts["copies"]["files_with_the_pixels_of_an_earlier_one"] == 426
