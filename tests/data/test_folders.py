import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from vaegan_pl.data.folders import Listing, list_images, list_loose_images
from vaegan_pl.errors import UserError

from ..conftest import CLASSES

Write = Callable[..., Path]


ALIASES = {"glioma_tumor": "glioma", "no_tumour": "notumor"}


def listed(root: Path, classes: list[str] | None, aliases: dict[str, str]) -> Listing:
    return list_images(root, classes, aliases, exclude=None, masks="drop")


def names(root: Path, classes: list[str] | None = CLASSES, aliases: dict[str, str] | None = None) -> list[str]:
    """SPLIT/FOLDER/FILE:LABEL of each image."""
    listing = listed(root, classes, aliases or {})
    return [f"{f.folder}/{f.path.parent.name}/{f.path.name}:{f.label}" for f in listing.files]


def ignored(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): why for path, why in listed(root, CLASSES, {}).ignored}


def test_plain_class_folders(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 2, ["b", "a"])
    assert names(root, ["b", "a"]) == ["all/a/0.png:1", "all/a/1.png:1", "all/b/0.png:0", "all/b/1.png:0"]


@pytest.mark.parametrize(
    "folders",
    [("Training", "Testing"), ("train", "test"), ("train", "validation", "test"), ("TRAIN", "val"), ("train", "valid")],
)
def test_split_folders(tmp_path: Path, write_classes: Write, folders: tuple[str, ...]) -> None:
    for folder in folders:
        write_classes(tmp_path / folder, 1, ["a"])
    splits = {"training": "train", "testing": "test", "val": "validation", "valid": "validation"}
    assert names(tmp_path, ["a"]) == [f"{splits.get(f.lower(), f.lower())}/a/0.png:0" for f in sorted(folders)]


def test_other_names_of_the_same_classes(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "Training", 1, ["Glioma_Tumor", "no tumor"])
    write_classes(tmp_path / "Testing", 1, ["GLIOMA", "No-Tumour"])
    assert names(tmp_path, ["glioma", "notumor"], ALIASES) == [
        "test/GLIOMA/0.png:0",
        "test/No-Tumour/0.png:1",
        "train/Glioma_Tumor/0.png:0",
        "train/no tumor/0.png:1",
    ]


def test_an_alias_never_renames_a_class_that_is_asked_for(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 1, ["normal", "tumor"])
    aliases = {"normal": "notumor", "tumor": "glioma"}
    assert names(root, ["normal", "tumor"], aliases) == ["all/normal/0.png:0", "all/tumor/0.png:1"]
    assert listed(root, None, aliases).classes == ["normal", "tumor"]
    assert names(root, ["notumor", "tumor"], aliases) == ["all/normal/0.png:0", "all/tumor/0.png:1"]


