from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaegan_pl.data.collection import Collection, collect
from vaegan_pl.data.images import read_file
from vaegan_pl.data.masks import by_content, by_name
from vaegan_pl.errors import UserError

from ..conftest import splitting_with
from .test_collection import DECODING

Write = Callable[..., Path]


def collected(root: Path, exclude: str | None = None, masks: str = "drop") -> Collection:
    cache = root.parent / "cache"
    return collect(root, ["a", "b"], {}, exclude, masks, DECODING, splitting_with(), 0.0, cache)


def two_valued(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 2, (30, 40), dtype=np.uint8) * 255).save(path)


@pytest.mark.parametrize(
    "mask",
    ["x_mask", "x_seg", "x_1stHO", "x_label", "x_gt", "x_mask_1", "x-segmentation", "x.Mask", "X_GT", "x ground_truth"],
)
def test_a_mask_is_known_by_its_name_next_to_its_image(mask: str) -> None:
    assert by_name(["x", mask, "y"]) == {mask: "x"}
    assert by_name([mask, "y"]) == {}


def test_ordinary_names_are_no_masks() -> None:
    assert by_name(["Tr-gl_0010", "Tr-gl_001", "x", "x (1)", "xmask", "weight", "wei", "x_t1", "roi"]) == {}


@pytest.mark.parametrize(
    ("levels", "masks"),
    [([3, 3, 3, 2, 1], [3, 4]), ([3, 3, 1], []), ([2, 2, 3], []), ([2, 3, 0, 0], []), ([2, 3, 3, 0], [0])],
)
def test_masks_by_their_values_are_a_minority(levels: list[int], masks: list[int]) -> None:
    assert by_content(levels) == masks


@pytest.mark.parametrize(("radius", "quality", "levels"), [(12, 50, 2), (5, 90, 2), (30, 75, 2), (0, 75, 1)])
def test_a_mask_saved_as_jpeg_has_two_values(tmp_path: Path, radius: int, quality: int, levels: int) -> None:
    y, x = np.mgrid[:96, :96]
    disc = ((y - 50) ** 2 + (x - 40) ** 2 < radius**2).astype(np.uint8) * 255
    Image.fromarray(disc).save(tmp_path / "m.jpg", quality=quality)
    assert read_file(tmp_path / "m.jpg", 65535, "fixed", None).levels == levels


def test_real_slices_are_no_masks(mri_root: Path) -> None:
    files = sorted(mri_root.rglob("*.jpg"))[::40]
    assert {read_file(path, 65535, "fixed", None).levels for path in files} == {3}


def test_masks_are_left_out_and_said(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 8, ["a", "b"])
    for i in range(3):
        two_valued(root / "a" / f"{i}_mask.png", i)
        two_valued(root / "b" / f"1000{i}.png", 10 + i)
    collection = collected(root)
    assert len(collection.listing.files) == 19
    assert [collection.name(i) for i in collection.masks] == [f"b/1000{i}.png" for i in range(3)]
    assert sum(sum(collection.counts(split).values()) for split in ("train", "validation", "test")) == 16
    said = "\n".join(collection.summary())
    assert "3 files are left out as masks by their names, such as a/0_mask.png; data.masks=keep keeps them" in said
    assert "3 files are left out as masks by having two values, such as b/10000.png" in said
    kept = collected(root, masks="keep")
    assert (len(kept.listing.files), kept.masks, kept.notes) == (22, [], [])
    without = collected(root, exclude="_mask|/1000")
    assert (len(without.listing.files), without.masks) == (16, [])
    assert without.notes == ["6 files are left out by data.exclude, such as a/0_mask.png"]


def test_an_expression_that_leaves_out_nothing_is_a_mistake(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 5, ["a", "b"])
    with pytest.raises(UserError, match=r"data\.exclude=_T2: is found in the path of no image"):
        collected(root, exclude="_T2")
    with pytest.raises(UserError, match=r"data.exclude=\*.png: is not a regular expression"):
        collected(root, exclude="*.png")


def test_colour_is_said_in_one_line(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 5, ["a", "b"])
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "a" / "colour.png")
    assert collected(root).notes == ["1 of 11 files are in colour and become grey; there are no RGB models"]


def test_nearly_black_and_white_images_come_with_a_fix_that_works(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng([i, ord(name)]).integers(0, 4096, (20, 20), dtype=np.uint16)
            Image.fromarray(pixels).save(root / name / f"{i}.png")

    def warned(**changes: object) -> list[str]:
        decoding = type(DECODING)(**{**vars(DECODING), **changes})
        cache = tmp_path / "cache"
        return collect(root, ["a", "b"], {}, None, "drop", decoding, splitting_with(), 0.0, cache).warnings

    assert warned() == [
        "100% of 12 images of more than 8 bits come out nearly black, such as a/0.png; try data.white=4095 or "
        "data.range=percentile"
    ]
    assert warned(white=100) == [
        "100% of 12 images of more than 8 bits come out nearly white, such as a/0.png; try data.white=4095 or "
        "data.range=percentile"
    ]
    for fix in ({"white": 4095}, {"range": "percentile"}, {"range": "file"}):
        assert warned(**fix) == []
