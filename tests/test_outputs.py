"""Commands replace and remove what this project wrote, and nothing of the user's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vaegan_pl.benchmark.command import benchmark
from vaegan_pl.cli.blind_test import blind_test
from vaegan_pl.cli.dashboard import dashboard
from vaegan_pl.cli.download import download
from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.export import export
from vaegan_pl.cli.inspect_data import inspect_data
from vaegan_pl.cli.latent import latent
from vaegan_pl.cli.reconstruct import reconstruct
from vaegan_pl.cli.sample import sample
from vaegan_pl.cli.sweep_report import sweep_report
from vaegan_pl.cli.train import train
from vaegan_pl.errors import UserError
from vaegan_pl.model import weights
from vaegan_pl.report import model_card
from vaegan_pl.runs import layout
from vaegan_pl.storage.outputs import MADE_BY, claim, is_ours
from vaegan_pl.sweeps import jobs

from .conftest import SMALL, networks_with, save_model

Run = Callable[..., str | None]
MINE = b"weeks of work"


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_classes: Callable[..., Path]) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(Path("m.pth"), networks_with())
    Path("images").mkdir()
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save("images/x.png")
    write_classes(Path("data"), per_class=10)
    Path("sweep/0/seed_0").mkdir(parents=True)
    done = [jobs.Run(0, value=1.0, step=9)]
    jobs.Job(Path("sweep/0"), [], jobs.Objective("validation/kid", "minimize", 1e6), "finished", runs=done).write()
    Path("mine").mkdir()


def commands() -> dict[str, tuple[Any, list[str], str]]:
    """For each command: what runs it, its options, and a file that it writes."""
    weights_, output = "weights=m.pth", "output=mine"
    return {
        "sample": (sample, [weights_, "label=a", "n=2", output], "mine/a_00007.png"),
        "sample, its grid": (sample, [weights_, "n=2", output], "mine/grid.png"),
        "sample, its provenance": (sample, [weights_, "n_per_class=2", output], "mine/provenance.json"),
        "reconstruct": (reconstruct, [weights_, "images=images", output], "mine/reconstruction_00000_knee.png"),
        "reconstruct, its grid": (reconstruct, [weights_, "images=images", output], "mine/grid.png"),
        "latent": (latent, [weights_, "tool=walk", "n=1", "frames=2", output], "mine/walk.gif"),
        "export": (export, [weights_, "format=safetensors", output], "mine/decoder.safetensors"),
        "evaluate": (evaluate, [weights_, "data.root=data", output], "mine/report.html"),
        "blind_test": (blind_test, [weights_, "data.root=data", output], "mine/blind_test.html"),
        "inspect_data": (inspect_data, ["data.root=data", output], "mine/data_report.json"),
        "sweep_report": (sweep_report, ["sweep=sweep"], "sweep/sweep.csv"),
        "benchmark": (benchmark, [*SMALL, "output=mine"], "mine/benchmark.png"),
        "dashboard": (dashboard, ["entity=e", output], "mine/workspace.json"),
    }


@pytest.mark.parametrize("case", commands())
def test_a_file_of_the_users_stays_and_the_option_that_says_otherwise_is_named(run_command: Run, case: str) -> None:
    task, options, name = commands()[case]
    file = Path(name)
    file.write_bytes(MINE)
    around = sorted(file.parent.iterdir())
    message = run_command(task, task.__name__, *options)
    assert message == (
        f"error: {file if task is not benchmark else file.resolve()}: was not written by this project and would be "
        "replaced or removed; write into another folder, or add overwrite=true"
    )
    assert file.read_bytes() == MINE
    assert sorted(file.parent.iterdir()) == around


@pytest.mark.parametrize("case", [name for name in commands() if name not in ("evaluate", "blind_test", "benchmark")])
def test_what_the_user_gives_away_and_what_this_project_wrote_is_replaced(run_command: Run, case: str) -> None:
    task, options, name = commands()[case]
    Path(name).write_bytes(MINE)
    Path(name).with_name("notes.txt").write_bytes(MINE)
    Path(name).with_name("a_00123 original.png").write_bytes(MINE)
    overwrite = [] if "n_per_class=2" in options else ["overwrite=true"]
    if not overwrite:  # class folders want a folder without pictures
        Path("mine/a_00123 original.png").unlink()
        overwrite = ["overwrite=true"]
    assert run_command(task, task.__name__, *options, *overwrite) is None
    assert not Path(name).exists() or Path(name).read_bytes() != MINE
    assert Path(name).with_name("notes.txt").read_bytes() == MINE
    written = [path for path in Path(name).parent.iterdir() if path.is_file() and path.read_bytes() != MINE]
    assert all(map(is_ours, written) if task is not sweep_report else [is_ours(Path(name))])
    if "n_per_class=2" not in options:
        assert run_command(task, task.__name__, *options) is None
        assert Path(name).with_name("a_00123 original.png").read_bytes() == MINE


def test_pictures_of_earlier_versions_are_known_by_their_metadata(run_command: Run) -> None:
    info = PngInfo()
    info.add_text("Description", "synthetic; trained on PHANTOMS (drawings, not MRI)")
    Image.new("L", (4, 4)).save("mine/sample_00005.png", pnginfo=info)
    assert run_command(sample, "sample", "weights=m.pth", "n=2", "output=mine") is None
    assert not Path("mine/sample_00005.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'{"made_by": "me", "home": "https://github.com/me/vaegan_pl 1"}'),
        ("a.json", b'{"path": "vaegan_pl 0.1.0", "made_by": ["vaegan_pl 0.1.0"]}'),
        ("a.html", b"<!doctype html><title>vaegan_pl 0.1.0</title>"),
        ("a.csv", b"rank,job,seed,mine\n"),
        (
            "a.safetensors",
            (60).to_bytes(8, "little") + b'{"__metadata__": {"at": "/home/me/vaegan_pl_thesis/x"}}'.ljust(60),
        ),
        ("a.onnx", b"/home/me/vaegan_pl/x"),
        ("a.pt2", b"vaegan_pl 0.1.0"),
        ("a.txt", b"vaegan_pl 0.1.0"),
    ],
)
def test_naming_the_project_does_not_make_a_file_ours(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert not is_ours(tmp_path / name)


def test_a_picture_is_ours_by_its_software_alone(tmp_path: Path) -> None:
    for software, ours in (("vaegan_pl 0.1.0", True), ("~/vaegan_pl/figures 1", False)):
        info = PngInfo()
        info.add_text("Software", software)
        info.add_text("Title", "vaegan_pl 0.1.0")
        Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
        assert is_ours(tmp_path / "a.png") == ours


def test_names_over_two_lines_are_names(tmp_path: Path) -> None:
    (tmp_path / "reconstruction_00000_a\nb.png").write_bytes(MINE)
    with pytest.raises(UserError, match="was not written by this project"):
        claim(tmp_path, r"reconstruction_\d{5,}_.*\.png", overwrite=False)


@pytest.mark.parametrize("output", ["output=null", "output=''"])
def test_an_output_that_is_none_is_asked_for(run_command: Run, output: str) -> None:
    before = sorted(Path().iterdir())
    assert "give a folder to write into" in str(run_command(sample, "sample", "weights=m.pth", "n=1", output))
    assert sorted(Path().iterdir()) == before


def test_asking_for_more_than_memory_holds_ends_in_one_line(run_command: Run) -> None:
    message = str(run_command(sample, "sample", "weights=m.pth", "n=10000000000000", "output=mine"))
    assert message.startswith("error: not enough memory")
    assert "\n" not in message


def test_links_are_nobodys(run_command: Run) -> None:
    assert run_command(sample, "sample", "weights=m.pth", "n=1", "output=other") is None
    Path("mine/grid.png").symlink_to(Path("other/grid.png").resolve())
    assert "mine/grid.png: was not written by this project" in str(
        run_command(sample, "sample", "weights=m.pth", "n=1", "output=mine")
    )


def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder(run_command: Run) -> None:
    Path("mine/grid.png").mkdir()
    output = run_command(sample, "sample", "weights=m.pth", "n=1", "output=mine", "overwrite=true")
    assert "mine/grid.png: is a folder where a file is to be written" in str(output)
    assert "m.pth: is a file; give a folder" in str(run_command(sample, "sample", "weights=m.pth", "output=m.pth"))


def test_phantoms_are_not_buried_under_samples(run_command: Run) -> None:
    Path("mine/PHANTOMS-NOT-MRI.json").write_text('{"what": "phantoms drawn by vaegan_pl; not MRI", "per_class": {}}')
    output = run_command(sample, "sample", "weights=m.pth", "n=1", "output=mine")
    assert output == "error: output=mine: contains phantoms to train on; write into another folder"
    assert "per_class" in Path("mine/PHANTOMS-NOT-MRI.json").read_text()


def test_names_that_hold_patterns_are_names(tmp_path: Path) -> None:
    (tmp_path / "a_00001.png").write_bytes(MINE)
    assert claim(tmp_path, r"grid\.png", overwrite=False) == []
    with pytest.raises(UserError, match=r"a_00001\.png: was not written by this project"):
        claim(tmp_path, r"a_\d{5,}\.png", overwrite=False)


@pytest.mark.parametrize("name", ["curves.png", "images", "vae_gan_model_best.pth", "data_report.html", "wandb"])
def test_a_run_does_not_write_over_files_of_the_users(run_command: Run, name: str) -> None:
    (Path("mine") / name).write_bytes(MINE)
    Path("mine/job.out").write_bytes(MINE)  # as Slurm writes it
    output = run_command(train, "train", *SMALL, "hydra.run.dir=mine")
    path = Path("mine").resolve() / name
    assert output == f"error: {path}: is in the way of a file that a run writes; choose another hydra.run.dir"
    assert {path.name: path.read_bytes() for path in Path("mine").iterdir()} == {name: MINE, "job.out": MINE}


def test_a_forgotten_data_mri_is_what_the_message_is_about(run_command: Run) -> None:
    before = sorted(Path("data").rglob("*"))
    output = run_command(train, "train", *SMALL, "data.root=data", "hydra.run.dir=run")
    assert output == (
        "error: data.root=data: holds other files, and data=phantom draws its own images; to train on your images, add "
        "data=mri"
    )
    assert sorted(Path("data").rglob("*")) == before
    assert not Path("run").exists()
    assert not Path("outputs").exists()


def test_a_card_that_somebody_wrote_or_changed_stays() -> None:
    path, model = Path("m.pth"), weights.load(Path("m.pth"))
    card = model_card.write(path, model_card.text(path, model, ["first"]))
    assert MADE_BY in card.read_text()
    model_card.write(path, model_card.text(path, model, ["second"]))
    assert "second" in card.read_text()
    for text in (
        card.read_text().replace("## Limits", "Approved by the board.\n\n## Limits"),
        "mine",
        card.read_text() + "x",
    ):
        card.write_text(text)
        if text.endswith("x"):
            continue  # what stands after the last line is not part of the card
        with pytest.raises(UserError, match="has been changed since this project wrote it; overwrite=true replaces it"):
            model_card.write(path, model_card.text(path, model, ["third"]))
        assert card.read_text() == text
    model_card.write(path, model_card.text(path, model, ["third"]), overwrite=True)
    assert "third" in card.read_text()


def test_a_download_goes_into_a_folder_of_its_own(run_command: Run) -> None:
    Path("mine/x").write_bytes(MINE)
    assert "output=mine: is not empty" in str(run_command(download, "download", "output=mine"))
    assert Path("mine/x").read_bytes() == MINE


def test_latest_takes_the_place_of_its_own_link_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("one", "two"):
        (tmp_path / "out" / name).mkdir(parents=True)
        layout.point_latest(tmp_path / "out" / name, tmp_path / "out")
        assert (tmp_path / "out" / "latest").readlink() == Path(name)
    (tmp_path / "out" / "latest").unlink()
    for make in (Path.mkdir, Path.touch):
        make(tmp_path / "out" / "latest")
        layout.point_latest(tmp_path / "out" / "one", tmp_path / "out")
        assert not (tmp_path / "out" / "latest").is_symlink()
        assert "latest could not be pointed at this run" in caplog.text
        caplog.clear()
        if make is Path.mkdir:
            (tmp_path / "out" / "latest").rmdir()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["latest", "one", "two"]


@pytest.mark.parametrize(
    "options",
    [
        ["data=mri", "data.root=nowhere"],
        ["data=mri", "data.root=data", "data.batch_size=1000"],
        ["data=mri", "data.root=data", "optimizer.encoder.lr=-1"],
        ["model.gamma=-1"],
        ["trainer.max_epochs=0"],
    ],
    ids=str,
)
def test_a_run_that_fails_before_its_first_batch_leaves_nothing_and_is_not_the_latest(
    run_command: Run, options: list[str]
) -> None:
    assert run_command(train, "train", *SMALL, *options, "output_root=out", "data.cache=cache") is not None
    assert not Path("out").exists()
    assert not Path("cache").exists() or options[0] == "data=mri"


@pytest.mark.parametrize(
    "task", [sample, evaluate, inspect_data, export, latent, reconstruct], ids=lambda t: t.__name__
)
def test_refused_commands_leave_no_folders(run_command: Run, task: Any) -> None:
    before = sorted(Path.cwd().rglob("*"))
    given = ["images=images"] if task is reconstruct else []
    data = ["data.root=nowhere"] if task in (evaluate, inspect_data) else []
    named = [] if task is inspect_data else ["weights=nowhere.pth"]
    assert run_command(task, task.__name__, *named, *given, *data, "output=out/of/here") is not None
    assert sorted(Path.cwd().rglob("*")) == before
