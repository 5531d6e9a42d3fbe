"""Messages about folders that do not fit, and the fixes they name, which are carried out."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from vaegan_pl.data.folders import UNCLEAR, Listing, list_images
from vaegan_pl.errors import UserError

from ..conftest import CLASSES
from .test_dicom import slice_file

Write = Callable[..., Path]


def listed(root: Path, classes: list[str] | None = CLASSES, aliases: dict[str, str] | None = None) -> Listing:
    return list_images(root, classes, aliases or {}, exclude=None, masks="drop")


def refused(root: Path, classes: list[str] | None = CLASSES) -> str:
    with pytest.raises(UserError) as raised:
        listed(root, classes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def with_advice(root: Path, message: str, classes: list[str] | None = CLASSES) -> Listing:
    """List the images with the `data` options of a message, parsed as a shell and Hydra do."""
    config = OmegaConf.create({"data": {"root": str(root), "classes": classes, "aliases": {}}})
    options = [word for word in shlex.split(message.replace("; ", " ")) if re.match(r"\+?data\.\w+[.\w]*=", word)]
    assert options
    for override in OverridesParser.create().parse_overrides(options):
        key = override.key_or_group
        assert override.is_add() == key.startswith("data.aliases.")
        OmegaConf.update(config, key, override.value(), force_add=True)
    found = OmegaConf.to_container(config.data)
    assert isinstance(found, dict)
    return listed(Path(found["root"]), found["classes"], found["aliases"])


@pytest.mark.parametrize("below", ["brain data", "one/two"])
@pytest.mark.parametrize("classes", [CLASSES, None])
def test_class_folders_deeper_than_expected(
    tmp_path: Path, write_classes: Write, below: str, classes: list[str] | None
) -> None:
    write_classes(tmp_path / "d" / below / "Training", 1)
    message = refused(tmp_path / "d", classes)
    assert f"the class folders are in {tmp_path / 'd' / below}; use " in message
    assert len(with_advice(tmp_path / "d", message, classes).files) == 4


def test_folders_with_the_same_classes_are_not_chosen_between(tmp_path: Path, write_classes: Write) -> None:
    for name in ("hospital A", "hospital B"):
        write_classes(tmp_path / "d" / name, 1)
    message = refused(tmp_path / "d")
    assert "several folders contain class folders (hospital A, hospital B)" in message
    assert len(with_advice(tmp_path / "d", message).files) == 4
    (tmp_path / "d" / "hospital A").rename(tmp_path / "d" / "Training")
    (tmp_path / "d" / "hospital B").rename(tmp_path / "d" / "Testing")
    assert len(listed(tmp_path / "d").files) == 8


def test_split_folders_doubled_by_unpacking(tmp_path: Path, write_classes: Write) -> None:
    for name in ("Training", "Testing"):
        write_classes(tmp_path / name / name, 1)
    assert [file.folder for file in listed(tmp_path).files] == ["test"] * 4 + ["train"] * 4


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("dev", "validation"),
        ("valid", "validation"),
        ("traindata", "train"),
        ("train_set", "train"),
        ("testing_set", "test"),
        ("Test Images", "test"),
        ("images_val", "validation"),
    ],
)
def test_other_names_of_splits(tmp_path: Path, write_classes: Write, name: str, split: str) -> None:
    write_classes(tmp_path / name, 1, ["a", "b"])
    if split != "train":
        write_classes(tmp_path / "train", 1, ["a", "b"])
    assert {file.folder for file in listed(tmp_path, ["a", "b"]).files} == {"train", split}


def test_a_split_is_known_by_a_hint_in_its_name_and_the_same_classes(tmp_path: Path, write_classes: Write) -> None:
    for name in ("train", "my_test_2021", "augmented"):
        write_classes(tmp_path / name, 1, ["a", "b"])
    (tmp_path / "test_scripts").mkdir()
    listing = listed(tmp_path, ["a", "b"])
    assert [file.folder for file in listing.files] == ["test", "test", "train", "train"]
    assert dict(listing.ignored) == {
        tmp_path / "augmented": UNCLEAR,
        tmp_path / "test_scripts": "not in a split folder",
    }


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path, write_classes: Write) -> None:
    assert len(listed(write_classes(tmp_path, 1, ["dev", "other"]), ["dev", "other"]).files) == 2


@pytest.mark.parametrize(
    ("folders", "option"),
    [
        (["gliomas", "meningoma", "notumor", "pituitary"], "+data.aliases.gliomas=glioma"),
        (["1_glioma", "meningioma", "notumor", "pituitary"], "rename 1_glioma to glioma"),
        (["glioma", "meningioma", "no tumors", "pituitary"], "+data.aliases.no_tumors=notumor"),
    ],
)
def test_folders_with_similar_names(tmp_path: Path, write_classes: Write, folders: list[str], option: str) -> None:
    root = write_classes(tmp_path / "d", 1, folders)
    message = refused(root)
    assert option in message
    if option.startswith("rename"):
        (root / "1_glioma").rename(root / "glioma")
        assert len(listed(root).files) == 4
    else:
        assert len(with_advice(root, message).files) == 4


def test_folders_of_other_classes(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 1, ["yes", "no", "not sure (2)"])
    message = refused(root)
    assert "there are no, not sure (2), yes" in message
    assert with_advice(root, message).classes == ["no", "not sure (2)", "yes"]


def test_loose_images(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "my data", 3, ["all slices"]) / "all slices"
    for classes in (CLASSES, None):
        message = refused(folder, classes)
        assert f"3 images are in {folder} itself" in message
        assert len(with_advice(folder, message, classes).files) == 3
    write_classes(tmp_path / "d", 2)
    message = refused(tmp_path / "d" / "glioma")
    assert "it seems to be one of the class folders" in message
    assert len(with_advice(tmp_path / "d" / "glioma", message).files) == 8


def test_images_deeper_in_a_class_folder(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 1)
    write_classes(root / "glioma", 2, ["patient 1", "patient 2"])
    (root / "glioma" / "0.png").unlink()
    message = refused(root)
    assert "glioma: holds no image itself (2 folders); its images are deeper, such as" in message
    for image in list(root.glob("glioma/*/*.png")):
        shutil.move(image, root / "glioma" / f"{image.parent.name}_{image.name}")
    assert len(listed(root).files) == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("d.rar", "is an archive; unpack it and set data.root to the new folder"),
        ("d.nrrd", "is a volume; convert it to NIfTI, and then use python -m vaegan_pl.import_images"),
    ],
)
def test_files_that_the_import_does_not_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).touch()
    assert refused(tmp_path / name) == f"data.root={tmp_path / name}: {message}"


@pytest.mark.parametrize("name", ["d.zip", "d.tar", "d.tar.gz"])
def test_an_archive_as_root(tmp_path: Path, name: str, write_classes: Write) -> None:
    (tmp_path / name).touch()
    assert refused(tmp_path / name) == (
        f"data.root={tmp_path / name}: is an archive; unpack it and set data.root to the new folder, or use "
        f"python -m vaegan_pl.import_images from={tmp_path / name} to=NEW_FOLDER"
    )
    kind = {"d.zip": "zip", "d.tar": "tar", "d.tar.gz": "gztar"}[name]
    shutil.make_archive(str(tmp_path / "d"), kind, write_classes(tmp_path / "there", 1))
    shutil.unpack_archive(tmp_path / name, tmp_path / "unpacked")
    assert len(listed(tmp_path / "unpacked").files) == 4


def test_volumes_and_dicom_files_without_suffix(tmp_path: Path) -> None:
    for folder, name in (("nifti", "scan.nii.gz"), ("dicom", "IM0001"), ("zipped", "a.zip")):
        (tmp_path / folder / "sub-01").mkdir(parents=True)
        path = tmp_path / folder / "sub-01" / name
        slice_file(path) if folder == "dicom" else path.touch()
        command = f"python -m vaegan_pl.import_images from={tmp_path / folder} to=NEW_FOLDER"
        assert command in refused(tmp_path / folder, None)
        assert command in refused(tmp_path / folder)
    assert "DICOM files without the suffix .dcm, such as" in refused(tmp_path / "dicom")


def test_what_is_there_is_counted_by_kind(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 1)
    (root / "glioma" / "0.png").unlink()
    for i in range(12):
        (root / "glioma" / f"{i}.txt").touch()
    for name in ("x", "y", "z"):
        (root / "glioma" / name).mkdir()
    (root / "glioma" / "notes").touch()
    assert "but 12 .txt, 3 folders, 1 file without suffix; add some" in refused(root)


def test_a_folder_that_cannot_be_opened_is_left_out(
    tmp_path: Path, write_classes: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_classes(tmp_path / "d", 1, ["a", "b", "lost+found"])
    iterdir = Path.iterdir

    def protected(self: Path) -> object:
        if self.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", protected)
    for classes in (["a", "b"], None):
        listing = listed(root, classes)
        assert len(listing.files) == 2
    assert listing.ignored == [(root / "lost+found", "cannot be opened")]
    with pytest.raises(PermissionError):
        listed(root, ["a", "lost+found"])


@pytest.mark.parametrize("split", ["", "train"])
def test_images_and_labels_are_not_classes(tmp_path: Path, write_classes: Write, split: str) -> None:
    write_classes(tmp_path / "d" / split, 2, ["images", "labels"])
    message = refused(tmp_path / "d", None)
    assert "labels looks like masks or labels" in message
    assert with_advice(tmp_path / "d", message, None).classes == ["images"]


def test_patients_are_not_classes(tmp_path: Path, write_classes: Write) -> None:
    patients = [f"sub-{i:02d}" for i in range(8)]
    root = write_classes(tmp_path / "d", 1, patients)
    message = refused(root, None)
    assert "these 8 look like patients (sub-00, sub-01" in message
    assert f"python -m vaegan_pl.import_images from={root} to=NEW_FOLDER" in message
    assert listed(root, patients).classes == patients
    names = [chr(ord("a") + i // 6) + chr(ord("k") + i % 6) for i in range(30)]
    assert "look like patients" in refused(write_classes(tmp_path / "e", 1, names), None)
    for splits in ("train", "test"):
        write_classes(tmp_path / "f" / splits, 1, names)
    assert len(listed(tmp_path / "f", None).classes) == 30
    grades = [f"grade{i}" for i in range(9)]
    assert listed(write_classes(tmp_path / "g", 1, grades), None).classes == grades
