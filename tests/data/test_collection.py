"""From files on disk to splits: planted copies, leaks and the real data."""

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaegan_pl.data.collection import Collection, Splitting, collect
from vaegan_pl.data.phantoms import LESIONS, draw
from vaegan_pl.data.prepared import Decoding
from vaegan_pl.data.splits import SPLITS
from vaegan_pl.errors import UserError

from ..conftest import CLASSES, splitting_with
from ..figshare_table import one_fold_for_each_person
from .test_dicom import slice_file

Write = Callable[..., Path]
DECODING = Decoding(
    image_size=16,
    aspect_ratio="pad",
    white=65535,
    range="fixed",
    near_copy_correlation=0.99,
    registered_correlation=None,
    search="exhaustive",
)
GROUP = splitting_with()
OFFICIAL = splitting_with(by="official")


def collected(
    root: Path, splitting: Splitting = GROUP, classes: list[str] | None = CLASSES, max_unreadable: float = 0.0
) -> Collection:
    return collect(root, classes, {}, None, "drop", DECODING, splitting, max_unreadable, root.parent / "cache")


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    """Training and Testing folders of ten phantoms a class, where every testing image is planted from training ones.

    glioma: a byte copy and a mirrored one; meningioma: a re-encoded one; notumor: one turned by 180 degrees, and one of
    meningioma's slices under a second label; pituitary: one that is new.
    """
    root = tmp_path / "leaky"
    for name in LESIONS:
        for i in range(10):
            save(draw(name, np.random.default_rng([i, len(name)])), root / "Training" / name / f"{i}.png")
    training, testing = root / "Training", root / "Testing"
    (testing / "glioma").mkdir(parents=True)
    shutil.copy(training / "glioma" / "3.png", testing / "glioma" / "copy.png")
    save(np.fliplr(np.asarray(Image.open(training / "glioma" / "4.png"))), testing / "glioma" / "mirrored.png")
    (testing / "meningioma").mkdir()
    Image.open(training / "meningioma" / "5.png").save(testing / "meningioma" / "again.jpg", quality=50)
    save(np.rot90(np.asarray(Image.open(training / "notumor" / "6.png")), 2), testing / "notumor" / "turned.png")
    shutil.copy(training / "meningioma" / "7.png", testing / "notumor" / "second_label.png")
    save(draw("pituitary", np.random.default_rng(99)), testing / "pituitary" / "new.png")
    return root


def test_planted_copies_never_cross(leaky: Path) -> None:
    collection = collected(leaky)
    assert collection.leaking == {"validation": [], "test": []}
    kept = {name: {collection.name(i) for i in collection.split.images(name)} for name in SPLITS}
    assert [[collection.name(i) for i in group] for group in collection.split.conflicts] == [
        ["Testing/notumor/second_label.png", "Training/meningioma/7.png"]
    ]
    assert len(collection.split.dropped) == 4
    groups = {"glioma": 10, "meningioma": 9, "notumor": 10, "pituitary": 11}
    assert {name: sum(collection.counts(split)[name] for split in SPLITS) for name in CLASSES} == groups
    assert {name: len(kept[name]) for name in SPLITS} == {"train": 24, "validation": 8, "test": 8}
    summary = "\n".join(collection.summary())
    assert "left out   near-copies 4, images with a copy under another label 2" in summary
    assert "LEAKS" not in summary


def test_the_official_split_is_kept_and_its_leaks_are_told(leaky: Path) -> None:
    collection = collected(leaky, OFFICIAL)
    assert [len(collection.split.images(name)) for name in SPLITS] == [40, 6, 6]
    leaking = {collection.name(i).removeprefix("Testing/") for i in collection.leaking["test"]}
    assert leaking == {
        "glioma/copy.png",
        "glioma/mirrored.png",
        "meningioma/again.jpg",
        "notumor/turned.png",
        "notumor/second_label.png",
    }
    summary = [line for line in collection.summary() if "LEAKS" in line]
    assert len(summary) == 1
    assert "5 of 6 test images (83%) have a near-copy among the training images" in summary[0]


