"""Tables, patterns, image files, containers and archives: what is found, with which class and patient."""

import io
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.data.importable import cutting, pictures
from vaegan_pl.errors import UserError
from vaegan_pl.importing import archives, containers, tables
from vaegan_pl.importing.containers import FigshareReader, MedMnistReader
from vaegan_pl.importing.flat import ImageReader
from vaegan_pl.importing.journal import Entry, Journal
from vaegan_pl.importing.labelling import Labelling, Source
from vaegan_pl.importing.listing import files_below, with_unpacked
from vaegan_pl.importing.scan import Choosing, sources
from vaegan_pl.importing.volumes import Found, LeftOut, LeftOutError

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def source(name: str, kind: str = "volume", **elements: Any) -> Source:
    return Source(name, "", lambda: iter([]), kind, **elements)


def labelling(**changes: Any) -> Labelling:
    nothing = dict.fromkeys(("table", "participants", "class_pattern", "patient_pattern", "class_name"))
    return Labelling(**{**nothing, "class_names": {}, **changes})


def known(by: Labelling, *found: Source) -> list[tuple[str, str]]:
    """Class and patient of each source."""
    labelled, _ = by(found, Path("in"))
    return [(one.label, one.patient) for one in labelled]


def table(path: Path, text: str, *columns: str | None, need_class: bool = True) -> tables.Table:
    path.write_text(text)
    return tables.read(path, "table", columns or (None, None, None), need_class)


def test_without_anything_else_the_first_folder_is_the_class() -> None:
    found = [source("glioma/a.nii.gz"), source("notumor/p7/t1/b.nii"), source("glioma/c.png", "image")]
    assert known(labelling(), *found) == [("glioma", "a"), ("notumor", "p7"), ("glioma", "")]


def test_split_folders_stay_split_folders() -> None:
    labelled, _ = labelling()([source("Training/a/x.nii"), source("test/b/y.nii")], Path("in"))
    assert [(one.split, one.label, one.patient) for one in labelled] == [("Training", "a", "x"), ("test", "b", "y")]
    with pytest.raises(
        UserError, match=r"test: cannot be the name of a class folder; rename it with '\+class_names=\{test:NAME\}'"
    ):
        labelling()([source("test/x.nii"), source("b/y.nii")], Path("in"))


def test_contrasts_of_one_patient_stay_together() -> None:
    found = [source(f"a/BraTS_001_{name}.nii.gz") for name in ("t1", "T1ce", "t2", "flair")]
    assert set(known(labelling(), *found)) == {("a", "BraTS_001")}


def test_subjects_of_bids_are_patients_and_never_classes(tmp_path: Path) -> None:
    participants = table(tmp_path / "p.tsv", "participant_id\tage\tgroup\nsub-01\t30\tpatient\nsub-02\t31\tcontrol\n")
    found = [source("sub-01/anat/sub-01_T1w.nii.gz"), source("sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz")]
    assert known(labelling(participants=participants), *found) == [("patient", "sub-01"), ("control", "sub-02")]
    with pytest.raises(
        UserError, match=r"no class is known \(sub-01/.*a patient's, not a class\); give table=FILE.csv"
    ):
        labelling()(found, Path("in"))


def test_a_table_names_files_folders_patients_or_series(tmp_path: Path) -> None:
    rows = "y12.jpg,yes,A\nscans/n1.nii.gz,no,B\nscans/two,no,C\n1.2.3,yes,\nsub-07,no,\n./x\\y.png,yes,D\n"
    by = labelling(table=table(tmp_path / "t.csv", f"file,label,patient\n{rows}"))
    found = [
        source("deep/y12.jpg", "image"),
        source("scans/n1.nii.gz"),
        source("scans/two/a/b.nii"),
        source("s/", "dicom", names=("1.2.3",), patient="p1"),
        source("sub-07/x.nii"),
        source("x/y.png", "image"),
    ]
    expected = [("yes", "A"), ("no", "B"), ("no", "C"), ("yes", "p1"), ("no", "sub-07"), ("yes", "D")]
    assert known(by, *found) == expected


def test_files_that_the_table_does_not_list_are_left_out(tmp_path: Path) -> None:
    by = labelling(table=table(tmp_path / "t.csv", "image;class\na.png;x\nb.png;n/a\n"))
    labelled, left_out = by([source(f"{name}.png", "image") for name in "abc"], Path("in"))
    assert [one.label for one in labelled] == ["x"]
    assert left_out == [
        LeftOut("b.png", "t.csv has no class for it (line 3)"),
        LeftOut("c.png", "t.csv does not list it"),
    ]


