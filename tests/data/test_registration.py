"""Copies in another frame: what registration recovers, what is found, and what is not taken for a copy."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from vaegan_pl.data.copies import find_pairs
from vaegan_pl.data.images import fit, read_grey
from vaegan_pl.data.registration import find_reframed, head_boxes, register

from ..figshare_table import SAME_PERSON, one_fold_for_each_person
from .test_copies import RATES, Grey, blurred, compared, cropped, gamma, head, linear, noisy, shifted, turned

NOT_PUBLISHED = -1


def uneven(image: Grey) -> Grey:
    """Cropped by 1 to 6 %, by another share at each side."""
    height, width = image.shape
    return image[round(0.06 * height) : -round(0.01 * height), round(0.02 * width) : -round(0.04 * width)]


def with_margin(image: Grey, share: float) -> Grey:
    return np.pad(image, round(share * len(image)))


def reframed(
    images: list[Grey], correlation: float | None = 0.97, groups: list[int] | None = None
) -> set[tuple[int, ...]]:
    n = len(images)
    numbers = np.arange(n) if groups is None else np.array(groups)
    found = find_reframed(compared(images), numbers, np.full(n, NOT_PUBLISHED), correlation)
    return set(zip(found.first.tolist(), found.second.tolist(), found.turn.tolist(), strict=True))


FRAMES: dict[str, Callable[[Grey], Grey]] = {
    "cropped": lambda image: cropped(image, 0.03),
    "uneven": uneven,
    "margins": lambda image: with_margin(image, 0.1),
    "shifted": lambda image: shifted(image, 5),
    "rotated": lambda image: turned(image, 4),
    "rotated in margins, darker, with noise": lambda image: noisy(linear(turned(with_margin(image, 0.1), 2), 0.7, 0)),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize(
    ("turn", "first"), [(0, lambda x: x), (1, np.fliplr), (2, np.flipud), (3, lambda x: x[::-1, ::-1])]
)
def test_planted_copies_in_another_frame_are_found(kind: str, turn: int, first: Callable[[Grey], Grey]) -> None:
    changed = np.ascontiguousarray(FRAMES[kind](np.ascontiguousarray(first(head(1)))))
    images = [head(0), head(1), head(2, "notumor"), changed, head(4, "pituitary")]
    assert len(find_pairs(compared(images), list("01234"), 0.99)) == 0
    assert (1, 3, turn) in reframed(images)
    assert {pair[:2] for pair in reframed(images)} == {(1, 3)}


def test_shapes_are_not_stretched_into_each_other() -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    ellipses = [(200 * ((x / a) ** 2 + (y / b) ** 2 < 1)).astype(np.uint8) for a, b in ((20, 28), (28, 20), (10, 10))]
    assert reframed(ellipses) == set()


def test_images_of_one_group_are_registered_once() -> None:
    images = [head(0), with_margin(head(0), 0.1), with_margin(head(0), 0.1), np.zeros((9, 9), np.uint8)]
    assert {pair[:2] for pair in reframed(images, groups=[0, 1, 1, 2])} == {(0, 1)}
    assert reframed(images, groups=[0, 0, 0, 1]) == set()
    assert reframed(images, correlation=None) == set()
    assert reframed([head(0)]) == set()
    assert len(find_reframed(np.empty((0, 64, 64), np.uint8), np.empty(0, int), np.empty(0, int), 0.97)) == 0


def test_different_published_slices_are_never_a_pair() -> None:
    images = compared([head(0), with_margin(head(0), 0.1), cropped(head(0))])
    found = find_reframed(images, np.arange(3), np.array([7, 8, NOT_PUBLISHED]), 0.97)
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == {(0, 2), (1, 2)}


def test_a_group_shows_the_slice_that_one_of_its_images_shows() -> None:
    images = compared([head(0), head(0), with_margin(head(0), 0.1)])
    assert len(find_reframed(images, np.array([0, 0, 1]), np.array([NOT_PUBLISHED, 7, 8]), 0.97)) == 0
    assert len(find_reframed(images, np.array([0, 0, 1]), np.array([NOT_PUBLISHED, 7, 7]), 0.97)) == 1


def test_boxes_enclose_what_is_bright() -> None:
    images = np.zeros((2, 64, 64), np.uint8)
    images[0, 16:48, 8:32] = 200
    images[1] = 90
    images[0, 2, 60] = 255  # a speck
    left, right, top, bottom = (head_boxes(images)[0] + 1) * 32
    assert float(left) == pytest.approx(8, abs=1)
    assert float(right) == pytest.approx(32, abs=1)
    assert float(top) == pytest.approx(16, abs=1)
    assert float(bottom) == pytest.approx(48, abs=1)
    assert head_boxes(images)[1].tolist() == [-1, 1, -1, 1]


def test_registration_recovers_an_affine_map_applied_by_scipy() -> None:
    image = compared([head(3)])[0].astype(float)
    angle, size = np.deg2rad(4), 1.06
    forward = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # rows, columns
    offset = np.array([1.5, -2.0])  # pixels
    centre = np.array([31.5, 31.5])
    moved = affine_transform(image, forward, centre + offset - forward @ centre, order=1)  # moved(p) = image(forward p)
    fixed, moving = (torch.from_numpy(each.astype(np.float32))[None] for each in (moved, image))
    whole = torch.eye(3)[None]
    maps, reached = register(fixed, whole, moving, whole, 48, 20)
    # In coordinates (x, y) from -1 to 1, whose unit is 32 pixels.
    expected = np.array([
        [forward[1, 1], forward[1, 0], offset[1] / 32],
        [forward[0, 1], forward[0, 0], offset[0] / 32],
        [0, 0, 1],
    ])  # fmt: skip
    assert float(reached) > 0.99
    np.testing.assert_allclose(maps[0].numpy(), expected, atol=0.01)


def test_images_that_share_too_little_do_not_correlate() -> None:
    image = torch.from_numpy(compared([head(0)]).astype(np.float32))
    away = torch.eye(3)[None].clone()
    away[0, 0, 2] = 1.0
    assert float(register(image, torch.eye(3)[None], image, away, 32, 0)[1]) == 0


REGISTERED: dict[str, tuple[Callable[[Grey], Grey], float]] = {
    "re-encoded": (RATES["re-encoded"][0], 1.0),
    "blur of 2 pixels": (lambda image: blurred(image, 2), 1.0),
    "gamma 0.7": (lambda image: gamma(image, 0.7), 0.95),
    "gamma 1.4": (lambda image: gamma(image, 1.4), 0.94),
    "text": (RATES["text"][0], 0.44),
    "noise of 15": (RATES["noise of 15"][0], 1.0),
    "turned by 1°": (lambda image: turned(image, 1), 1.0),
    "turned by 2°": (lambda image: turned(image, 2), 0.99),
    "turned by 3°": (lambda image: turned(image, 3), 0.97),
    "turned by 5°": (lambda image: turned(image, 5), 0.92),
    "turned by 8°": (lambda image: turned(image, 8), 0.66),
    "cropped by 1 %": (lambda image: cropped(image, 0.01), 0.98),
    "cropped by 2 %, mirrored": (lambda image: cropped(np.fliplr(image)), 0.98),
    "cropped by 5 %": (lambda image: cropped(image, 0.05), 0.74),
    "cropped unevenly": (uneven, 0.85),
    "margins of 5 %": (lambda image: with_margin(image, 0.05), 0.92),
    "margins of 15 %": (lambda image: with_margin(image, 0.15), 0.91),
    "shifted by 2 pixels": (lambda image: shifted(image, 2), 0.97),
    "turned by 90°": (np.rot90, 0.0),
    "negative": (lambda image: 255 - image, 0.0),
}
"""Changes, and the share of real slices that are found after them, as docs/data.md says."""


def test_how_many_reframed_real_slices_are_found(mri_root: Path) -> None:
    files = sorted(mri_root.glob("Training/*/*.jpg"))
    slices = [
        read_grey(files[i], 65535, "fixed") for i in np.random.default_rng(0).choice(len(files), 400, replace=False)
    ]
    originals = compared(slices)
    for name, (change, rate) in REGISTERED.items():
        images = np.concatenate([originals, compared([np.ascontiguousarray(change(image)) for image in slices])])
        pairs = find_pairs(images, [str(i) for i in range(800)], 0.99)
        groups = (pairs + find_reframed(images, pairs.groups(800), np.full(800, NOT_PUBLISHED), 0.97)).groups(800)
        assert np.mean(groups[:400] == groups[400:]) == pytest.approx(rate, abs=0.05), name


def test_slices_of_different_patients_are_no_copies(mri_root: Path) -> None:
    """Of 3,064 slices in five folds, none is taken for a copy of one in another, but those of persons scanned twice."""
    table = Path(os.environ.get("VAEGAN_MRI_PATIENTS", mri_root.parent / "brain-tumor-mri-patients.csv"))
    if not table.exists():
        pytest.skip(f"{table} is not there; set VAEGAN_MRI_PATIENTS")
    with table.open(newline="") as file:
        rows = {int(row["cheng_slice"]): row for row in csv.DictReader(file)}
    former = {number: row["cheng_fold"] for number, row in rows.items()}
    one_fold_for_each_person(list(rows.values()))
    numbers = sorted(rows)
    images = np.stack(
        [fit(read_grey(mri_root / rows[number]["path"], 65535, "fixed"), 64, "squash") for number in numbers]
    )
    found = find_reframed(images, np.arange(len(numbers)), np.full(len(numbers), NOT_PUBLISHED), 0.97)
    pairs = [(numbers[i], numbers[j]) for i, j in zip(found.first.tolist(), found.second.tolist(), strict=True)]
    assert len(pairs) > 100
    assert [pair for pair in pairs if rows[pair[0]]["cheng_fold"] != rows[pair[1]]["cheng_fold"]] == []
    crossing = [pair for pair in pairs if former[pair[0]] != former[pair[1]]]
    assert len(crossing) > 20
    assert all(rows[i]["patient"] == rows[j]["patient"] and rows[i]["patient"] in SAME_PERSON for i, j in crossing)
