"""A short campaign of `tests/faults`; `make faults` runs the long one."""

import random
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from vaegan_pl.runs import accepted

from . import faults
from .faults.directories import directories
from .faults.disks import full_folders
from .faults.files import file_faults, image_faults, judged, read_model
from .faults.kills import command_kills, kills, sweep_kills
from .faults.mutations import mutations
from .faults.wandb_failures import wandb_faults


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], float]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("faults"))
        yield faults.reference()


def bad(found: Counter[str]) -> list[str]:
    return [what for what in found if what.startswith(("FAILED", "lost"))]


def test_killed_runs_are_resumed_and_end_the_same(reference: tuple[list[str], float]) -> None:
    found = kills(5, random.Random(1), *reference)
    assert bad(found) == []
    assert found["kills"] >= 5


def test_killed_commands_lose_nothing(reference: tuple[list[str], float]) -> None:
    found = command_kills(2, random.Random(1), "sample|inspect_data.*")
    assert bad(found) == []
    assert sum(n for what, n in found.items() if what.endswith("kills")) >= 4


@pytest.mark.slow
def test_a_sweep_killed_in_its_second_job_goes_on(reference: tuple[list[str], float]) -> None:
    found = sweep_kills(1, random.Random(1))
    assert bad(found) == []
    assert found["kills"] >= 1


def test_no_mutated_file_is_taken_for_another(reference: tuple[list[str], float]) -> None:
    found = file_faults(120, random.Random(1))
    assert bad(found) == []
    assert found["model: refused"] > 20
    assert found["checkpoint: refused"] > 20
    assert found["features: refused"] > 20


def test_directories_of_strangers_reach_nothing(reference: tuple[list[str], float]) -> None:
    found = directories(8, random.Random(1))
    assert bad(found) == []
    assert sum(n for what, n in found.items() if "refused" in what) > 3


@pytest.mark.slow
def test_a_directory_that_reaches_something_is_noticed(
    reference: tuple[list[str], float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the check of configurations, a stranger's can draw into what is precious, and the campaign says so."""

    def change(run: Path, *_: object) -> str:
        config = run / "config.yaml"
        config.write_text(config.read_text().replace("${directory}/images", "precious"))
        return "pictures"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.faults.directories.change_run", change)
    assert bad(directories(1, random.Random(1))) == []
    shutil.rmtree("world")
    monkeypatch.setattr(accepted, "check", lambda *_: None)
    (found,) = bad(directories(1, random.Random(1)))
    assert found.startswith("FAILED: run, pictures: touched ['precious/reconstructions_epoch_0003.png', ")


def test_full_places_are_named(reference: tuple[list[str], float]) -> None:
    found = full_folders()
    assert bad(found) == []
    if any(what.startswith("not tried") for what in found):
        pytest.skip("no file system can be mounted here")


def test_broken_images_are_skipped_and_counted(reference: tuple[list[str], float]) -> None:
    found = image_faults(80, random.Random(1))
    assert bad(found) == []
    assert found["skipped and counted"] > 30


@pytest.mark.slow
def test_failures_of_wandb_stop_nothing(reference: tuple[list[str], float]) -> None:
    found = wandb_faults(reference[0])
    assert bad(found) == []
    assert found.total() == 4


def test_what_is_wrong_is_found(reference: tuple[list[str], float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign would notice a loader that takes anything."""
    path = Path("reference/vae_gan_model.pth")
    whole = path.read_bytes()
    values = whole.index(b"archive/data/0") + 2000
    Path("changed.pth").write_bytes(whole[:values] + bytes([whole[values] ^ 4]) + whole[values + 1 :])
    assert judged("model", "bits flipped", read_model, path, Path("changed.pth")) == "model: refused"
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: None)
    said = judged("model", "bits flipped", read_model, path, Path("changed.pth"))
    assert said.startswith("FAILED: model, bits flipped")
    assert path.read_bytes() == whole
    assert len({case for _, case in faults.first(mutations(whole, random.Random(0)), 9)}) == 9
