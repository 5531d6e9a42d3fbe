"""Sweeps as a user runs them: what fails, is stopped or is killed costs that job alone, and is known afterwards."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import wandb
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.cli.sweep_report import sweep_report
from vaegan_pl.cli.train import train
from vaegan_pl.data.tensors import images_of
from vaegan_pl.errors import UserError
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.runs import layout
from vaegan_pl.runs.metrics import read_series
from vaegan_pl.sweeps import bookkeeping, driver, jobs
from vaegan_pl.sweeps.options import OF_SAMPLES
from vaegan_pl.training import checkpoints
from vaegan_pl.training.loggers import WandB

from .conftest import SMALL, networks_with, save_model
from .processes import started

Run = Callable[..., str | None]
FEW = [
    *(option for option in SMALL if "quality" not in option),
    "data.per_class.Training=16",
    "data.per_class.Testing=8",
    "trainer.log_every_n_steps=2",
    "callbacks.quality.n=8",
    "sweep.name=s",
]
SWEEP = Path("outputs/multirun/s")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the phantoms, and the classifier of their features, once a test has made them."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "outputs")
    yield
    for name in ("phantoms", "cache"):
        if Path("outputs", name).exists() and not (made / name).exists():
            shutil.copytree(Path("outputs", name), made / name)


class Signal(L.Callback):
    """Sends this process a signal in the run of seed 1, once."""

    armed = False

    def __init__(self, number: int, batch: int = 3) -> None:
        self.number = number
        self.batch = batch

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if Signal.armed and pl_module.seed == 1 and checkpoints.trained(trainer) == self.batch:
            Signal.armed = False
            signal.raise_signal(self.number)


def wandb_run(directory: Path) -> dict[str, Any]:
    """What an offline W&B run holds: group, name, id, summary and the steps of its pictures."""
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: dict[str, Any] = {"history": [], "summary": {}}
    for record in map(json.loads, lines):
        if record["type"] == "run":
            found |= record["run"]
        elif record["type"] == "history":
            found["history"].append(record["history"]["item"])
        elif record["type"] == "summary":
            found["summary"] |= record["summary"]["update"]
        elif record["type"] == "metric":
            found.setdefault("metrics", []).append(record["metric"])
    return found


def test_jobs_that_fail_are_recorded_and_the_others_run(run_command: Run) -> None:
    """A mistake, and numbers that are lost."""
    swept = ["model.gamma=0.1,-1", "optimizer.decoder.lr=3e-4,1e30"]
    output = run_command(train, "train", "--multirun", *FEW, "trainer.max_epochs=2", *swept)
    assert output == "error: 3 of 4 jobs failed; job 1: " + str(jobs.read(SWEEP / "1").reason)
    found = jobs.in_directory(SWEEP)
    assert [job.state for job in found] == ["finished", "failed", "failed", "failed"]
    assert "training stopped" in str(found[1].reason)
    assert found[2].reason == "model.gamma=-1: must be a number of at least 0"
    assert [job.score for job in found[1:]] == [1e6] * 3
    series = read_series(SWEEP / "0" / "seed_0" / "metrics.csv")["validation/kid"]
    assert found[0].score == min(value for _, value in series)
    assert not (SWEEP / "2" / "seed_0" / "vae_gan_model.pth").exists()
    page = (SWEEP / "sweep.html").read_text()
    for text in ("4 jobs: 1 finished, 3 failed.", "model.gamma=-1: must be a number of at least 0"):
        assert text in page


def test_each_run_has_a_wandb_run_of_its_own_in_one_group(run_command: Run) -> None:
    options = ["trainer.max_epochs=2", "model.gamma=0.1,1", "sweep.seeds=2", "seed=5"]
    assert run_command(train, "train", "--multirun", *FEW, *options) is None
    found = {}
    for job, gamma in (("0", "0.1"), ("1", "1")):
        for seed in (5, 6):
            run = SWEEP / job / f"seed_{seed}"
            trained = torch.load(run / "vae_gan_model.pth", weights_only=True)["training"]
            assert (trained["seed"], trained["gamma"]) == (seed, float(gamma))
            found[job, seed] = wandb_run(run)
            assert found[job, seed]["run_group"] == "s"
            assert found[job, seed]["display_name"] == f"{job} seed={seed} gamma={gamma}"
            steps = [i["trainer/global_step"] for i in found[job, seed]["history"] if "images/samples.count" in i]
            assert steps == [5, 10]
            summaries = {metric.get("name"): metric.get("summary", {}) for metric in found[job, seed]["metrics"]}
            assert summaries["validation/kid"].get("min") is True
            assert summaries["validation/psnr"].get("max") is True
    assert len({run["run_id"] for run in found.values()}) == 4
    for one in jobs.in_directory(SWEEP):
        curves = [read_series(one.directory / run.directory / "metrics.csv") for run in one.runs]
        best = [min(value for _, value in curve["validation/kid"]) for curve in curves]
        assert one.score == pytest.approx(sum(best) / 2)


def test_a_sweep_that_was_killed_goes_on_and_repeats_nothing(run_command: Run) -> None:
    """Job 0 is done, job 1 is killed in its midst, job 2 was never begun."""
    options = [*FEW, "logger=csv", "trainer.max_epochs=2", "callbacks.checkpoint.batches=1"]
    swept = "model.gamma=0.1,1,10"
    undisturbed = [option for option in options if not option.startswith("sweep.name")]
    assert run_command(train, "train", "--multirun", *undisturbed, swept, "sweep.name=whole") is None
    threads = str(torch.get_num_threads())
    process = started("vaegan_pl.train", "--multirun", *options, swept, OMP_NUM_THREADS=threads)
    end = time.monotonic() + 120
    while not (SWEEP / "1" / "seed_0" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert jobs.read(SWEEP / "1").state == "running"
    done = (SWEEP / "0" / "seed_0" / "vae_gan_model.pth").stat().st_mtime_ns
    assert run_command(train, "train", "--multirun", *options, swept) is None
    assert (SWEEP / "0" / "seed_0" / "vae_gan_model.pth").stat().st_mtime_ns == done
    assert [job.state for job in jobs.in_directory(SWEEP)] == ["finished"] * 3
    for number in "012":
        a, b = (
            torch.load(sweep / number / "seed_0" / "vae_gan_model.pth", weights_only=True)["state_dict"]
            for sweep in (SWEEP, SWEEP.with_name("whole"))
        )
        for network, tensors in a.items():
            assert all(torch.equal(tensor, b[network][key]) for key, tensor in tensors.items())


def test_a_job_whose_process_is_lost_again_and_again_is_given_up(run_command: Run) -> None:
    options = [*FEW, "logger=csv", "trainer.max_epochs=1"]
    overrides = sorted([*options, "model.gamma=1"])
    (SWEEP / "0").mkdir(parents=True)
    jobs.Job(SWEEP / "0", overrides, jobs.Objective("validation/kid", "minimize", 1e6), attempts=3).write()
    output = run_command(train, "train", "--multirun", *options, "model.gamma=1")
    assert output is not None
    assert "1 jobs failed; job 0: its process died 3 times without making progress; it may need more memory" in output


def test_another_sweep_is_not_mixed_with_one_of_the_same_name(run_command: Run) -> None:
    options = [*FEW, "logger=csv", "trainer.max_epochs=1"]
    assert run_command(train, "train", "--multirun", *options, "model.gamma=1") is None
    output = run_command(train, "train", "--multirun", *options, "model.gamma=2")
    assert output is not None
    assert "this command does not include its job 0 (model.gamma=1, model.gamma=2); add that job's options" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sweep.objective=validation/nosuch"], "sweep.objective=validation/nosuch: was not logged; choose one of"),
        (["sweep.direction=up"], "sweep.direction=up: must be minimize or maximize"),
        (["sweep.direction=maximize"], "would rank the worst validation/kid first; set sweep.direction=minimize"),
        (["sweep.seeds=0"], "sweep.seeds=0: must be at least 1"),
        (["sweep.seeds=abc"], "sweep.seeds=abc: must be a whole number, such as 1"),
        (["sweep.worst=null"], "sweep.worst=None: must be a positive number"),
        (["model.gama=1,2"], "there is no option model.gama; did you mean model.gamma?"),
    ],
)
def test_mistakes_end_with_one_clear_message(run_command: Run, options: list[str], message: str) -> None:
    output = run_command(train, "train", "--multirun", *FEW, "logger=csv", "trainer.max_epochs=1", *options)
    assert output is not None
    assert output.startswith("error: ")
    assert message in output


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("debug=fast", "leave debug=fast out"),
        ("callbacks=unmeasured", "leave callbacks=unmeasured out"),
        ("callbacks.quality.n=0", "leave callbacks.quality.n=0 out"),
    ],
)
def test_a_sweep_that_would_not_measure_its_objective_is_refused(
    run_command: Run, trained: list[str], option: str, named: str
) -> None:
    output = str(run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1", option))
    assert output.startswith("error: sweep.objective=validation/kid")
    assert named in output
    assert "sweep.objective=validation/psnr sweep.direction=maximize" in output
    assert trained == []
    assert not SWEEP.exists()


def test_a_single_job_that_would_not_measure_its_objective_is_not_trained(run_command: Run, trained: list[str]) -> None:
    output = str(run_command(train, "train", "--multirun", *STUBBED, "callbacks=default,unmeasured"))
    assert "1 of 2 jobs failed; job 1: sweep.objective=validation/kid" in output
    assert trained == ["0/0"]
    sizes = ["sweep.name=t", *STUBBED[1:], "debug=fast", "callbacks.quality.n=8,16"]
    assert run_command(train, "train", "--multirun", *sizes) is None
    assert trained == ["0/0", "0/0", "1/0"]


def test_without_samples_a_sweep_is_ranked_by_reconstructions(run_command: Run) -> None:
    by_psnr = ["sweep.objective=validation/psnr", "sweep.direction=maximize"]
    few = [option for option in FEW if "quality" not in option]
    assert run_command(train, "train", "--multirun", *few, "debug=fast", *by_psnr, "model.gamma=0.1,1") is None
    assert [(job.state, job.score > 0) for job in found()] == [("finished", True)] * 2


def test_the_console_names_the_winner(run_command: Run, trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for command, *arguments in (
        (train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1", "sweep.seeds=2"),
        (sweep_report, "sweep_report", f"sweep={SWEEP}"),
    ):
        assert run_command(command, *arguments) is None
        lines = capsys.readouterr().out.splitlines()
        (place,) = (i for i, line in enumerate(lines) if line.startswith("winner"))
        assert "job 0: model.gamma=0.1" in lines[place]
        assert "validation/kid 1, mean over 2 seeds (1 to 1.01)" in lines[place + 1]
        assert "leads by 1, more than the spread over seeds (0.01)" in lines[place + 3]


def test_the_report_can_be_made_any_time(run_command: Run) -> None:
    SWEEP.mkdir(parents=True)
    message = run_command(sweep_report, "sweep_report", f"sweep={SWEEP}")
    assert message == f"error: sweep={SWEEP}: contains no jobs of a sweep; give the directory that --multirun wrote"
    (SWEEP / "0").mkdir()
    (SWEEP / "0" / "job.json").write_text("{")
    message = run_command(sweep_report, "sweep_report", f"sweep={SWEEP}")
    assert message is not None
    assert "job.json: is damaged" in message


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, "143"), (signal.SIGINT, "130")])
def test_a_signal_stops_the_sweep_and_it_goes_on(run_command: Run, number: signal.Signals, code: str) -> None:
    """In the second of two seeds; the first is not trained again."""
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("nohup ignores the signal")
    options = [*FEW, "logger=csv", "trainer.max_epochs=2", "sweep.seeds=2", "model.gamma=1"]
    stop = ["+callbacks.signal._target_=tests.test_sweep.Signal", f"+callbacks.signal.number={number}"]
    Signal.armed = True
    assert run_command(train, "train", "--multirun", *options, *stop) == code
    job = jobs.read(SWEEP / "0")
    assert job.state == "stopped"
    assert [run.value is not None for run in job.runs] == [True, False]
    assert "1 job: 1 stopped." in (SWEEP / "sweep.html").read_text()
    first = (SWEEP / "0" / "seed_0" / "vae_gan_model.pth").stat().st_mtime_ns
    assert run_command(train, "train", "--multirun", *options, *stop) is None
    assert (SWEEP / "0" / "seed_0" / "vae_gan_model.pth").stat().st_mtime_ns == first
    job = jobs.read(SWEEP / "0")
    assert job.state == "finished"
    assert [run.seed for run in job.runs] == [0, 1]


def test_a_hopeless_job_ends_early_even_if_it_was_stopped_before(run_command: Run) -> None:
    """Stopped in its second epoch; from the third on it is judged, by all three."""
    pytest.importorskip("optuna")
    for number in range(1, 5):
        run = SWEEP / str(number) / "seed_0"
        run.mkdir(parents=True)
        (run / "metrics.csv").write_text("step,validation/kid\n4,0\n9,0\n14,0\n")
        done = [jobs.Run(0, value=0.0, step=4)]
        jobs.Job(SWEEP / str(number), [], jobs.Objective("validation/kid", "minimize", 1e6), runs=done).write()
    options = ["experiment=sweep_optuna", *FEW, "logger=csv", "trainer.max_epochs=5", "seed=1", "sweep.audit=0"]
    warmup = ["hydra.sweeper.n_trials=1", "callbacks.pruning.pruner.n_warmup_steps=2"]
    stop = ["+callbacks.signal._target_=tests.test_sweep.Signal", f"+callbacks.signal.number={int(signal.SIGTERM)}"]
    Signal.armed = True
    assert run_command(train, "train", *options, *warmup, *stop, "+callbacks.signal.batch=8") == "143"
    run_command(train, "train", *options, *warmup, *stop, "+callbacks.signal.batch=8")
    job = jobs.read(SWEEP / "5")
    assert (job.state, job.runs[0].pruned) == ("pruned", True)
    curve = read_series(SWEEP / "5" / "seed_1" / "metrics.csv")["validation/kid"]
    assert len(curve) == 3
    assert job.score == min(value for _, value in curve)


def test_seeds_can_be_added(run_command: Run) -> None:
    options = [*FEW, "logger=csv", "trainer.max_epochs=1", "model.gamma=1", "sweep.folds=true"]
    assert run_command(train, "train", "--multirun", *options) is None
    assert run_command(train, "train", "--multirun", *options, "sweep.seeds=2") is None
    assert [run.seed for run in jobs.read(SWEEP / "0").runs] == [0, 1]
    stored = [OmegaConf.load(SWEEP / "0" / f"seed_{seed}" / "config.yaml") for seed in (0, 1)]
    assert [config.data.fold for config in stored] == [0, 1]
    said = run_command(train, "train", "--multirun", *options, "data.fold=3", "sweep.name=other")
    assert said is not None
    assert "sweep.folds" in said


def test_a_job_that_another_process_does_is_left_alone(run_command: Run) -> None:
    (SWEEP / "0").mkdir(parents=True)
    options = [*FEW, "logger=csv", "model.gamma=1"]
    jobs.Job(SWEEP / "0", options, jobs.Objective("validation/kid", "minimize", 1e6)).write()
    before = (SWEEP / "0" / "job.json").read_text()
    held = layout.lock(SWEEP / "0")
    assert held is not None
    output = run_command(train, "train", "--multirun", *options)
    os.close(held)
    assert output is not None
    assert "another process is training in it" in output
    assert (SWEEP / "0" / "job.json").read_text() == before


def test_a_model_that_copies_counts_as_the_worst(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaegan_pl.sweeps.driver._copies", lambda *_: "FAIL")
    options = [*FEW, "logger=csv", "trainer.max_epochs=1", "model.gamma=1"]
    assert run_command(train, "train", "--multirun", *options) is None
    job = jobs.read(SWEEP / "0")
    assert (job.state, job.score) == ("finished", 1e6)
    page = (SWEEP / "sweep.html").read_text()
    assert "FAIL" in page
    assert "Best:" not in page


def test_a_search_that_is_started_again_proposes_what_it_did(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its ten random trials, too, after which proposals follow from the results; one of them a failure."""
    pytest.importorskip("optuna")
    trained = []

    def fit(config: Any) -> None:
        trained.append(Path(config.directory).parent.name)
        if trained[-1] == "4":
            raise ValueError("out of luck")
        run = Path(config.directory)
        (run / "config.yaml").touch()
        kid = abs(math.log10(config.model.gamma) + 2) + abs(math.log10(config.optimizer.discriminator.lr) + 4)
        (run / "metrics.csv").write_text(f"step,validation/kid\n9,{kid}\n")

    monkeypatch.setattr("vaegan_pl.cli.train.fit", fit)
    options = ["experiment=sweep_optuna", "sweep.name=s", "sweep.audit=0", "logger=csv"]
    failed = "error: 1 of {} jobs failed; job 4: ValueError: out of luck"
    assert run_command(train, "train", *options, "hydra.sweeper.n_trials=14") == failed.format(14)
    values = [job.overrides for job in jobs.in_directory(SWEEP)]
    assert run_command(train, "train", *options, "hydra.sweeper.n_trials=16") == failed.format(16)
    found = [job.overrides for job in jobs.in_directory(SWEEP)]
    assert found[:14] == values
    assert len({*map(tuple, found)}) == 16
    assert trained == [str(number) for number in range(16)]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training that takes no time: KID follows from the options. Holds the jobs that were trained, in order."""
    found: list[str] = []

    def fit(config: Any) -> None:
        found.append(f"{Path(config.directory).parent.name}/{config.seed}")
        if Path("full").exists():
            raise OSError(28, "No space left on device", "disk")
        run = Path(config.directory)
        (run / "config.yaml").touch()
        kid = abs(math.log10(config.model.gamma) + 2) + config.seed / 100
        (run / "metrics.csv").write_text(f"step,validation/kid,validation/coverage\n9,{kid},{kid / 10}\n")

    monkeypatch.setattr("vaegan_pl.cli.train.fit", fit)
    monkeypatch.setattr("vaegan_pl.sweeps.driver._finished", lambda _: True)
    return found


STUBBED = ["sweep.name=s", "sweep.audit=0", "logger=csv"]


def test_ranked_by_something_else_runs_are_measured_again_and_not_trained(run_command: Run, trained: list[str]) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1") is None
    other = ["sweep.objective=validation/coverage", "sweep.direction=maximize"]
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1,10", *other) is None
    assert trained == ["0/0", "1/0", "2/0"]
    assert [job.score for job in jobs.in_directory(SWEEP)] == pytest.approx([0.1, 0.2, 0.3])


def test_runs_are_audited_once_that_is_asked_for(
    run_command: Run, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaegan_pl.sweeps.driver._copies", lambda *_: "WARN")
    options = ["sweep.name=s", "logger=csv", "model.gamma=1"]
    assert run_command(train, "train", "--multirun", *options, "sweep.audit=0") is None
    assert jobs.read(SWEEP / "0").runs[0].copies is None
    assert run_command(train, "train", "--multirun", *options, "sweep.audit=500") is None
    assert jobs.read(SWEEP / "0").runs[0].copies == "WARN"
    assert trained == ["0/0"]


def test_what_is_measured_cannot_change_within_a_sweep(run_command: Run, trained: list[str]) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=1") is None
    output = run_command(train, "train", "--multirun", *STUBBED, "model.gamma=1", "callbacks.quality.n=64")
    assert "does not include its job 0 (callbacks.quality.n=64)" in str(output)


@pytest.mark.parametrize("option", ["sweep.seeds=2", "sweep.objective=loss/prior", "hydra.sweeper.n_jobs=2"])
def test_what_decides_a_searchs_proposals_cannot_change(run_command: Run, trained: list[str], option: str) -> None:
    pytest.importorskip("optuna")
    options = ["experiment=sweep_optuna", *STUBBED, "hydra.sweeper.n_trials=2"]
    assert run_command(train, "train", *options) is None
    output = run_command(train, "train", *options, option)
    assert f"was started with other options ({option})" in str(output)


def test_a_search_that_failed_from_some_job_on_tries_those_again(run_command: Run, trained: list[str]) -> None:
    """Its disk is full after six jobs, four of which Optuna drew at random and six it did not."""
    pytest.importorskip("optuna")
    random = "hydra.sweeper.sampler.n_startup_trials=4"
    options = ["experiment=sweep_optuna", *STUBBED, random]
    assert run_command(train, "train", *options, "hydra.sweeper.n_trials=6") is None
    Path("full").touch()
    output = run_command(train, "train", *options, "hydra.sweeper.n_trials=10")
    assert str(output).startswith("error: 4 of 10 jobs failed; job 6: disk: No space left on device")
    Path("full").unlink()
    assert run_command(train, "train", *options, "hydra.sweeper.n_trials=10") is None
    assert [job.state for job in jobs.in_directory(SWEEP)] == ["finished"] * 10
    assert trained == [f"{number}/0" for number in (*range(10), *range(6, 10))]


def test_names_of_runs_are_short_and_say_what_is_swept(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    names = []

    def fit(config: Any) -> None:
        names.append(config.logger.wandb.name)
        raise ValueError("enough")

    monkeypatch.setattr("vaegan_pl.cli.train.fit", fit)
    fixed = ["trainer.max_epochs=3", "data.batch_size=16"]
    run_command(train, "train", "experiment=sweep_optuna", "sweep.name=s", "hydra.sweeper.n_trials=1", *fixed)
    assert names[0].startswith("0 seed=0 gamma=0.0")
    assert len(names[0]) <= 128
    for option in ("encoder.lr", "decoder.lr", "discriminator.lr"):
        assert option in names[0]
    assert "max_epochs" not in names[0]
    run_command(train, "train", "--multirun", "sweep.name=t", "optimizer.decoder.lr=3e-4", "model.gamma=0.5,1")
    assert names[1] == "0 seed=0 gamma=0.5"


def test_the_summary_of_a_continued_wandb_run_holds_the_best_of_all_its_parts(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,validation/kid,validation/psnr\n9,0.5,20\n19,2,21\n")
    logger = WandB(save_dir=str(tmp_path), offline=True, project="p")
    logger.log_metrics({"validation/kid": 2.0, "validation/psnr": 21.0}, 19)
    logger.finalize("success")
    wandb.finish()
    summary = wandb_run(tmp_path)["summary"]
    assert summary["validation/kid"] == {"min": 0.5}
    assert summary["validation/psnr"] == {"max": 21.0}


@pytest.mark.parametrize(("best", "last", "expected"), [("copies", "new", "FAIL"), ("new", "new", "NO POWER")])
def test_the_guard_looks_at_the_best_model_and_at_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_classes: Any, best: str, last: str, expected: str
) -> None:
    """Both are files of a run, with 128 images held out; what they draw is training images, or new ones."""
    root, drawn = write_classes(tmp_path / "images", per_class=40), {1: best, 2: last}
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        data = [f"data.root={root}", "data.image_size=16", "data.validation_fraction=0.4", "data.test_fraction=0.4"]
        config = compose("train", ["data=mri", *data, "directory=.", "sweep.audit=100", "trainer.accelerator=cpu"])
    for batches, name in ((1, "vae_gan_model_best.pth"), (2, "vae_gan_model.pth")):
        save_model(tmp_path / name, networks_with(), batches=batches)
    collection = instantiate(config.data, _convert_="all").collection
    train_images = images_of(collection, collection.split.images("train"))
    noise = torch.rand(100, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def draw(model: SavedModel, n: int, *_: object) -> torch.Tensor:
        return (train_images if drawn[model.training["batches"]] == "copies" else noise)[:n]

    monkeypatch.setattr(SavedModel, "sample", draw)
    assert driver._copies(tmp_path, config) == expected


def test_a_sweep_whose_jobs_write_elsewhere_says_so(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]
    monkeypatch.setattr(launcher, "launch", lambda *_, **__: [])
    output = run_command(train, "train", "--multirun", *FEW, "model.gamma=1,2")
    assert "outputs/multirun/s: no job wrote anything there; if jobs run on other machines" in str(output)


def test_a_job_that_another_process_still_does_is_not_lost() -> None:
    (SWEEP / "0").mkdir(parents=True)
    jobs.Job(SWEEP / "0", [], jobs.Objective("validation/kid", "minimize", 1e6)).write()
    held = layout.lock(SWEEP / "0")
    assert held is not None
    bookkeeping.conclude(SWEEP, False, RuntimeError("another job was lost"))
    os.close(held)
    with pytest.raises(UserError, match="the process of job 0 died"):
        bookkeeping.conclude(SWEEP, False, RuntimeError("another job was lost"))


def test_a_process_that_the_launcher_lost_ends_in_one_message(
    run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As joblib and submitit do it, when a worker is killed for want of memory."""

    class TerminatedWorkerError(Exception):
        """What joblib raises."""

    def lose(self: object, job_overrides: Any, initial_job_idx: int) -> None:
        (SWEEP / "0").mkdir(parents=True)
        jobs.Job(SWEEP / "0", [], jobs.Objective("validation/kid", "minimize", 1e6)).write()
        raise TerminatedWorkerError("a worker was killed")

    launcher = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]
    monkeypatch.setattr(launcher, "launch", lose)
    output = run_command(train, "train", "--multirun", *FEW, "model.gamma=1,2")
    assert output == (
        "error: the process of job 0 died (TerminatedWorkerError: a worker was killed); to continue, start the sweep "
        "again with sweep.name=s"
    )
    assert "2 jobs planned: 1 lost, 1 not started." in (SWEEP / "sweep.html").read_text()


