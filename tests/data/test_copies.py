import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from vaegan_pl.data import copies
from vaegan_pl.data.copies import COMPARED_SIDE, SEARCHES, TURNS, find_pairs, similar
from vaegan_pl.data.images import fit, read_grey
from vaegan_pl.data.phantoms import LESIONS, draw
from vaegan_pl.errors import UserError

Grey = np.ndarray
SAME, MIRRORED, UPSIDE_DOWN, TURNED = range(4)


def head(seed: int, name: str = "glioma") -> Grey:
    return draw(name, np.random.default_rng(seed))


def compared(images: list[Grey]) -> np.ndarray:
    return np.stack([fit(image, COMPARED_SIDE, "squash") for image in images])


def pairs(images: list[Grey], correlation: float | None = 0.99) -> set[tuple[int, int, int]]:
    keys = [str(image.tobytes()) for image in images]
    found = find_pairs(compared(images), keys, correlation)
    return set(zip(found.first.tolist(), found.second.tolist(), found.turn.tolist(), strict=True))


def jpeg(image: Grey) -> Grey:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=30)
    return np.asarray(Image.open(buffer))


def noisy(image: Grey, size: float = 5) -> Grey:
    noise = np.random.default_rng(0).normal(0, size, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def cropped(image: Grey, share: float = 0.02) -> Grey:
    margin = round(share * len(image))
    return image[margin:-margin, margin:-margin]


def resized(image: Grey) -> Grey:
    return np.asarray(Image.fromarray(image).resize((77, 77), Image.Resampling.BICUBIC))


def linear(image: Grey, gain: float, offset: float) -> Grey:
    return (gain * image.astype(float) + offset).clip(0, 255).astype(np.uint8)


def gamma(image: Grey, power: float) -> Grey:
    return (255 * (image / 255) ** power).astype(np.uint8)


def turned(image: Grey, degrees: float) -> Grey:
    return np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))


def shifted(image: Grey, pixels: int) -> Grey:
    return np.pad(image, ((0, 0), (pixels, 0)))[:, : image.shape[1]]


def blurred(image: Grey, radius: float) -> Grey:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def lettered(image: Grey) -> Grey:
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text((10, 10), "(c) example.org", fill=255)
    return np.asarray(picture)