def test_a_patient_id_from_a_table_or_path_becomes_the_pseudonym(tmp_path: Path) -> None:
    series = source("MRN1/s/", "dicom", names=("1.2", "MRN1"), patient_id="MRN1", patient="p1")
    by = table(tmp_path / "t.csv", "patient,class\nMRN1,x\n")
    assert known(labelling(table=by), series) == [("x", "p1")]
    assert known(labelling(class_name="mri", patient_pattern="^([^/]+)"), series) == [("mri", "p1")]
    with pytest.raises(UserError, match="its folder is a patient's, not a class"):
        known(labelling(), series)


def test_patterns_find_classes_and_patients_in_names() -> None:
    by = labelling(class_pattern="(yes|no|Y|N)", patient_pattern=r"_p(\d+)", class_names={"Y": "yes", "N": "no"})
    found = [source(name, "image") for name in ("Y12_p3.jpg", "no5.jpg", "N7_p4.jpg")]
    assert known(by, *found) == [("yes", "3"), ("no", ""), ("no", "4")]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", (None, None, None), "has no rows below its header"),
        ("file,class\n", (None, None, None), "has no rows below its header"),
        ("file,colour\na,b\n", (None, None, None), "no column names classes; set class_column to one of file, colour"),
        ("a,b\n1,2\n", (None, "b", None), "no column names files or patients; set file_column to one of a, b"),
        ("a,b\n1,2\n", ("x", None, None), "file_column=x: .* has no such column; it has a, b"),
        ("file,class\na,x\na,y\n", (None, None, None), "line 3: says other things about a than line 2"),
        ("file,class\n,y\n", (None, None, None), "line 2: names no file or patient"),
        ('file,class\n"a,y\n', (None, None, None), "is not CSV"),
    ],
)
def test_wrong_tables_end_with_one_clear_message(
    tmp_path: Path, text: str, columns: tuple[str | None, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        table(tmp_path / "t.csv", text, *columns)


def test_a_file_name_in_a_table_must_name_one_file(tmp_path: Path) -> None:
    by = labelling(table=table(tmp_path / "t.csv", "file,class\na.png,x\n"))
    with pytest.raises(UserError, match=r"line 2: a.png names several files, such as p/a.png and q/a.png"):
        known(by, source("p/a.png", "image"), source("q/a.png", "image"))


@pytest.mark.parametrize("label", ["..", "test", "", "__x", "x" * 300])
def test_labels_that_cannot_be_folders_are_refused(label: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a class folder"):
        labelling().folder_of(label)


def test_labels_lead_nowhere_else_and_must_differ() -> None:
    assert labelling().folder_of("../a/b") == "_a_b"
    with pytest.raises(
        UserError, match=r"the classes No Tumor and no-tumor differ only in case.*\+class_names=\{no-tumor:No Tumor\}"
    ):
        known(labelling(), source("No Tumor/a.nii"), source("no-tumor/b.nii"))


def test_image_files_become_grey_and_16_bits_use_the_range_of_the_file(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "wide.png")
    red = Image.new("RGB", (9, 7), (255, 0, 0))
    red.putpixel((0, 0), (0, 0, 0))
    red.save(tmp_path / "red.png")
    low, high = np.percentile(RAMP, [0.5, 99.5])
    expected = (255 * ((RAMP - low) / (high - low)).clip(0, 1)).round()
    shown = pictures(ImageReader(tmp_path / "wide.png"))[""]
    np.testing.assert_allclose(shown, expected, atol=1)
    shown = pictures(ImageReader(tmp_path / "red.png"))[""]
    assert shown.shape == (7, 9)
    np.testing.assert_allclose(shown[1:], 0.299 * 255, atol=1)
    Image.new("L", (9, 7), 80).save(tmp_path / "flat.png")
    with pytest.raises(LeftOutError, match="has no contrast"):
        pictures(ImageReader(tmp_path / "flat.png"))
    for name, content, reason in (
        ("bad.png", b"\x89PNG", "cannot be read"),
        ("lfs.jpg", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; run git lfs pull"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LeftOutError, match=reason):
            pictures(ImageReader(tmp_path / name))


def medmnist(path: Path, shape: tuple[int, ...], labels: np.ndarray | None = None) -> dict[str, Any]:
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = random.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(shape[0])[:, None] % 3 if labels is None else labels
    np.savez_compressed(path, **arrays)
    return arrays


def test_medmnist_files_have_splits_and_labels(tmp_path: Path) -> None:
    arrays = medmnist(tmp_path / "x.npz", (5, 8, 6))
    assert containers.medmnist_splits(tmp_path / "x.npz") == ["train", "val", "test"]
    found: list[Any] = list(MedMnistReader(tmp_path / "x.npz", "val")())
    assert np.array_equal([picture.grey for picture in found], arrays["val_images"])
    assert [picture.label for picture in found] == ["0", "1", "2", "0", "1"]
    assert {picture.split for picture in found} == {"Validation"}
    medmnist(tmp_path / "rgb.npz", (2, 8, 6, 3))
    assert [picture.shape for picture in pictures(MedMnistReader(tmp_path / "rgb.npz", "train")).values()] == [
        (8, 6)
    ] * 2
    volumes = medmnist(tmp_path / "3d.npz", (2, 8, 8, 8))
    found = list(MedMnistReader(tmp_path / "3d.npz", "train")())
    assert np.array_equal([picture.grey for picture in found], volumes["train_images"].reshape(16, 8, 8))
    assert len({picture.patient for picture in found}) == 2


def test_other_npz_files_are_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=RAMP)
    (tmp_path / "y.npz").write_bytes(b"no zip")
    for name, reason in (("x", "no arrays train_images"), ("y", "cannot be read")):
        with pytest.raises(LeftOutError, match=reason):
            containers.medmnist_splits(tmp_path / f"{name}.npz")
    medmnist(tmp_path / "z.npz", (2, 8, 8), np.ones((2, 14), np.uint8))
    with pytest.raises(LeftOutError, match="there must be a number for each image"):
        pictures(MedMnistReader(tmp_path / "z.npz", "train"))
    medmnist(tmp_path / "o.npz", (2, 8, 8), np.array([{}, {}], dtype=object))
    with pytest.raises(LeftOutError):
        pictures(MedMnistReader(tmp_path / "o.npz", "train"))


def figshare_file(path: Path, label: float = 2.0, image: np.ndarray = RAMP) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("cjdata")
        group["image"] = image.T.astype(np.int16)  # MATLAB stores columns
        group["label"] = [[label]]
        group["PID"] = np.array([[ord(letter)] for letter in "MR0402"], np.uint16)
    return path


def test_figshares_files_have_labels_and_patients(tmp_path: Path) -> None:
    reader = FigshareReader(figshare_file(tmp_path / "1.mat"), cutting(lowest=0, highest=100))
    (picture,) = reader()
    assert picture.grey.ravel().tolist() == list(range(256))
    assert (picture.label, picture.patient) == ("glioma", "MR0402")


def test_other_mat_files_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v5.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with h5py.File(tmp_path / "link.mat", "w") as file:
        figshare_file(tmp_path / "other.mat")
        file.create_group("cjdata")["image"] = h5py.ExternalLink(str(tmp_path / "other.mat"), "cjdata/image")
    figshare_file(tmp_path / "label.mat", 7.0)
    for name, reason in (("v5", "not a MATLAB file"), ("link", "has no cjdata/image"), ("label", "label 7")):
        with pytest.raises(LeftOutError, match=reason):
            pictures(FigshareReader(tmp_path / f"{name}.mat", cutting()))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"reading MATLAB files needs h5py; pip install -e '.\[mat\]'"):
        sources([Found("label.mat", tmp_path / "label.mat")], Choosing([], None, None, None, cutting()))


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


PACKERS: list[Callable[[Path, dict[str, bytes]], Path]] = [zip_of, tar_of]


@pytest.mark.parametrize("pack", PACKERS)
def test_archives_are_unpacked(tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]) -> None:
    suffix = "zip" if pack is zip_of else "tar.gz"
    path = pack(tmp_path / f"x.{suffix}", {"top/a/1.png": b"1", "top/b/2.png": b"22", "__MACOSX/a/._1.png": b"0"})
    found = with_unpacked([Found(path.name, path)], tmp_path / "t", 10**6)
    assert [(file.name, file.path.read_bytes()) for file in found] == [("a/1.png", b"1"), ("b/2.png", b"22")]
    several = with_unpacked([Found(path.name, path), Found("y.png", path)], tmp_path / "u", 10**6)
    assert [file.name for file in several] == ["x/a/1.png", "x/b/2.png", "y.png"]


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out.png", "C:/out.png", "a\\..\\..\\out.png"])
def test_archives_cannot_write_elsewhere(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path], name: str
) -> None:
    path = pack(tmp_path / ("x.zip" if pack is zip_of else "x.tgz"), {"a/1.png": b"1", name: b"2"})
    with pytest.raises(UserError, match="would be written outside its folder"):
        archives.unpack(path, tmp_path / "t" / "u", 10**6)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


def test_archives_with_links_and_devices_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            member = tarfile.TarInfo("a/link")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        with pytest.raises(UserError, match="a/link is a link or a device"):
            archives.unpack(tmp_path / "x.tar", tmp_path / "t", 10**6)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        info = zipfile.ZipInfo("a/link")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="a/link is a link or a device"):
        archives.unpack(tmp_path / "x.zip", tmp_path / "t", 10**6)