def by_options() -> dict[tuple[str, ...], str]:
    """The directory of each job, by its swept options."""
    return {tuple(o for o in one.overrides if o.startswith(("model.", "optimizer."))): one.number for one in found()}


def found() -> list[jobs.Job]:
    return jobs.in_directory(SWEEP)


def test_values_can_be_added_to_any_option(run_command: Run, trained: list[str]) -> None:
    """Hydra numbers the jobs anew, and every one that is done is found all the same."""
    slow, fast = "model.gamma={}", "optimizer.decoder.lr={}"
    first = [slow.format("0.1,1"), fast.format("1e-3,2e-3")]
    assert run_command(train, "train", "--multirun", *STUBBED, *first) is None
    before = by_options()
    assert sorted(before.values()) == ["0", "1", "2", "3"]
    more = [slow.format("0.1,0.5,1"), fast.format("5e-4,1e-3,2e-3")]
    assert run_command(train, "train", "--multirun", *STUBBED, *more) is None
    after = by_options()
    assert {options: after[options] for options in before} == before
    assert len(after) == 9
    assert trained == [f"{number}/0" for number in range(9)]
    rates = ("0.0005", "0.001", "0.002")
    assert set(after) == {(f"model.gamma={g}", f"optimizer.decoder.lr={r}") for g in ("0.1", "0.5", "1") for r in rates}
    for one in found():
        gamma = float(one.overrides[[o.startswith("model.gamma") for o in one.overrides].index(True)].partition("=")[2])
        assert one.score == pytest.approx(abs(math.log10(gamma) + 2))


