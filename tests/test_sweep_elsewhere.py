"""Sweeps whose jobs run in other processes, on Slurm and on Ray, and a search; `make test-slow` runs them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaegan_pl import jobs

from . import slurm
from .conftest import SMALL

pytestmark = pytest.mark.slow

FEW = [
    *(option for option in SMALL if "quality" not in option),
    "data.per_class.Training=16",
    "data.per_class.Testing=8",
    "trainer.log_every_n_steps=2",
    "callbacks.quality.n=8",
    "logger=csv",
    "sweep.name=s",
]
SWEEP = Path("outputs/multirun/s")


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(*options: str, environment: dict[str, str] | None = None) -> str:
    """Run a sweep as a user does; returns what it says."""
    command = [sys.executable, "-m", "vaegan_pl.train", *FEW, *options]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    given = {**(environment or os.environ), **paths}
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=given, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout + result.stderr


def check_two_jobs() -> None:
    found = jobs.in_directory(SWEEP)
    assert [job.state for job in found] == ["finished", "finished"]
    assert [job.overrides.count(f"model.gamma={gamma}") for job, gamma in zip(found, ("0.1", "1"), strict=True)] == [
        1,
        1,
    ]
    assert all((job.directory / "seed_0" / "vae_gan_model.pth").exists() for job in found)
    assert len(json.loads((SWEEP / "sweep.json").read_text())["jobs"]) == 2


@pytest.mark.parametrize(
    ("launcher", "module"),
    [
        ("joblib", "hydra_plugins.hydra_joblib_launcher"),
        ("submitit_local", "hydra_plugins.hydra_submitit_launcher"),
        ("ray", "hydra_plugins.hydra_ray_launcher"),
    ],
)
def test_two_jobs_in_other_processes(launcher: str, module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    sweep("--multirun", f"hydra/launcher={launcher}", "trainer.max_epochs=1", "model.gamma=0.1,1")
    check_two_jobs()


def test_two_jobs_on_slurm(tmp_path: Path) -> None:
    reason = slurm.why_not()
    if reason is not None:
        pytest.skip(reason)
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with slurm.single_node(tmp_path / "slurm") as environment:
        options = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=all", "hydra.launcher.cpus_per_task=1"]
        sweep("--multirun", *options, "trainer.max_epochs=1", "model.gamma=0.1,1", environment=environment)
    check_two_jobs()


def test_a_search_prunes_and_repeats_nothing_when_it_is_started_again() -> None:
    pytest.importorskip("optuna")
    pruner = ["callbacks.pruning.pruner.n_startup_trials=1", "callbacks.pruning.pruner.n_warmup_steps=0"]
    options = ["experiment=sweep_optuna", "trainer.max_epochs=3", *pruner]
    sweep(*options, "hydra.sweeper.n_trials=3")
    models = {path: path.stat().st_mtime_ns for path in SWEEP.glob("*/seed_0/vae_gan_model.pth")}
    assert len(models) == 3
    values = [job.overrides for job in jobs.in_directory(SWEEP)]
    sweep(*options, "hydra.sweeper.n_trials=4")
    found = jobs.in_directory(SWEEP)
    assert [job.overrides for job in found[:3]] == values
    assert {path: path.stat().st_mtime_ns for path in models} == models
    assert {job.state for job in found} <= {"finished", "pruned"}
    assert len(found) == 4
    for job in found:
        series = jobs.read_series(job.directory / "seed_0" / "metrics.csv")["validation/kid"]
        assert job.score == min(value for _, value in series)
        assert (job.state == "pruned") == (len(series) < 3)