@pytest.mark.parametrize("pack", PACKERS)
def test_sizes_are_checked_before_anything_is_unpacked(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path / ("x.zip" if pack is zip_of else "x.tgz"), {f"{i}": bytes(1000) for i in range(5)})
    with pytest.raises(UserError, match=r"holds . files of 0\.0 GB, more than most_gigabytes=4e-06 allows"):
        archives.unpack(path, tmp_path / "t", 4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    with pytest.raises(UserError, match="free some space"):
        archives.unpack(path, tmp_path / "t", 10**6)
    assert not any((tmp_path / "t").rglob("[0-9]"))


@pytest.mark.parametrize("pack", PACKERS)
def test_damaged_archives_end_with_one_message(tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]) -> None:
    path = pack(tmp_path / ("x.zip" if pack is zip_of else "x.tgz"), {"a/1": os.urandom(5000)})
    whole = path.read_bytes()
    for content in (whole[:2000], b"nonsense", whole[:1000] + bytes(100) + whole[1100:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x.\w+: is damaged or encrypted .*; unpack it by hand"):
            archives.unpack(path, tmp_path / str(len(content)) / str(hash(content)), 10**6)


def test_masks_and_other_files_are_named(tmp_path: Path) -> None:
    for name in (
        "a/x.png",
        "a/x_mask.png",
        "a/only_mask.png",
        "a/notes.txt",
        "a/.hidden.png",
        "a/s.nii",
        "a/s_seg.nii",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    zip_of(tmp_path / "a" / "in.zip", {})
    found, left_out, _ = sources(files_below(tmp_path), Choosing([], None, None, None, cutting()))
    assert [one.name for one in found] == ["a/only_mask.png", "a/s.nii", "a/x.png"]
    assert {part.name: part.reason for part in left_out} == {
        "a/in.zip": "an archive in an archive; unpack it by hand",
        "a/notes.txt": ".txt not an image",
        "a/s_seg.nii": "a mask, by its name",
        "a/x_mask.png": "a mask, by its name",
    }
    found, _, _ = sources(files_below(tmp_path), Choosing(["*.nii"], None, None, None, cutting()))
    assert [one.name for one in found] == ["a/s.nii"]


def test_the_journal_knows_what_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    journal = Journal(folder, {"plane": "axial"})
    journal.start()
    for stem in ("one", "two"):
        journal.begin(stem)
        (folder / f"{stem}-1.png").write_bytes(b"")
        if stem == "one":
            journal.finish(Entry(stem, "s", {f"{stem}-1.png": "p"}, [LeftOut("a", "b")]))
    with (folder / "imported.jsonl").open("a") as file:
        file.write('{"source": "two", "st')  # killed while it was written
    again = Journal(folder, {"plane": "axial"})
    assert again.done == {"one": Entry("one", "s", {"one-1.png": "p"}, [LeftOut("a", "b")])}
    assert [again.is_done("one", stamp) for stamp in "st"] == [True, False]
    again.begin("two")
    assert not (folder / "two-1.png").exists()
    (folder / "one-1.png").unlink()
    assert not again.is_done("one", "s")
    with pytest.raises(
        UserError, match=r"holds an import with another plane \(axial, now coronal\); import into a new"
    ):
        Journal(folder, {"plane": "coronal"})


def test_a_journal_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    line = '{"source": "a", "stamp": "s", "files": {"../../x.png": ""}, "left_out": []}'
    (tmp_path / "imported.jsonl").write_text(f'{{"options": {{}}}}\n{line}\n')
    with pytest.raises(UserError, match="is damaged; import into a new folder"):
        Journal(tmp_path, {})
