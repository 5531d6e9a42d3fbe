"""Sweeps whose jobs run in other processes, on Slurm and on Ray, and a search; `make test-slow` runs them."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning as L
import pytest

from vaegan_pl.runs.metrics import read_series
from vaegan_pl.sweeps import jobs
from vaegan_pl.training import checkpoints

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


class Wait(L.Callback):
    """Waits in the third batch, once, until the run is told to stop."""

    def __init__(self, marker: str) -> None:
        self.marker = Path(marker)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        (checkpoint,) = (each for each in trainer.callbacks if isinstance(each, checkpoints.Checkpoint))  # type: ignore[attr-defined]
        end = time.monotonic() + 60
        while checkpoints.trained(trainer) == 2 and not self.marker.exists() and time.monotonic() < end:
            time.sleep(0.1)
            if checkpoint.signal is not None:
                self.marker.touch()


def sweep(*options: str, environment: dict[str, str] | None = None) -> str:
    """Run a sweep, or train once, as a user does; returns what it says."""
    command = [sys.executable, "-m", "vaegan_pl.train", *options, *FEW]
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


def test_two_jobs_on_a_ray_cluster() -> None:
    """Of one node, started as a cluster is; by the options that the page on sweeps names, but for the GPU."""
    if importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
        pytest.skip("hydra_plugins.hydra_ray_launcher is not installed")
    ray, environment = str(Path(sys.executable).with_name("ray")), {**os.environ, "RAY_AUTH_MODE": "disabled"}
    port = slurm.free_port()
    options = [f"hydra.launcher.ray.init.address=127.0.0.1:{port}", "+hydra.launcher.ray.init.object_store_memory=null"]
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short name: sockets go there
        start = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}"]
        quiet = ["--include-dashboard=false", "--disable-usage-stats"]
        subprocess.run([*start, *quiet], check=True, capture_output=True, timeout=120, env=environment)
        try:
            output = f"output_root={Path.cwd()}/outputs"
            swept = ["trainer.max_epochs=1", "model.gamma=0.1,1"]
            sweep("--multirun", "hydra/launcher=ray", *options, output, *swept, environment=environment)
        finally:
            subprocess.run([ray, "stop", "--force"], check=False, capture_output=True, timeout=120, env=environment)
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


def test_slurm_requeues_a_job_that_is_out_of_time(tmp_path: Path) -> None:
    """Its minute is over 40 seconds early, and Slurm starts it again some two minutes later."""
    reason = slurm.why_not()
    if reason is not None:
        pytest.skip(reason)
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    sweep("trainer.max_epochs=1")  # draws the phantoms, and trains the classifier of the features
    options = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=all", "hydra.launcher.cpus_per_task=2"]
    times = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=40", "hydra.launcher.max_num_timeout=2"]
    wait = ["+callbacks.wait._target_=tests.test_sweep_elsewhere.Wait", f"+callbacks.wait.marker={tmp_path}/waited"]
    with slurm.single_node(tmp_path / "slurm") as environment:
        sweep("--multirun", *options, *times, *wait, "trainer.max_epochs=2", environment=environment)
    (job,) = jobs.in_directory(SWEEP)
    assert (job.state, job.attempts) == ("finished", 1)
    assert "stopped by SIGUSR2 after 3 batches" in (job.directory / "seed_0" / "train.log").read_text()


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
        series = read_series(job.directory / "seed_0" / "metrics.csv")["validation/kid"]
        assert job.score == min(value for _, value in series)
        assert (job.state == "pruned") == (len(series) < 3)