def test_the_official_split_needs_one(tmp_path: Path, write_classes: Write) -> None:
    with pytest.raises(UserError, match=r"data\.split=official: .* has no Testing or validation folder"):
        collected(write_classes(tmp_path / "d", 5), OFFICIAL)


def test_a_patient_is_never_in_two_splits(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 30)
    for path in list(root.rglob("*.png")):
        path.rename(path.with_name(f"P{int(path.stem) % 10}-{path.parent.name[0]}_{path.name}"))
    by_patient = replace(GROUP, patient=r"/(P\d-\w)_")
    collection = collected(root, by_patient)
    whose = {split: {collection.name(i)[:-4].split("_")[0] for i in collection.split.images(split)} for split in SPLITS}
    assert [len(whose[split]) for split in SPLITS] == [24, 8, 8]
    assert len(set.union(*whose.values())) == 40
    assert [len(collection.split.images(split)) for split in SPLITS] == [72, 24, 24]
    with pytest.raises(UserError, match=r"data\.patient=\(Q\): matches no patient in glioma/P0-g_0.png"):
        collected(root, replace(GROUP, patient="(Q)"))


def volume(seed: int, slices: int) -> list[np.ndarray]:
    """Slices of a smooth random volume: neighbours are alike, far ones are not."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (1 + slices // 24, 8, 8))
    places = np.linspace(0, len(coarse) - 1.001, slices)
    fine = [(1 - p % 1) * coarse[int(p)] + (p % 1) * coarse[min(int(p) + 1, len(coarse) - 1)] for p in places]
    return [np.asarray(Image.fromarray(each.astype(np.uint8)).resize((64, 64))) for each in fine]


def test_slices_of_a_volume_are_kept_if_patients_are_known(tmp_path: Path) -> None:
    root, classes = tmp_path / "d", ["a", "b"]
    for seed in range(10):
        for i, pixels in enumerate(volume(seed, 48)):
            save(pixels, root / classes[seed % 2] / f"v{seed}_{i:02d}.png")
    unknown = collected(root, classes=classes)
    assert [len(unknown.split.images(name)) for name in SPLITS] == [6, 2, 2]  # chains join whole volumes
    assert [warning.split(":")[0] for warning in unknown.warnings][:2] == classes
    for options in ({"patient": r"(v\d)_"}, {"patients": str(tmp_path / "patients.csv")}):
        rows = [f"{path.name},{path.name[:2]}" for path in sorted(root.rglob("*.png"))]
        (tmp_path / "patients.csv").write_text("\n".join(["file,patient", *rows]))
        collection = collected(root, splitting_with(**options), classes)
        whose = {name: {collection.name(i)[2:4] for i in collection.split.images(name)} for name in SPLITS}
        assert [len(whose[name]) for name in SPLITS] == [6, 2, 2]
        assert [len(collection.split.images(name)) for name in SPLITS] == [6 * 48, 2 * 48, 2 * 48]
        assert collection.split_by == "10 patients, 48 images each"
        assert collection.warnings == []
    assert collection.splitting.facts["patients"] == "patients.csv"


def test_lost_slices_chains_and_augmented_files_are_warned_of(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 10, ["a", "b"])
    for i, pixels in enumerate(volume(0, 48)):
        save(pixels, root / "a" / f"v_{i:02d}.png")
    for i in range(10):
        save(np.rot90(np.asarray(Image.open(root / "b" / f"{i}.png"))), root / "b" / f"{i}_rot90.png")
    collection = collected(root, classes=["a", "b"])
    lost, chain, augmented = collection.warnings
    assert lost.startswith("a: only 11 of 58 images are kept")
    assert "data.patients" in lost
    assert "1 groups of near-copies are chains" in chain
    assert "20 files look like augmentations" in augmented
    assert "b/0.png and b/0_rot90.png; data.families=true" in augmented
    assert "not of new patients" in collection.split_by
    together = collected(root, splitting_with(families=True), ["a", "b"])
    whose = [
        {together.name(i)[2] for i in together.split.images(name) if together.name(i)[0] == "b"} for name in SPLITS
    ]
    assert [len(each) for each in whose] == [6, 2, 2]
    assert len(set().union(*whose)) == 10
    own = collected(root, splitting_with(patient=r"(.*)\."), ["a", "b"])
    assert "every image has a patient of its own" in own.warnings[0]


def test_dicom_patients_stay_together_and_their_ids_are_not_kept(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 4096, (20, 20), dtype=np.uint16)
            slice_file(tmp_path / "d" / name / f"{i}.dcm", pixels, PatientID=f"Smith-{name}-{i // 4}")
    collection = collected(tmp_path / "d", splitting_with(fold=2))
    for name in CLASSES:
        of = [{int(collection.name(i)[:-4].split("/")[1]) // 4 for i in collection.split.images(split)
               if collection.name(i).startswith(name)} for split in SPLITS]  # fmt: skip
        assert [len(each) for each in of] == [3, 1, 1]
        assert len(set().union(*of)) == 5
    assert collection.split_by.startswith("20 patients, 4 images each; fold 2 tests, fold 3 validates")
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert b"Smith" not in kept
    assert not any("Smith" in patient for patient in collection.patients.of)
    anonymous = tmp_path / "d" / CLASSES[0] / "0.dcm"
    for path in (tmp_path / "d").rglob("*.dcm"):
        slice_file(path, random.integers(0, 4096, (20, 20), dtype=np.uint16), PatientID="ANONYMOUS")
    assert anonymous.exists()
    assert collected(tmp_path / "d").patients.source == ""


def test_the_fingerprint_is_of_pixels_and_classes(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 5)
    same = tmp_path / "same" / "e"
    shutil.copytree(root, same)
    for path in same.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    assert collected(same).fingerprint() == collected(root).fingerprint()
    moved = tmp_path / "moved" / "f"
    shutil.copytree(root, moved)
    (moved / "glioma" / "0.png").rename(moved / "notumor" / "9.png")
    assert collected(moved).fingerprint() != collected(root).fingerprint()


def test_what_has_no_meaning_for_the_official_split_is_refused(leaky: Path) -> None:
    without_effect: dict[str, Any] = {"copies": "weight", "patient": "(x)", "patients": "x.csv", "fold": 1}
    for name, value in without_effect.items():
        with pytest.raises(UserError, match=rf"data\.split=official: .*data\.{name}\b.* no effect"):
            collected(leaky, replace(OFFICIAL, **{name: value}))


def test_classes_and_their_order_do_not_matter_to_the_cache(
    tmp_path: Path, write_classes: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_classes(tmp_path / "d", 5)
    before = collected(root)
    monkeypatch.setattr("vaegan_pl.data.prepared.read_file", None)
    after = collected(root, classes=CLASSES[::-1])
    assert after.fingerprint() == before.fingerprint()
    assert [after.listing.classes[label] for label in after.labels] == [
        before.listing.classes[label] for label in before.labels
    ]


def test_any_set_of_classes_will_do(tmp_path: Path, write_classes: Write) -> None:
    collection = collected(write_classes(tmp_path / "d", 5, ["stroke", "ms"]), classes=None)
    assert collection.listing.classes == ["ms", "stroke"]
    assert collection.counts("train") == {"ms": 3, "stroke": 3}
    assert collected(write_classes(tmp_path / "one", 5, ["a"]), classes=["a"]).counts("test") == {"a": 1}


def test_a_class_with_too_few_different_images(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 3)
    shutil.copy(root / "glioma" / "0.png", root / "glioma" / "1.png")
    with pytest.raises(UserError, match=r"d: the 2 different images of glioma leave none for train, with .*add images"):
        collected(root)


def test_too_many_unreadable_files_are_an_error_that_names_them(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 5)
    (root / "glioma" / "2.png").write_bytes(b"no image")
    assert len(collected(root, max_unreadable=0.05).prepared.unreadable) == 1
    with pytest.raises(UserError, match=r"1 of 20 image files cannot be read, more than .*=0.04(.|\n)*2.png: "):
        collected(root, max_unreadable=0.04)


def test_a_class_without_one_readable_image_is_an_error(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 5)
    for image in (root / "notumor").iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(UserError, match="the 0 different images of notumor leave none"):
        collected(root, max_unreadable=1.0)


@pytest.fixture(scope="module")
def real(mri_root: Path, mri_cache: Path) -> Collection:
    splitting = splitting_with(validation_fraction=0.1, test_fraction=0.1, copies="weight")
    return collect(
        mri_root,
        CLASSES,
        {},
        None,
        "drop",
        Decoding(64, "pad", 65535, "fixed", 0.99, None, "exhaustive"),
        splitting,
        0.0,
        mri_cache,
    )


def test_no_group_of_the_real_data_crosses_splits(real: Collection) -> None:
    in_groups = {name: set(real.groups[real.split.images(name)].tolist()) for name in SPLITS}
    assert not in_groups["train"] & in_groups["validation"]
    assert not in_groups["train"] & in_groups["test"]
    assert not in_groups["validation"] & in_groups["test"]
    assert real.leaking == {"validation": [], "test": []}
    # No pair of near-copies either, without the union into groups.
    where = np.full(len(real.groups), -1)
    for i, name in enumerate(SPLITS):
        where[real.split.images(name)] = i
    a, b = where[real.prepared.pairs.first], where[real.prepared.pairs.second]
    assert ((a == b) | (a < 0) | (b < 0)).all()


@pytest.mark.parametrize("fold", [None, 3])
def test_the_public_set_is_split_by_its_authors_folds(mri_root: Path, mri_cache: Path, fold: int | None) -> None:
    """The folds are those of the table that came with the slices, not of the one in the package."""
    table = Path(os.environ.get("VAEGAN_MRI_PATIENTS", mri_root.parent / "brain-tumor-mri-patients.csv"))
    if not table.exists():
        pytest.skip(f"{table} is not there; set VAEGAN_MRI_PATIENTS")
    with table.open(newline="") as file:
        listed = list(csv.DictReader(file))
    one_fold_for_each_person(listed)
    rows = {row["path"]: row for row in listed}
    decoding = Decoding(64, "pad", 65535, "fixed", 0.99, 0.97, "exhaustive")
    collection = collect(
        mri_root, CLASSES, {}, None, "drop", decoding, splitting_with(published=True, fold=fold), 0.0, mri_cache
    )
    test = fold or 0
    for name, folds in {
        "test": {test},
        "validation": {(test + 1) % 5},
        "train": {(test + i) % 5 for i in (2, 3, 4)},
    }.items():
        found = [rows[path] for i in collection.split.images(name) if (path := collection.name(i)) in rows]
        assert {int(row["cheng_fold"]) - 1 for row in found} == folds
        assert len(found) > 400
    whose = [{rows[p]["patient"] for i in collection.split.images(name) if (p := collection.name(i)) in rows} - {""}
             for name in SPLITS]  # fmt: skip
    assert len(set().union(*whose)) == sum(map(len, whose)) > 150
    assert collection.split_by.startswith("patients: 4,750 images are slices of Cheng et al.")


def test_the_real_data_has_the_known_groups_and_conflicts(real: Collection) -> None:
    """The dataset's published measurement: 3,628 groups; four slices under two labels."""
    assert len(np.unique(real.groups)) == 3628
    assert {frozenset(Path(real.name(i)).stem for i in group) for group in real.split.conflicts} == {
        frozenset({"Tr-me_0831", "Tr-pi_0520"}),
        frozenset({"Tr-me_0942", "Tr-pi_0515"}),
        frozenset({"Tr-me_1311", "Tr-pi_0043"}),
        frozenset({"Te-me_0156", "Te-piTr_0002"}),
    }
    for name in CLASSES:
        counts = [real.counts(split)[name] for split in SPLITS]
        assert counts[1] == counts[2] == round(sum(counts) / 10)
