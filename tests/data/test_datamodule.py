from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vaegan_pl.data.datamodule import ImageFolders, PhantomFolders
from vaegan_pl.data.images import to_grey_values
from vaegan_pl.errors import UserError

from ..conftest import CLASSES

Write = Callable[..., Path]
OPTIONS: dict[str, Any] = {
    "classes": CLASSES,
    "image_size": 16,
    "batch_size": 4,
    "validation_fraction": 0.25,
    "max_unreadable": 0.0,
    "seed": 0,
}


def ready(root: Path, **options: Any) -> ImageFolders:
    data = ImageFolders(root=root, **{**OPTIONS, **options})
    data.setup()
    return data


def rows(pixels: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in pixels}


def test_plain_folders_are_split_by_class_without_overlap(tmp_path: Path, write_classes: Write) -> None:
    data = ready(write_classes(tmp_path / "d", 8))
    assert data.source.counts == {"train": dict.fromkeys(CLASSES, 6), "held_out": dict.fromkeys(CLASSES, 2)}
    train, test = rows(data.images["train"].pixels), rows(data.images["held_out"].pixels)
    assert len(train) == 24
    assert len(test) == 8
    assert not train & test


def test_the_split_follows_the_seed(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 8)
    held_out = [rows(ready(root, seed=seed).images["held_out"].pixels) for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]


def test_split_folders_are_kept_apart(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "Training", 3)
    write_classes(tmp_path / "Testing", 1)
    assert ready(tmp_path).source.counts == {"train": dict.fromkeys(CLASSES, 3), "held_out": dict.fromkeys(CLASSES, 1)}


def test_batches_are_full_shuffled_and_in_unit_range(tmp_path: Path, write_classes: Write) -> None:
    data = ready(write_classes(tmp_path / "d", 8), batch_size=5)
    first, second = list(data.train_dataloader()), list(data.train_dataloader())
    assert [x.shape for x, _ in first] == [(5, 1, 16, 16)] * 4
    x = torch.cat([x for x, _ in first])
    assert x.dtype == torch.float32
    assert -1 <= x.min() < -0.5 < 0.5 < x.max() <= 1
    assert torch.equal(first[0][0], second[0][0])
    assert not torch.equal(first[0][0], first[1][0])
    held_out = torch.cat([labels for _, labels in data.val_dataloader()])
    assert held_out.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_held_out_pictures_cover_the_classes(tmp_path: Path, write_classes: Write) -> None:
    data = ready(write_classes(tmp_path / "d", 8))
    pixels = data.images["held_out"].pixels
    assert torch.equal(to_grey_values(data.held_out(4)), pixels[[0, 2, 4, 7]])
    assert len(data.held_out(100)) == 8


def test_fewer_images_than_a_batch(tmp_path: Path, write_classes: Write) -> None:
    with pytest.raises(UserError, match=r"8 training images are fewer than one batch; lower data.batch_size=9"):
        ready(write_classes(tmp_path / "d", 3), batch_size=9)


def test_unreadable_files_do_not_fill_a_batch(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "Training", 4)
    write_classes(tmp_path / "Testing", 1)
    (tmp_path / "Training" / "glioma" / "0.png").write_bytes(b"no image")
    assert len(ready(tmp_path, batch_size=15, max_unreadable=1.0).images["train"].labels) == 15
    with pytest.raises(UserError, match=r"15 training images are fewer than one batch"):
        ready(tmp_path, batch_size=16, max_unreadable=1.0)


def test_too_many_unreadable_files_are_an_error_that_names_them(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 5)
    (root / "glioma" / "2.png").write_bytes(b"no image")
    assert len(ready(root, max_unreadable=0.05).images["train"].labels) + 4 == 19
    with pytest.raises(UserError, match=r"1 of 20 image files cannot be read, more than .*=0.04(.|\n)*2.png: "):
        ready(root, max_unreadable=0.04)


def test_a_class_without_one_readable_image_is_an_error(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 5)
    for image in (root / "notumor").iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(UserError, match="not one train image of notumor can be read"):
        ready(root, max_unreadable=1.0)


def test_one_image_cannot_be_split(tmp_path: Path, write_classes: Write) -> None:
    with pytest.raises(UserError, match="glioma: one image is too few"):
        ready(write_classes(tmp_path / "d", 1))


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch_size", 1), ("validation_fraction", 0.0), ("validation_fraction", 1.0), ("image_size", 0)],
)
def test_options_out_of_range_are_refused(tmp_path: Path, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"data.{option}={value}"):
        ImageFolders(root=tmp_path, **{**OPTIONS, option: value})


def test_phantoms_are_read_like_any_images_and_called_phantoms(tmp_path: Path, write_classes: Write) -> None:
    phantoms = PhantomFolders(phantom_seed=0, per_class={"Training": 2, "Testing": 1}, root=tmp_path / "p", **OPTIONS)
    phantoms.prepare_data()
    phantoms.setup()
    assert phantoms.source.kind == "phantom"
    assert phantoms.source.caption == "PHANTOMS (drawings, not MRI)"
    # Their folder stays known as phantoms when it is given as if it were real.
    as_real = ready(tmp_path / "p")
    assert as_real.source == phantoms.source
    assert torch.equal(as_real.images["train"].pixels, phantoms.images["train"].pixels)
    assert ready(tmp_path / "p" / "Training").source.kind == "phantom"
    assert ready(write_classes(tmp_path / "real", 3)).source.kind == "images"


@pytest.mark.parametrize("classes", [["glioma", "glioma"], []])
def test_class_names_must_be_distinct(tmp_path: Path, classes: list[str]) -> None:
    with pytest.raises(ValueError, match="must name at least one class, and none twice"):
        ImageFolders(root=tmp_path, **{**OPTIONS, "classes": classes})
