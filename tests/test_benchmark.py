"""The benchmark as a user runs it, on small networks."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vaegan_pl.benchmark import paired
from vaegan_pl.benchmark.command import benchmark
from vaegan_pl.errors import UserError

from .conftest import SMALL
from .processes import server

Run = Callable[..., str | None]


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time variants in forks of a process that has imported PyTorch, not in new interpreters, which take 10 s each."""
    context = server()
    if context is not None:
        monkeypatch.setattr(paired, "multiprocessing", SimpleNamespace(get_context={"spawn": context}.__getitem__))


@pytest.mark.usefixtures("forked")
def test_it_measures_what_it_says(run_command: Run, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["data.per_class.Training=16", "data.per_class.Testing=4", "trainer.precision=32-true", "logger=csv"]
    assert run_command(benchmark, "benchmark", *SMALL, *options, "rounds=2", "output=speed") is None
    figures = json.loads(Path("speed/benchmark.json").read_text())
    assert list(figures["steps"]) == ["32-true", "bf16-mixed", "naive loop"]
    for step in figures["steps"].values():
        assert len(step["seconds"]) == 2
        assert all(0 < seconds < 60 for seconds in step["seconds"])
        assert 10**8 < step["peak_bytes"] < 10**10
    naive = figures["steps"]["naive loop"]["seconds"]
    for step in figures["steps"].values():
        ratios = [slow / fast for slow, fast in zip(naive, step["seconds"], strict=True)]
        assert step["times_naive"] == pytest.approx(sum(ratios) / 2)  # of two, the median is the mean
    assert figures["steps"]["32-true"]["flops"] == figures["steps"]["bf16-mixed"]["flops"] > 10**8
    assert set(figures["parts"]) == {"encoder", "decoder", "discriminator", "optimizers", "losses and norms"}
    epoch = figures["epoch"]
    assert epoch["batches"] == 4
    assert epoch["start_up"] > 1
    assert all(seconds >= 0 for seconds in epoch["parts"].values())
    assert "naive loop" in capfd.readouterr().out
    assert Path("speed/benchmark.png").stat().st_size > 10_000
    # Its run is gone, and no user's latest run was touched.
    assert {path.name for path in Path("speed").iterdir()} == {"benchmark.json", "benchmark.png", "cache", "phantoms"}
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_another_model_is_timed_with_larsen_each_with_batches_of_its_own(run_command: Run) -> None:
    few = ["data.per_class.Training=24", "data.per_class.Testing=4", "trainer.precision=32-true", "logger=csv"]
    small = [option for option in SMALL if "batch_size" not in option]
    assert (
        run_command(benchmark, "benchmark", *small, *few, "experiment=larsen_plus", "rounds=1", "output=speed") is None
    )
    steps = json.loads(Path("speed/benchmark.json").read_text())["steps"]
    sizes = {variant: step["batch_size"] for variant, step in steps.items()}
    assert sizes == {"32-true": 32, "bf16-mixed": 32, "larsen, 32-true": 64, "naive loop": 64}
    seconds = {variant: step["seconds"][0] / sizes[variant] for variant, step in steps.items()}
    assert steps["32-true"]["times_naive"] == pytest.approx(seconds["naive loop"] / seconds["32-true"])
    assert steps["32-true"]["flops"] != steps["larsen, 32-true"]["flops"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rounds=0", "rounds=0: must be at least 1"),
        ("trainer.precision=fp8", "trainer.precision=fp8: is not supported"),
        ("model.gama=1", "there is no option model.gama; did you mean model.gamma?"),
    ],
)
def test_mistakes_end_with_one_clear_message(run_command: Run, option: str, message: str) -> None:
    output = run_command(
        benchmark, "benchmark", *SMALL, "data.per_class.Training=16", "data.per_class.Testing=4", option
    )
    assert output is not None
    assert message in output


def test_training_that_fails_ends_the_benchmark_with_its_message(
    run_command: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    few = ["data.per_class.Training=16", "data.per_class.Testing=4", "logger=csv"]
    output = run_command(benchmark, "benchmark", *SMALL, *few, "+trainer.nonsense=1", "output=speed")
    assert output == "error: the training command failed; see its message above"
    assert "nonsense" in capfd.readouterr().err
    assert not Path("speed/benchmark.json").exists()


def killed() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory is short


@pytest.mark.usefixtures("forked")
def test_a_variant_that_is_killed_is_named() -> None:
    with pytest.raises(UserError, match="the process that timed 32-true ended early"):
        paired.measure({"32-true": paired.Variant(killed, 2)}, torch.device("cpu"), rounds=1)
