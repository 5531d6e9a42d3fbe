import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaegan_pl.data.phantoms import LESIONS, PHANTOM_MARKER, SIDE, draw, draw_folders
from vaegan_pl.errors import UserError

from ..conftest import CLASSES

FEW = {"Training": 2, "Testing": 1}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


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
    with pytest.raises(UserError, match="holds other files than the phantoms asked for"):
        draw_folders(tmp_path / "p", CLASSES, FEW, seed=1)
    assert contents(tmp_path / "p") == before


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


@pytest.mark.parametrize("name", [name for name in LESIONS if name != "notumor"])
def test_a_lesion_changes_the_head_it_is_drawn_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same head with and without its lesion differ in one region that is well inside the picture."""
    lesion = LESIONS[name]
    for seed in range(4):
        with_lesion = draw(name, np.random.default_rng(seed)).astype(float)
        healthy = type(lesion)(LESIONS["notumor"].draw, lesion.views, lesion.contrasts)
        with monkeypatch.context() as patch:
            patch.setitem(LESIONS, name, healthy)
            without = draw(name, np.random.default_rng(seed)).astype(float)
        smooth = np.asarray(Image.fromarray(np.abs(with_lesion - without)).resize((16, 16), Image.Resampling.BOX))
        changed = smooth > 12
        assert 1 <= changed.sum() <= 80
        assert not changed[[0, -1]].any()


def test_a_head_is_bright_on_a_dark_background() -> None:
    for name in CLASSES:
        image = draw(name, np.random.default_rng(5)).astype(float)
        corners = np.concatenate([image[:10, :10], image[:10, -10:]])
        assert corners.mean() < 15 < 40 < image[40:88, 40:88].mean()
