"""Which images a release uses: each for itself, and as many of each patient as there are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import FOLDER_OPTIONS
from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.data.units import independent_images
from vaegan_pl.errors import UserError


def folders(root: Path, **options: Any) -> ImageFolders:
    return ImageFolders(root, cache=root.with_name("cache"), **{**FOLDER_OPTIONS, **options})


def names(data: ImageFolders, unit: str = "image") -> dict[str, int]:
    return {data.collection.name(i): of for i, of in independent_images(data, unit).items()}


def test_all_readable_images_are_used_near_copies_included(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    root = write_classes(tmp_path / "r", per_class=8)
    with Image.open(root / "glioma" / "0.png") as image:
        image.save(root / "glioma" / "copy.png")
        image.save(root / "pituitary" / "other_label.png")
    (root / "glioma" / "broken.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(root / "notumor" / "blank.png")
    data = folders(root, max_unreadable=0.5)
    assert data.collection.split.dropped or data.collection.split.conflicts
    used = names(data)
    assert len(used) == 4 * 8 + 2
    assert set(used.values()) == {1}
    assert {"glioma/copy.png", "glioma/0.png", "pituitary/other_label.png"} <= used.keys()
    assert "notumor/blank.png" in names(folders(root, max_unreadable=0.5, masks="keep"))


def test_the_official_split_keeps_its_other_folders_out(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    for folder in ("Training", "Testing"):
        write_classes(tmp_path / "r" / folder, per_class=4)
    used = names(folders(tmp_path / "r", split="official"))
    assert len(used) == 16
    assert all(name.startswith("Training/") for name in used)


def test_images_of_a_patient_count_together(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    root = write_classes(tmp_path / "r", per_class=12)
    used = names(folders(root, patient=r"/(\d)"), "patient")
    assert used["glioma/3.png"] == 4  # one in each class
    assert used["glioma/11.png"] == used["glioma/1.png"] == 3 * 4


def test_unknown_patients_and_series_are_refused(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    root = write_classes(tmp_path / "r", per_class=8)
    with pytest.raises(UserError, match="unit=patient: the patients of these images are unknown; name them with"):
        independent_images(folders(root), "patient")
    with pytest.raises(UserError, match=r"unit=image: with data\.range=series"):
        independent_images(folders(root, range="series"), "image")