CAUGHT: dict[str, tuple[Callable[[Grey], Grey], int]] = {
    "byte copy": (np.copy, SAME),
    "re-encoded": (jpeg, SAME),
    "resized": (resized, SAME),
    "darker": (lambda image: linear(image, 0.6, 0), SAME),
    "brighter": (lambda image: linear(image, 1, 40), SAME),
    "noisy": (noisy, SAME),
    "mirrored": (np.fliplr, MIRRORED),
    "upside down": (np.flipud, UPSIDE_DOWN),
    "turned by 180°": (lambda image: np.rot90(image, 2), TURNED),
    "mirrored, re-encoded and darker": (lambda image: jpeg(linear(np.fliplr(image), 0.8, 0)), MIRRORED),
}
MISSED: dict[str, Callable[[Grey], Grey]] = {
    "turned by 90°": np.rot90,
    "cropped by 2 % on every side": cropped,
    "shifted by a twentieth": lambda image: np.roll(image, len(image) // 20, 1),
    "negative": lambda image: 255 - image,
}
RATES: dict[str, tuple[Callable[[Grey], Grey], float]] = {
    "re-encoded": (jpeg, 1.0),
    "resized": (resized, 1.0),
    "darker": (lambda image: linear(image, 0.7, 0), 1.0),
    "brighter": (lambda image: linear(image, 1, 30), 1.0),
    "noise of 15": (lambda image: noisy(image, 15), 1.0),
    "blur of 1 pixel": (lambda image: blurred(image, 1), 1.0),
    "blur of 2 pixels": (lambda image: blurred(image, 2), 0.45),
    "turned by 1°": (lambda image: turned(image, 1), 0.80),
    "turned by 2°": (lambda image: turned(image, 2), 0.17),
    "gamma 0.7": (lambda image: gamma(image, 0.7), 0.78),
    "gamma 1.4": (lambda image: gamma(image, 1.4), 0.21),
    "text": (lettered, 0.18),
    "cropped by 1 %": (lambda image: cropped(image, 0.01), 0.02),
    "cropped by 2 %": (cropped, 0.0),
    "shifted by 2 pixels": (lambda image: shifted(image, 2), 0.0),
    "turned by 90°": (np.rot90, 0.0),
    "negative": (lambda image: 255 - image, 0.0),
}
"""Changes and the share of real slices that are still found after them, as docs/data.md tells."""


@pytest.mark.parametrize("kind", CAUGHT)
def test_planted_copies_are_found(kind: str) -> None:
    change, turn = CAUGHT[kind]
    images = [head(0), head(1), head(2, "notumor"), np.ascontiguousarray(change(head(1)))]
    assert (1, 3, turn) in pairs(images)
    assert {(first, second) for first, second, _ in pairs(images)} == {(1, 3)}


@pytest.mark.parametrize("kind", MISSED)
def test_what_is_not_found(kind: str) -> None:
    """docs/data.md says so: a crop, a shift and a quarter turn are beyond this comparison."""
    assert pairs([head(0), np.ascontiguousarray(MISSED[kind](head(0)))]) == set()


@pytest.mark.parametrize("correlation", [0.2, 0.5, 0.9])
def test_every_pair_and_no_other_is_found(correlation: float) -> None:
    """Against numpy's correlation of every pair in every position."""
    images = compared([head(seed, name) for seed in range(12) for name in LESIONS])
    expected = set()
    for turn, lay in enumerate(TURNS.values()):
        flat, turned = images.reshape(48, -1), np.ascontiguousarray(lay(images)).reshape(48, -1)
        r = np.corrcoef(flat.astype(np.float64), turned.astype(np.float64))[:48, 48:]
        assert not (np.abs(r - correlation) < 1e-5).any()
        expected |= {(i, j, turn) for i, j in np.argwhere(r >= correlation).tolist() if i < j}
    found = find_pairs(images, [str(i) for i in range(48)], correlation)
    assert set(zip(found.first.tolist(), found.second.tolist(), found.turn.tolist(), strict=True)) == expected
    assert len(expected) > 5


@pytest.mark.parametrize(("below", "found"), [(1e-4, True), (-1e-4, False)])
def test_the_bound_is_exact_for_smooth_images(below: float, found: bool) -> None:
    """Images of 2 x 2 blocks have nothing but their averages, so the bound that prunes is the correlation itself."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((32, 32)) for _ in range(2))
    a, b = (m - m.mean() for m in (a, b))
    a /= np.linalg.norm(a)
    b -= a * (a * b).sum()
    b /= np.linalg.norm(b)
    both = [a, 0.99 * a + np.sqrt(1 - 0.99**2) * b]  # correlated by 0.99 before they are rounded to grey values
    images = np.stack([np.kron(128 + 800 * m, np.ones((2, 2))) for m in both]).round().astype(np.uint8)
    r = np.corrcoef(*images.reshape(2, -1).astype(float))[0, 1]
    assert r == pytest.approx(0.99, abs=1e-3)
    assert (len(find_pairs(images, ["a", "b"], r - below)) == 1) == found


def test_pairs_in_different_blocks_are_found() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (1100, 64, 64), dtype=np.uint8)
    images[1099] = images[3][:, ::-1]
    images[700] = images[600]
    found = find_pairs(images, [str(i) for i in range(1100)], 0.99)
    assert list(zip(found.first, found.second, found.turn, strict=True)) == [(3, 1099, MIRRORED), (600, 700, SAME)]


def test_images_of_one_value_are_copies_of_their_own_pixels_alone() -> None:
    black, grey = np.zeros((64, 64), np.uint8), np.full((64, 64), 9, np.uint8)
    assert pairs([black, grey, black, head(0)]) == {(0, 2, SAME)}


def test_a_folder_of_empty_slices_takes_no_longer() -> None:
    """Were each compared with each, two thousand would be eight million candidates."""
    images = np.zeros((2000, 64, 64), np.uint8)
    images[7], images[9] = compared([head(0), head(0)])
    found = find_pairs(images, [str(i) for i in range(2000)], 0.99)
    assert list(zip(found.first, found.second, found.turn, strict=True)) == [(7, 9, SAME)]


def test_without_a_correlation_equal_pixels_alone_count() -> None:
    assert pairs([head(0), jpeg(head(0)), head(1), head(0)], None) == {(0, 3, SAME)}


def test_missing_keys_are_no_key() -> None:
    assert len(find_pairs(compared([head(0), head(1)]), ["", ""], None)) == 0
    assert len(find_pairs(np.empty((0, 64, 64), np.uint8), [], 0.99)) == 0


@pytest.fixture
def _always_approximate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_FEWEST", 0)
    monkeypatch.setattr(copies, "_QUERIED", 500)


@pytest.mark.usefixtures("_always_approximate")
def test_an_approximate_search_finds_the_same_groups(mri_root: Path) -> None:
    images = compared([read_grey(file, 65535, "fixed") for file in sorted(mri_root.glob("Testing/*/*.jpg"))])
    keys = [str(i) for i in range(len(images))]
    exact, found = (find_pairs(images, keys, 0.99, search).groups(len(images)) for search in SEARCHES)
    assert exact.max() < 1300
    assert len(set(zip(exact.tolist(), found.tolist(), strict=True))) == exact.max() + 1 == found.max() + 1


@pytest.mark.usefixtures("_always_approximate")
def test_an_approximate_search_without_faiss_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"data.search=approximate: needs faiss; pip install -e '.\[large\]'"):
        find_pairs(compared([head(0), head(1)]), ["a", "b"], 0.99, "approximate")


@pytest.mark.usefixtures("_always_approximate")
@pytest.mark.parametrize("n", [1, 2, 60])
def test_an_approximate_search_works_for_few_images(n: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (n, 64, 64), dtype=np.uint8)
    images[-1] = images[0][:, ::-1]
    found = find_pairs(images, [str(i) for i in range(n)], 0.99, "approximate")
    expected = [(0, n - 1, MIRRORED)] if n > 1 else []
    assert list(zip(found.first, found.second, found.turn, strict=True)) == expected


@pytest.mark.parametrize("search", SEARCHES)
def test_the_most_similar_images_are_taken(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_FEWEST", 0)
    monkeypatch.setattr(copies, "_BLOCK", 8)
    monkeypatch.setattr(copies, "_TILE", 16)
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((50, 4, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=(1, 2), keepdims=True)
    nothing = np.zeros(50, np.float32)
    found = set()
    for first, second, _ in similar(vectors, nothing, 0.1, 3, search, ""):
        found |= set(zip(first.tolist(), second.tolist(), strict=True))
    odd = np.where(np.arange(4) % 2, -1, 1)
    turns = [np.outer(rows, columns) for rows in (np.ones(4), odd) for columns in (np.ones(4), odd)]
    products = np.max([np.einsum("iab,jab->ij", vectors * turn, vectors) for turn in turns], axis=0)
    np.fill_diagonal(products, -1)
    nearest = np.argsort(-products, axis=1)[:, :3]
    expected = {tuple(sorted((i, j))) for i in range(50) for j in nearest[i].tolist() if products[i, j] >= 0.1}
    assert found == expected if search == "exhaustive" else found >= expected


def test_chains_of_pairs_are_one_group() -> None:
    a, b, c = head(0), head(1), head(2)
    images = compared([a, b, np.fliplr(a), c, np.rot90(a, 2)])
    found = find_pairs(images, list("01234"), 0.99)
    groups = found.groups(5)
    assert groups[0] == groups[2] == groups[4]
    assert len(set(groups.tolist())) == 3
    # Without upside-down copies the third is not connected to the others.
    assert len(set(found.only(["mirrored"]).groups(5).tolist())) == 4


def test_how_many_changed_real_slices_are_found(mri_root: Path) -> None:
    files = sorted(mri_root.glob("Training/*/*.jpg"))
    slices = [
        read_grey(files[i], 65535, "fixed") for i in np.random.default_rng(0).choice(len(files), 400, replace=False)
    ]
    originals = compared(slices)
    for name, (change, rate) in RATES.items():
        altered = compared([np.ascontiguousarray(change(image)) for image in slices])
        pairs = find_pairs(np.concatenate([originals, altered]), [str(i) for i in range(800)], 0.99).only(
            ["same way up"]
        )
        found = np.count_nonzero(pairs.second - pairs.first == 400) / 400
        assert found == pytest.approx(rate, abs=0.05), name