@pytest.mark.parametrize(
    "option", ["on_nan=stop,skip", "trainer.benchmark=true,false", "+trainer.limit_val_batches=1,2"]
)
def test_any_option_can_be_swept(run_command: Run, trained: list[str], option: str) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, option) is None
    assert sorted(trained) == ["0/0", "1/0"]
    assert run_command(train, "train", "--multirun", *STUBBED, option) is None
    assert len(trained) == 2


def test_another_start_does_not_take_the_places_of_a_sweep_that_runs(run_command: Run, trained: list[str]) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1") is None
    plan = jobs.read_plan(SWEEP)
    assert plan is not None
    jobs.Plan(plan.options, plan.objective, 2, {**plan.jobs, "model.gamma=0.2": "1"}).write(SWEEP)
    held = layout.lock(SWEEP / "0")
    output = run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,0.3")
    assert held is not None
    os.close(held)
    assert "does not include its job 1 (model.gamma=0.1, model.gamma=0.2)" in str(output)
    assert trained == ["0/0"]
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,0.3") is None
    assert trained == ["0/0", "1/0"]


def test_a_folder_with_another_name_is_no_job(run_command: Run, trained: list[str]) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1") is None
    shutil.copytree(SWEEP / "0", SWEEP / "wandb")
    (SWEEP / "wandb" / "seed_0").mkdir(exist_ok=True)
    (SWEEP / "wandb" / "seed_0" / "train.log").symlink_to(Path("precious").resolve())
    output = run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1")
    assert "train.log: is a pipe, a device or a link to somewhere else" in str(output)
    (SWEEP / "wandb" / "seed_0" / "train.log").unlink()
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1") is None
    assert [path.name for path in jobs.directories(SWEEP)] == ["0", "1"]


