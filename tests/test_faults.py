"""A short campaign of `tests/faults.py`; `make faults` runs the long one."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import faults


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], float]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("faults"))
        yield faults.reference()


def bad(found: Counter[str]) -> list[str]:
    return [what for what in found if what.startswith(("FAILED", "lost"))]


def test_killed_runs_are_resumed_and_end_the_same(reference: tuple[list[str], float]) -> None:
    found = faults.kills(5, random.Random(1), *reference)
    assert bad(found) == []
    assert found["kills"] >= 5


def test_no_mutated_file_is_taken_for_another(reference: tuple[list[str], float]) -> None:
    found = faults.file_faults(120, random.Random(1))
    assert bad(found) == []
    assert found["model: refused"] > 20
    assert found["checkpoint: refused"] > 20
    assert found["features: refused"] > 20


def test_broken_images_are_skipped_and_counted(reference: tuple[list[str], float]) -> None:
    found = faults.image_faults(80, random.Random(1))
    assert bad(found) == []
    assert found["skipped and counted"] > 30


def test_failures_of_wandb_stop_nothing(reference: tuple[list[str], float]) -> None:
    found = faults.wandb_faults(reference[0])
    assert bad(found) == []
    assert found.total() == 4


def test_what_is_wrong_is_found(reference: tuple[list[str], float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign would notice a loader that takes anything."""
    monkeypatch.setattr("vaegan_pl.digest", lambda content: "always the same")
    path = Path("reference/vae_gan_model.pth")
    whole = path.read_bytes()
    monkeypatch.undo()
    made = faults.tampered(path, random.Random(0))
    kind, case = next(pair for pair in made if pair[0] == "a tensor changed")
    target = Path("changed.pth")
    target.write_bytes(case)
    monkeypatch.setattr(
        "vaegan_pl.model.weights.tensor_files.load", lambda p: __import__("torch").load(p, weights_only=True)
    )
    said = faults._judged("model", kind, faults._model, path, target)
    assert said.startswith("FAILED: model, a tensor changed")
    assert path.read_bytes() == whole