def test_all_folders_are_classes_where_none_are_named(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", 1, ["stroke", "B", "ms"])
    write_classes(tmp_path / "test", 1, ["Stroke"])
    (tmp_path / "train" / "outputs" / "images").mkdir(parents=True)
    listing = listed(tmp_path, None, ALIASES)
    assert listing.classes == ["B", "ms", "stroke"]
    assert [file.label for file in listing.files] == [2, 0, 1, 2]
    assert listing.ignored == [(tmp_path / "train" / "outputs", "a folder without images")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no folders with images"):
        listed(tmp_path / "empty", None, {})


def test_a_class_may_have_a_folder_in_one_split_alone(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", 1, ["a", "b"])
    write_classes(tmp_path / "test", 1, ["a"])
    assert names(tmp_path, ["a", "b"]) == ["test/a/0.png:0", "train/a/0.png:0", "train/b/0.png:1"]


def test_what_is_no_image_is_named_and_left_out(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 1)
    for name in (".DS_Store", "Thumbs.db", "notes.txt", ".hidden.png"):
        (root / "glioma" / name).touch()
    for folder in ("glioma/.ipynb_checkpoints", "glioma/more", "__MACOSX", ".git", "stroke"):
        (root / folder).mkdir()
    (root / "glioma" / ".ipynb_checkpoints" / "0.png").write_bytes((root / "glioma" / "0.png").read_bytes())
    (root / "README.txt").touch()
    assert len(names(root)) == 4
    assert ignored(root) == {
        ".git": "hidden",
        "README.txt": "not in a class folder",
        "__MACOSX": "hidden",
        "glioma/.DS_Store": "hidden",
        "glioma/.hidden.png": "hidden",
        "glioma/.ipynb_checkpoints": "hidden",
        "glioma/Thumbs.db": "no image",
        "glioma/more": "a folder in a class folder",
        "glioma/notes.txt": "no image",
        "stroke": "not a class in data.classes",
    }


def test_what_stands_beside_split_folders_is_named_too(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", 1)
    (tmp_path / "glioma").mkdir()
    (tmp_path / ".DS_Store").touch()
    assert ignored(tmp_path) == {".DS_Store": "hidden", "glioma": "not in a split folder"}


def test_missing_root_and_file_as_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=.*nowhere: no such folder"):
        names(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.root=.*file: is a file"):
        names(tmp_path / "file")


def test_missing_and_empty_class_folders(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 1, [*CLASSES[:3], "pituitary2"])
    with pytest.raises(UserError, match=r"d/pituitary: the class folder is missing \(there are pituitary2\)"):
        names(root)
    (root / "pituitary").mkdir()
    with pytest.raises(UserError, match="pituitary: holds no image"):
        names(root)


def test_testing_without_training(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "Testing", 1)
    with pytest.raises(UserError, match="holds Testing but no Training folder"):
        names(tmp_path)


def test_two_folders_for_one_split(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "Training", 1)
    write_classes(tmp_path / "train", 1)
    with pytest.raises(UserError, match="both hold the train split"):
        names(tmp_path)


def test_loose_images(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "d", 2) / "glioma"
    assert [path.name for path in list_loose_images(folder)] == ["0.png", "1.png"]
    assert list_loose_images(folder / "1.png") == [folder / "1.png"]
    with pytest.raises(UserError, match=r"images=.*nowhere: no such file or folder"):
        list_loose_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"images=.*: holds no image"):
        list_loose_images(tmp_path / "d")


def test_the_real_folders_hold_what_they_should(mri_root: Path) -> None:
    listing = listed(mri_root, CLASSES, {})
    folders = [file.folder for file in listing.files]
    assert (folders.count("train"), folders.count("test")) == (5708, 1311)
    assert [(path.name, why) for path, why in listing.ignored] == [(".ipynb_checkpoints", "hidden")]


def test_two_spellings_of_one_name_are_one_class(tmp_path: Path) -> None:
    """An accent composed, as most systems write it, and decomposed, as some archives from a Mac do."""
    for split, form in (("Training", "NFC"), ("Testing", "NFD")):
        folder = tmp_path / split / unicodedata.normalize(form, "José")  # type: ignore[arg-type]
        folder.mkdir(parents=True)
        (folder / "x.png").touch()
    composed = unicodedata.normalize("NFC", "José")
    for classes in (None, [composed], [unicodedata.normalize("NFD", "José")]):
        listing = listed(tmp_path, classes, {})
        assert len(listing.files) == 2
        assert {file.label for file in listing.files} == {0}
    assert listed(tmp_path, None, {}).classes == [composed]
    assert listed(tmp_path, ["Pepe"], {unicodedata.normalize("NFD", "José"): "Pepe"}).classes == ["Pepe"]


def test_names_that_cannot_be_shown_become_names_that_can(tmp_path: Path) -> None:
    for name in (os.fsdecode(b"caf\xe9"), "red\x1b[31m"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    listing = listed(tmp_path, None, {})
    assert listing.classes == ["caf\\udce9", "red\\x1b[31m"]
    assert len(listing.files) == 2


def test_names_too_long_for_files_named_after_them_are_refused(tmp_path: Path) -> None:
    (tmp_path / ("x" * 201)).mkdir()
    (tmp_path / ("x" * 201) / "x.png").touch()
    with pytest.raises(UserError, match="or is longer than 200 bytes; rename its folders"):
        listed(tmp_path, None, {})


def test_bytes_that_are_not_utf8_can_be_asked_for_and_are_not_taken_for_their_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).mkdir()
    (tmp_path / name / "x.png").touch()
    assert listed(tmp_path, [name], {}).classes == ["caf\\udce9"]
    (tmp_path / "caf\\udce9").mkdir()
    (tmp_path / "caf\\udce9" / "x.png").touch()
    with pytest.raises(UserError, match=r"the name of class caf\\udce9 is used twice"):
        listed(tmp_path, None, {})
