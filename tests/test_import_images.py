"""The import_images command, and a lab's whole way from volumes to a trained model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SMALL
from tests.data.importable import phantom, save_nifti, save_series
from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.import_images import import_images
from vaegan_pl.cli.inspect_data import inspect_data
from vaegan_pl.cli.train import train
from vaegan_pl.importing import writer

Run = Callable[..., str | None]

NOISE = 4000
"""So that slices of two patients are no near-copies."""


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def contents(folder: Path, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """All files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in without]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def volumes(root: Path) -> Path:
    """Three patients in each of two classes."""
    for i in range(6):
        save_nifti(root / ("tumour", "healthy")[i % 2] / f"s{i}.nii.gz", phantom((20, 24, 18), i, NOISE), "LPS")
    return root


def test_volumes_become_class_folders_with_patients_a_sheet_and_a_report(
    run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    volumes(Path("in"))
    Path("in/tumour/broken.nii.gz").write_bytes(b"damaged")
    Path("in/tumour/notes.txt").write_text("left out, too")
    assert run_command(import_images, "import_images", "from=in", "to=out", "every=3") is None
    printed = capsys.readouterr().out
    assert "imported     36 slices, 6 patients" in printed
    assert "  tumour: 18 slices of 3 patients" in printed
    assert (
        "left out     2 files or series: 1 .txt not an image; 1 cannot be read; see out/import_report.json" in printed
    )
    report = json.loads(Path("out/import_report.json").read_text())
    assert report["classes"] == {name: {"slices": 18, "patients": 3} for name in ("healthy", "tumour")}
    assert [part["name"] for part in report["left_out"]] == ["tumour/notes.txt", "tumour/broken.nii.gz"]
    lines = Path("out/patients.csv").read_text().splitlines()
    assert lines[0] == "path,patient"
    assert {line.split(",")[1] for line in lines[1:]} == {f"s{i}" for i in range(6)}
    assert {line.split(",")[0] for line in lines[1:]} == {name for name in contents(Path("out")) if "/" in name}
    with Image.open("out/contact_sheet.png") as sheet:
        assert sheet.width == 8 * 130 + 2
    with Image.open(next(Path("out/tumour").iterdir())) as picture:
        assert (picture.mode, picture.size) == ("L", (20, 24))


@pytest.mark.parametrize("stop", [2, 60])
def test_an_interrupted_import_ends_with_the_same_files(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    volumes(Path("in"))
    assert run_command(import_images, "import_images", "from=in", "to=whole") is None
    save, left = writer._save, iter(range(stop))

    def failing(*arguments: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "_save", failing)
    assert run_command(import_images, "import_images", "from=in", "to=out", "workers=1") == "130"
    monkeypatch.setattr(writer, "_save", save)
    Path("out/healthy").mkdir(exist_ok=True)
    message = run_command(inspect_data, "inspect_data", "data.root=out", "data.classes=null")
    assert "out: its import has not finished; run the same import_images command again" in str(message)
    assert run_command(import_images, "import_images", "from=in", "to=out") is None
    assert contents(Path("out"), ("imported.jsonl",)) == contents(Path("whole"), ("imported.jsonl",))


def test_a_second_call_does_nothing_and_changed_sources_are_imported_again(
    run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    volumes(Path("in"))
    command = ["from=in", "to=out"]
    assert run_command(import_images, "import_images", *command) is None
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*-axial-*.png")}
    assert run_command(import_images, "import_images", *command) is None
    assert "continued    6 files or series were finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*-axial-*.png")} == before
    save_nifti(Path("in/tumour/s0.nii.gz"), phantom((20, 24, 10), 9), "LPS")
    Path("in/tumour/s2.nii.gz").unlink()
    assert run_command(import_images, "import_images", *command) is None
    assert run_command(import_images, "import_images", "from=in", "to=fresh") is None
    assert contents(Path("out"), ("imported.jsonl",)) == contents(Path("fresh"), ("imported.jsonl",))


def test_no_patient_id_or_name_is_written_or_printed(run_command: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        folder = Path("in", "ab"[i], f"MRN-471{i}", "study")
        save_series(folder, phantom((20, 24, 6), i), PatientID=f"MRN-471{i}", PatientName="Doe^Jane")
        (folder / "IM0003").write_bytes((folder / "IM0003").read_bytes()[:-9])
        (folder / "report.pdf").write_bytes(b"")
    assert run_command(import_images, "import_images", "from=in", "to=out") is None
    written = contents(Path("out"))
    assert len([name for name in written if name.count("/")]) == 10
    everything = " ".join(written) + capsys.readouterr().out
    for secret in ("MRN-471", "4710", "Doe", "Jane"):
        assert secret.lower() not in everything.lower()
        assert all(secret.lower().encode() not in content.lower() for content in written.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["to=out"], "from is not set; add from=VALUE"),
        (["from=nowhere", "to=out"], "from=nowhere: no such file or folder"),
        (["from=in", "to=in"], "to=in: is the folder that is imported"),
        (["from=in", "to=full"], "to=full: is not empty, and holds no import to continue"),
        (["from=in/tumour", "to=out"], "no class is known (s0.nii.gz: it is in no class folder); give table=FILE.csv"),
        (
            ["from=in", "to=out", "plane=oblique"],
            "plane=oblique: must be one of acquired, axial, coronal, sagittal, all",
        ),
        (["from=in", "to=out", "slices=[0.5]"], "slices=[0.5]: must be two numbers from 0 to 1"),
        (["from=in", "to=out", "percentiles=[9,2]"], "percentiles=[9, 2]: the first number must be smaller"),
        (["from=in", "to=out", "every=0"], "every=0: must be a whole number of at least 1"),
        (["from=in", "to=out", "class_pattern=x"], "class_pattern=x: must contain a group"),
        (["from=in", "to=out", "class_pattern='('"], "class_pattern=(: is not a regular expression"),
        (["from=in", "to=out", "table=no.csv"], "table=no.csv: no such file"),
        (["from=in", "to=out", "class_column=x"], "class_column=x: there is no table"),
        (["from=in", "to=out", "include=['*.dcm']"], "nothing could be imported (6 not in include)"),
        (["from=empty", "to=out"], "from=empty: nothing could be imported (it holds no files)"),
        (["from=in", "to=out", "empty=1.5"], "empty=1.5: must be a number of at least 0 and below 1"),
    ],
)
def test_mistakes_end_with_one_clear_message_and_leave_nothing(
    run_command: Run, options: list[str], message: str
) -> None:
    volumes(Path("in"))
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/mine.txt").write_text("kept")
    found = str(run_command(import_images, "import_images", *options))
    assert message in found
    assert "\n" not in found
    assert [path.name for path in Path().iterdir() if path.name == "out" and any(path.rglob("*.png"))] == []
    assert contents(Path("full")) == {"mine.txt": b"kept"}


