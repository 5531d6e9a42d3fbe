"""The inspect_data and download commands."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from vaegan_pl.cli.download import download
from vaegan_pl.cli.inspect_data import inspect_data

Run = Callable[..., str | None]


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_folder_is_inspected(
    run_command: Run, write_classes: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(Path("mine"), 10)
    assert run_command(inspect_data, "inspect_data", "data.root=mine") is None
    facts = json.loads(Path("outputs/data_report/data_report.json").read_text())
    assert facts["classes"]["all"]["images"] == 40
    assert facts["what"] == "images"
    printed = capsys.readouterr().out
    assert "train      32 images: 8 glioma" in printed
    assert "look at outputs/data_report/data_report.html" in printed


def test_phantoms_are_called_phantoms(run_command: Run) -> None:
    few = ["data.per_class.Training=5", "data.per_class.Testing=1", "output=here"]
    assert run_command(inspect_data, "inspect_data", "data=phantom", *few) is None
    assert "These are PHANTOMS" in Path("here/data_report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.root is not set; add data.root=VALUE"),
        (["data.root=nowhere"], "data.root=nowhere: no such folder"),
        (["data.root=mine", "data.split=official"], "data.split=official: mine has no Testing"),
        (["data.root=mine", "data.split=random"], "data.split=random: must be one of group, official"),
        (["data.root=mine", "data.augmentation.shift=2"], "data.augmentation.shift=2: must lie between 0 and 0.5"),
        (["data.root=mine", "data.classes=null", "data.copy=drop"], "there is no option data.copy"),
        (["data.root=mine", "output=/dev/null/out"], "/dev/null/out"),
        (["data.root=mine", "data.aliases=null"], "data.aliases"),
        (["data.root=mine", "data.cache=null"], "data.cache=None: must be a folder"),
        (["data.root=mine", "data.white=abc"], "data.white=abc: must be a whole number, such as 65535"),
        (["data.root=mine", "data.patient='(Q)'"], "data.patient=(Q): matches no patient in glioma/0.png"),
        (["data.root=~/nowhere"], f"data.root={Path.home()}/nowhere: no such folder"),
    ],
)
def test_mistakes_end_with_one_clear_message(
    run_command: Run, write_classes: Callable[..., Path], overrides: list[str], message: str
) -> None:
    write_classes(Path("mine"), 10)
    output = run_command(inspect_data, "inspect_data", *overrides)
    assert output is not None
    assert output.startswith("error: ")
    assert message in output


def test_null_means_all_classes_and_no_correlation(run_command: Run, write_classes: Callable[..., Path]) -> None:
    write_classes(Path("mine"), 10, ["a", "b"])
    options = ["data.root=mine", "data.classes=null", "data.near_copy_correlation=null"]
    assert run_command(inspect_data, "inspect_data", *options) is None
    facts = json.loads(Path("outputs/data_report/data_report.json").read_text())
    assert list(facts["classes"]) == ["a", "b", "all"]


def test_the_options_that_the_docs_show(run_command: Run, write_classes: Callable[..., Path]) -> None:
    write_classes(Path("mine"), 30, ["glioma", "Healthy brain"])
    for path in list(Path("mine").rglob("*.png")):
        path.rename(path.with_name(f"{path.parent.name[0]}P{int(path.stem) % 10}_{path.name}"))
    options = ["data.classes=[glioma,notumor]", "+data.aliases.healthy_brain=notumor", "data.patient='(.P[0-9]+)_'"]
    assert run_command(inspect_data, "inspect_data", "data.root=mine", *options) is None
    facts = json.loads(Path("outputs/data_report/data_report.json").read_text())
    assert facts["classes"]["notumor"]["images"] == 30
    assert facts["splitting"]["patient"] == "(.P[0-9]+)_"


def test_a_download_says_what_to_do_next(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def dataset_download(handle: str, output_dir: str) -> str:
        asked.append((handle, output_dir))
        return output_dir

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(dataset_download=dataset_download))
    assert run_command(download, "download", "output=here") is None
    assert asked == [("masoudnickparvar/brain-tumor-mri-dataset", "here")]
    assert f"python -m vaegan_pl.train data=mri data.root={Path('here').resolve()}" in capsys.readouterr().out


def test_offline_or_without_kagglehub_one_line_says_what_to_do(
    run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(handle: str, output_dir: str) -> str:
        raise ConnectionError("no route to host\nmore lines")

    dataset = "masoudnickparvar/brain-tumor-mri-dataset"
    page = f"https://www.kaggle.com/datasets/{dataset}"
    by_hand = f"or download {page} by hand and unpack it into a folder for data.root"
    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(dataset_download=offline))
    assert run_command(download, "download") == (
        f"error: {dataset} could not be downloaded (no route to host); "
        f"check the connection and try again with an empty output folder, {by_hand}"
    )
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert run_command(download, "download") == (
        "error: downloading needs kagglehub: run pip install -e '.[kaggle]', " + by_hand
    )
