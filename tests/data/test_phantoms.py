import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaegan_pl.data import phantoms
from vaegan_pl.data.phantoms import LESIONS, PHANTOM_MARKER, SIDE, draw, draw_folders
from vaegan_pl.errors import UserError

from ..conftest import CLASSES

FEW = {"Training": 2, "Testing": 1}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def _each_phantom_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken from those that other tests have drawn; see `conftest`."""
    monkeypatch.setattr(phantoms, "draw", draw)


def test_the_tree_is_a_real_folder_tree_and_says_what_it_is(tmp_path: Path) -> None:
    draw_folders(tmp_path / "p", CLASSES, FEW, seed=0)
    files = contents(tmp_path / "p")
    assert len(files) == 4 * 3 + 1
    assert json.loads(files[PHANTOM_MARKER])["what"] == "phantoms drawn by vaegan_pl; not MRI"
    with Image.open(tmp_path / "p" / "Training" / "glioma" / "phantom_glioma_0001.png") as image:
        assert (image.mode, image.size) == ("L", (SIDE, SIDE))
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_the_same_seed_draws_the_same_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw_folders(tmp_path / name, CLASSES, FEW, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    pictures = [name for name in a if name.endswith(".png")]
    assert all(a[name] != c[name] for name in pictures)
    assert len({a[name] for name in pictures}) == len(pictures)


def test_an_existing_tree_is_kept_and_a_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    draw_folders(tmp_path / "p", CLASSES, FEW, seed=0)
    first = (tmp_path / "p" / "Training" / "glioma" / "phantom_glioma_0000.png").stat().st_mtime_ns
    draw_folders(tmp_path / "p", CLASSES, FEW, seed=0)
    assert (tmp_path / "p" / "Training" / "glioma" / "phantom_glioma_0000.png").stat().st_mtime_ns == first
    before = contents(tmp_path / "p")
    with pytest.raises(UserError, match="holds phantoms that were drawn with other options") as refusal:
        draw_folders(tmp_path / "p", CLASSES, FEW, seed=1)
    assert "remove" not in str(refusal.value)
    assert contents(tmp_path / "p") == before


@pytest.mark.parametrize("marker", [None, "{", "[]", '{"sampled_from": "m.pth"}'])
def test_images_of_ones_own_are_not_taken_for_a_place_to_draw(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "mine" / "glioma").mkdir(parents=True)
    (tmp_path / "mine" / "glioma" / "1.png").write_bytes(b"precious")
    if marker is not None:
        (tmp_path / "mine" / PHANTOM_MARKER).write_text(marker)
    with pytest.raises(UserError, match=r"holds other files.*to train on your images, add data=mri") as refusal:
        draw_folders(tmp_path / "mine", CLASSES, FEW, seed=0)
    assert "remove" not in str(refusal.value)
    assert (tmp_path / "mine" / "glioma" / "1.png").read_bytes() == b"precious"


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        draw_folders(tmp_path / "p", CLASSES, FEW, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_classes_without_a_drawing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data=mri for other classes"):
        draw_folders(tmp_path / "p", ["glioma", "stroke"], FEW, seed=0)


def drawn_as(lesion: str, like: Any, seed: int) -> np.ndarray:
    """The head that class `like` gets from a seed, with the lesion of another class."""
    mixed = type(like)(LESIONS[lesion].draw, like.views, like.contrasts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LESIONS, lesion, mixed)
        return draw(lesion, np.random.default_rng(seed)).astype(float)


@pytest.mark.parametrize("name", [name for name in LESIONS if name != "notumor"])
def test_a_lesion_changes_a_part_of_the_head_and_nothing_else(name: str) -> None:
    for seed in range(4):
        change = np.abs(drawn_as(name, LESIONS[name], seed) - drawn_as("notumor", LESIONS[name], seed))
        smooth = np.asarray(Image.fromarray(change).resize((16, 16), Image.Resampling.BOX))
        assert 1 <= (smooth > 12).sum() <= 80
        assert smooth[[0, -1]].max() < 3


def test_lesions_differ_by_class_in_place_and_size() -> None:
    """Meningiomas lie nearer the skull than gliomas; pituitary tumours are small and near the midline."""
    distance, size, off_midline = {}, {}, {}
    for name in ("glioma", "meningioma", "pituitary"):
        healthy, lesion = [np.stack([drawn_as(n, LESIONS[name], i) for i in range(40)]) for n in ("notumor", name)]
        changed = np.abs(lesion - healthy) > 25
        rows, columns = np.arange(SIDE)[:, None], np.arange(SIDE)[None, :]
        area = changed.sum((1, 2)).clip(1)
        y, x = (changed * rows).sum((1, 2)) / area, (changed * columns).sum((1, 2)) / area
        distance[name] = np.median(np.hypot(y - SIDE / 2, x - SIDE / 2))
        size[name] = np.median(area)
        off_midline[name] = np.median(np.abs(x - SIDE / 2))
    assert distance["meningioma"] > distance["glioma"] + 5
    assert size["pituitary"] < 0.5 * min(size["glioma"], size["meningioma"])
    assert off_midline["pituitary"] < 0.5 * min(off_midline["glioma"], off_midline["meningioma"])


def test_a_head_is_bright_on_a_dark_background() -> None:
    for name in CLASSES:
        image = draw(name, np.random.default_rng(5)).astype(float)
        corners = np.concatenate([image[:10, :10], image[:10, -10:]])
        assert corners.mean() < 15 < 40 < image[40:88, 40:88].mean()
