from collections.abc import Callable
from pathlib import Path

import pytest

from vaegan_pl.data.folders import list_images, list_loose_images, read_images
from vaegan_pl.errors import UserError

from ..conftest import CLASSES

Write = Callable[..., Path]


def test_plain_class_folders(tmp_path: Path, write_classes: Write) -> None:
    listing = list_images(write_classes(tmp_path / "d", 2), CLASSES)
    assert set(listing.files) == {"all"}
    assert [(path.parent.name, label) for path, label in listing.files["all"][::2]] == list(
        zip(CLASSES, range(4), strict=True)
    )


@pytest.mark.parametrize(("training", "testing"), [("Training", "Testing"), ("train", "test")])
def test_split_folders(tmp_path: Path, write_classes: Write, training: str, testing: str) -> None:
    write_classes(tmp_path / training, 3)
    write_classes(tmp_path / testing, 2)
    listing = list_images(tmp_path, CLASSES)
    assert list(listing.files) == ["train", "held_out"]
    assert [len(files) for files in listing.files.values()] == [12, 8]


def test_training_alone_is_to_be_split(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "Training", 3)
    assert set(list_images(tmp_path, CLASSES).files) == {"all"}


def test_what_is_no_image_is_named_and_left_out(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 1)
    (root / "glioma" / ".DS_Store").touch()
    (root / "glioma" / "notes.txt").touch()
    (root / "glioma" / ".hidden.png").touch()
    checkpoints = root / "glioma" / ".ipynb_checkpoints"
    checkpoints.mkdir()
    (checkpoints / "0.png").write_bytes((root / "glioma" / "0.png").read_bytes())
    listing = list_images(root, CLASSES)
    assert len(listing.files["all"]) == 4
    assert [path.name for path in listing.ignored] == [".DS_Store", ".hidden.png", ".ipynb_checkpoints", "notes.txt"]


def test_missing_root_and_file_as_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=.*nowhere: no such folder"):
        list_images(tmp_path / "nowhere", CLASSES)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.root=.*file: is a file"):
        list_images(tmp_path / "file", CLASSES)


def test_missing_and_empty_class_folders(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 1, CLASSES[:3])
    with pytest.raises(
        UserError, match=r"pituitary: this class folder is missing \(.* holds glioma, meningioma, notumor\)"
    ):
        list_images(root, CLASSES)
    (root / "pituitary").mkdir()
    with pytest.raises(UserError, match="pituitary: holds no image"):
        list_images(root, CLASSES)


def test_testing_without_training(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "Testing", 1)
    with pytest.raises(UserError, match="holds Testing but no Training folder"):
        list_images(tmp_path, CLASSES)


def test_two_folders_for_one_split(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "Training", 1)
    write_classes(tmp_path / "train", 1)
    with pytest.raises(UserError, match="both hold the train split"):
        list_images(tmp_path, CLASSES)


def test_broken_files_are_skipped_and_named(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 5)
    broken = root / "glioma" / "2.png"
    broken.write_bytes(broken.read_bytes()[:100])
    files = list_images(root, CLASSES).files["all"]
    images = read_images(files, 16, "reading")
    assert images.pixels.shape == (19, 1, 16, 16)
    assert images.labels.bincount().tolist() == [4, 5, 5, 5]
    assert [path for path, _ in images.unreadable] == [broken]


def test_nothing_readable_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    images = read_images([(tmp_path / "a.png", 0)], 16, "reading")
    assert images.pixels.shape == (0, 1, 16, 16)
    assert len(images.unreadable) == 1


def test_a_validation_folder_is_held_out_and_the_testing_one_named(tmp_path: Path, write_classes: Write) -> None:
    for split, n in (("train", 3), ("val", 2), ("test", 1)):
        write_classes(tmp_path / split, n)
    (tmp_path / "train" / "stroke").mkdir()
    listing = list_images(tmp_path, CLASSES)
    assert {split: len(files) for split, files in listing.files.items()} == {"train": 12, "held_out": 8}
    assert listing.ignored == [tmp_path / "test", tmp_path / "train" / "stroke"]


def test_loose_images(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "d", 2) / "glioma"
    assert [path.name for path in list_loose_images(folder)] == ["0.png", "1.png"]
    assert list_loose_images(folder / "1.png") == [folder / "1.png"]
    with pytest.raises(UserError, match=r"images=.*nowhere: no such file or folder"):
        list_loose_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"images=.*: holds no image"):
        list_loose_images(tmp_path / "d")


def test_the_real_folders_hold_what_they_should(mri_root: Path) -> None:
    listing = list_images(mri_root, CLASSES)
    assert {split: len(files) for split, files in listing.files.items()} == {"train": 5708, "held_out": 1311}
    assert [path.name for path in listing.ignored] == [".ipynb_checkpoints"]