def test_a_users_own_files_in_a_sweeps_directory_stay(run_command: Run, trained: list[str]) -> None:
    SWEEP.mkdir(parents=True)
    for name in ("multirun.yaml", "options.json"):
        (SWEEP / name).write_text('["my", "own", "list"]')
        output = str(run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1"))
        assert f"{name}: is " in output
        assert (SWEEP / name).read_text() == '["my", "own", "list"]'
        (SWEEP / name).unlink()


def test_what_a_plan_says_reaches_the_console_without_control_characters(run_command: Run) -> None:
    SWEEP.mkdir(parents=True)
    (SWEEP / "options.json").write_text(json.dumps({"options": ["model.gamma='\x1b]0;owned\x07'"], "planned": 2}))
    output = str(run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1"))
    assert output.startswith("error: ")
    assert "\x1b" not in output


def test_the_table_has_each_column_once(run_command: Run, trained: list[str]) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1", "seed=0,1") is None
    head = (SWEEP / "sweep.csv").read_text().splitlines()[0].split(",")
    assert len(head) == len({*head})
    assert "seed" in head


def test_what_is_left_out_is_refused_before_any_job_starts(run_command: Run, trained: list[str]) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1") is None
    before = {path: path.read_bytes() for path in SWEEP.rglob("*") if path.is_file()}
    for options in (
        ["model.gamma=1,10"],
        ["model.gamma=0.1,1", "optimizer.decoder.lr=1e-3,2e-3"],
        ["model.fakes=both"],
    ):
        output = run_command(train, "train", "--multirun", *STUBBED, *options)
        assert "this command does not include its job" in str(output)
        assert {path: path.read_bytes() for path in SWEEP.rglob("*") if path.is_file()} == before
    assert trained == ["0/0", "1/0"]


def test_the_same_values_written_otherwise_are_the_same_jobs(run_command: Run, trained: list[str]) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1.0") is None
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.10,1e0") is None
    assert trained == ["0/0", "1/0"]


def test_only_what_was_measured_by_the_objective_at_hand_is_ranked(
    run_command: Run, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep is measured by coverage, and killed after its first job."""
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1,10") is None
    do = driver._do

    def killed(record: jobs.Job, *rest: Any) -> None:
        if record.number == "1":
            raise KeyboardInterrupt
        do(record, *rest)

    monkeypatch.setattr("vaegan_pl.sweeps.driver._do", killed)
    other = ["sweep.objective=validation/coverage", "sweep.direction=maximize"]
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1,10", *other) == "130"
    assert [one.objective.metric for one in found()] == ["validation/coverage", "validation/kid", "validation/kid"]
    page = (SWEEP / "sweep.html").read_text()
    assert "Best: " in page
    assert "Measured with another objective" in page
    content = json.loads((SWEEP / "sweep.json").read_text())
    assert content["objective"]["metric"] == "validation/coverage"
    assert [one["job"] for one in content["jobs"]] == ["0"]
    assert [(one["job"], one["score"]) for one in content["measured_by_something_else"]] == [
        ("1", pytest.approx(2)),
        ("2", pytest.approx(3)),
    ]


def test_sweeps_started_in_one_second_have_directories_of_their_own() -> None:
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        name = compose("train", overrides=["directory=."]).sweep.name
    assert len(name.rpartition("-")[2]) == 6  # microseconds


def test_a_search_of_ones_own_is_seeded_so_that_it_can_be_continued(run_command: Run, trained: list[str]) -> None:
    pytest.importorskip("optuna")
    options = ["--multirun", *STUBBED, "hydra/sweeper=optuna", "model.gamma=interval(0.01,1)", "seed=7"]
    assert run_command(train, "train", *options, "hydra.sweeper.n_trials=2") is None
    assert run_command(train, "train", *options, "hydra.sweeper.n_trials=3") is None
    assert trained == ["0/7", "1/7", "2/7"]


def test_links_in_a_sweeps_directory_are_refused(run_command: Run, trained: list[str]) -> None:
    assert run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1") is None
    Path("precious").mkdir()
    for link in ("multirun.yaml", "1", "0/seed_1"):
        (SWEEP / link).unlink(missing_ok=True)
        (SWEEP / link).symlink_to(Path("precious").resolve())
        output = run_command(train, "train", "--multirun", *STUBBED, "model.gamma=0.1,1", "sweep.seeds=2")
        assert f"{link}: is a pipe, a device or a link to somewhere else" in str(output)
        (SWEEP / link).unlink()
    assert list(Path("precious").iterdir()) == []
    assert trained == ["0/0"]


def test_a_sweep_refused_for_a_misspelt_option_leaves_nothing(run_command: Run) -> None:
    output = run_command(train, "train", "--multirun", *FEW, "model.gama=1,2")
    assert "there is no option model.gama" in str(output)
    assert not SWEEP.parent.exists()


def test_the_figures_of_a_run_stand_beside_its_objective(run_command: Run) -> None:
    assert run_command(train, "train", "--multirun", *FEW, "trainer.max_epochs=2", "model.gamma=0.1,1") is None
    for one in found():
        (run,) = one.runs
        series = read_series(one.directory / run.directory / "metrics.csv")
        assert run.step is not None
        expected = {name: dict(curve)[run.step] for name, curve in series.items() if name.startswith("validation/")}
        assert run.figures == expected
        assert {"validation/psnr", *OF_SAMPLES} <= set(run.figures)
        assert run.seconds > 0.1
        assert run.wandb == f"vaegan_pl/{wandb_run(one.directory / run.directory)['run_id']}"
        assert "device " in (one.directory / run.directory / "train.log").read_text()
    page = (SWEEP / "sweep.html").read_text()
    for text in ("psnr", "minutes", "W&amp;B run", "For each job off the Pareto front", "KID of samples against PSNR"):
        assert text in page