def test_other_options_are_refused(run_command: Run) -> None:
    volumes(Path("in"))
    assert run_command(import_images, "import_images", "from=in", "to=out", "every=6") is None
    message = run_command(import_images, "import_images", "from=in", "to=out", "every=3")
    assert "to=out: holds an import with another every (6, now 3); import into a new folder" in str(message)
    assert "another from; import" in str(
        run_command(import_images, "import_images", "from=in/tumour", "to=out", "every=6")
    )


def test_an_archive_is_imported_and_its_unpacked_files_are_removed(run_command: Run) -> None:
    volumes(Path("in/data"))
    shutil.make_archive("packed", "zip", "in")
    assert run_command(import_images, "import_images", "from=packed.zip", "to=out", "every=6") is None
    assert run_command(import_images, "import_images", "from=in/data", "to=plain", "every=6") is None
    pictures = [name for name in contents(Path("out")) if "/" in name]
    assert pictures == [name for name in contents(Path("plain")) if "/" in name] or len(pictures) == 18
    assert not any(path.name.startswith(".") for path in Path("out").iterdir())


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_a_labs_whole_way(run_command: Run, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Six patients are imported by a table, inspected and trained on; no patient is in two splits."""
    rows = ["patient,diagnosis"]
    for i in range(6):
        name, shape = f"sub-0{i}", (32, 36, 20)
        rows.append(f"{name},{('tumour', 'healthy')[i % 2]}")
        if kind == "nifti":
            save_nifti(Path("in", name, "anat", f"{name}_T1w.nii.gz"), phantom(shape, i, NOISE), "PIR")
        else:
            elements: dict[str, Any] = {"PatientID": name, "StudyInstanceUID": f"1.2.{i}"}
            save_series(Path("in", name, "study", "T1"), phantom(shape, i, NOISE), **elements)
    Path("classes.csv").write_text("\n".join(rows))
    options = ["from=in", "to=out", "table=classes.csv", "plane=axial", "slices=[0.2,0.8]", "every=2"]
    assert run_command(import_images, "import_images", *options) is None
    data = ["data=mri", "data.root=out", "data.classes=null"]
    shares = ["data.validation_fraction=0.34", "data.test_fraction=0.33"]
    assert run_command(inspect_data, "inspect_data", *data, *shares) is None
    printed = capsys.readouterr().out
    assert "patients are those of out/patients.csv, which import_images wrote" in printed
    assert "split by   6 patients, 6 images each" in printed
    small = [*SMALL, "data.batch_size=4", "trainer.max_epochs=1", "logger=none", "+trainer.limit_train_batches=2"]
    assert run_command(train, "train", *data, *shares, *small, "hydra.run.dir=run") is None
    assert Path("run/vae_gan_model.pth").exists()
    report = json.loads(Path("outputs/data_report/data_report.json").read_text())
    assert report["classes"]["all"]["images"] == 36
    assert set(report["left_out"]["ignored"].values()) == {"written by import_images"}
    measured = ["weights=run/vae_gan_model.pth", "data.image_size=32", "quick=true", "n=12", "accelerator=cpu"]
    assert run_command(evaluate, "evaluate", *data, *shares, *measured, "output=found") is None
    figures = json.loads(Path("found/metrics.json").read_text())
    assert figures["data"]["held_out"] == 12
    assert set(figures["models"][0]["samples"]) == {"prior", "by class", "training posteriors"}


def test_no_patient_is_in_two_splits(run_command: Run) -> None:
    from tests.conftest import splitting_with
    from vaegan_pl.data.collection import collect
    from vaegan_pl.data.prepared import Decoding

    volumes(Path("in"))
    assert run_command(import_images, "import_images", "from=in", "to=out", "every=3") is None
    decoding = Decoding(32, "pad", 65535, "fixed", 0.99, None, "exhaustive")
    splitting = splitting_with(validation_fraction=0.34, test_fraction=0.33)
    found = collect(Path("out"), None, {}, None, "drop", decoding, splitting, 0.0, Path("cache"))
    assert found.patients.known
    splits = [{found.patients.of[i] for group in groups for i in group} for groups in found.split.groups.values()]
    assert [len(patients) for patients in splits] == [2, 2, 2]
    assert len(set().union(*splits)) == 6
    assert sum(len(group) for groups in found.split.groups.values() for group in groups) == 36  # none is dropped


def test_nifti_and_dicom_give_the_same_pictures(run_command: Run) -> None:
    for i in range(2):
        volume = phantom((20, 24, 18), i)
        save_nifti(Path("nifti/a", f"p{i}.nii.gz"), volume, "PSR", (1, 1, 2))
        save_series(Path("dicom/a", f"p{i}"), volume, "coronal", (1, 1, 2), PatientID=f"p{i}")
    for kind in ("nifti", "dicom"):
        assert run_command(import_images, "import_images", f"from={kind}", f"to={kind}_out", "plane=all") is None
    shown = [
        sorted(np.asarray(Image.open(path)).tobytes() for path in Path(f"{kind}_out/a").iterdir())
        for kind in ("nifti", "dicom")
    ]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 2 * 62


def test_the_renaming_that_a_message_names_works(run_command: Run) -> None:
    for i, name in enumerate(("No Tumor", "no-tumor")):
        Path("in", name).mkdir(parents=True)
        Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(Path("in", name, f"{i}.png"))
    message = run_command(import_images, "import_images", "from=in", "to=out")
    assert message is not None
    option = message.partition("rename it with '")[2].rstrip("'")
    assert option == "+class_names={no-tumor:No Tumor}"
    assert run_command(import_images, "import_images", "from=in", "to=out", option) is None
    assert len(list(Path("out/No Tumor").iterdir())) == 2
