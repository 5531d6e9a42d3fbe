"""Runs that are stopped anywhere and continued: they end as if nothing had happened."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from vaegan_pl.cli.train import train
from vaegan_pl.runs import earlier_versions, layout, overriding, stored_config
from vaegan_pl.storage import files, tensor_files
from vaegan_pl.training import checkpoints
from vaegan_pl.training.loggers import MetricsFile

from .conftest import SMALL, digest

Run = Callable[..., str | None]
FEW = [
    *SMALL,
    "data.per_class.Training=16",
    "data.per_class.Testing=4",
    "trainer.log_every_n_steps=2",
    "trainer.max_epochs=3",
    "logger=csv",
    "callbacks.quality.n=8",
]
BATCHES, EPOCHS = 4, 3
KILL = "+callbacks.kill._target_=tests.test_resume.Kill"


class Killed(BaseException):
    """What a process that is killed does not handle."""


class Kill(L.Callback):
    """Ends training at the n-th call of a hook, once."""

    armed = False

    def __init__(self, hook: str = "on_train_batch_end", n: int = 1) -> None:
        self.calls = 0

        def count(*_: object) -> None:
            self.calls += 1
            if Kill.armed and self.calls == n:
                Kill.armed = False
                raise Killed

        setattr(self, hook, count)


class Signal(L.Callback):
    """Sends this process a signal in the sixth batch, once."""

    armed = False

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if Signal.armed and checkpoints.trained(trainer) == 5:
            Signal.armed = False
            signal.raise_signal(self.number)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train", *FEW, "hydra.run.dir=reference"])
        from vaegan_pl.cli import commands

        commands.run(train, "train")
    return folder / "reference"


@pytest.fixture(autouse=True)
def beside_the_reference(reference: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(reference.parent)
    yield
    rmtree("run", ignore_errors=True)


def kill_at(hook: str, n: int) -> list[str]:
    """Options that end a run at the n-th call of a hook, if that is armed; a resumed run must be given them again."""
    return [KILL, f"+callbacks.kill.hook={hook}", f"+callbacks.kill.n={n}"]


def stop(monkeypatch: pytest.MonkeyPatch, hook: str, n: int, *options: str) -> None:
    """Start a run in `run` and end it at the n-th call of a hook."""
    Kill.armed = True
    monkeypatch.setattr("sys.argv", ["train", *FEW, "hydra.run.dir=run", *kill_at(hook, n), *options])
    from vaegan_pl.cli import commands

    with pytest.raises(Killed):
        commands.run(train, "train")


def tree(folder: Path, leaving_out: str = "") -> dict[Path, bytes | None]:
    """All files of a folder with their contents, all folders, and links with what they point at."""
    return {
        path: str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not leaving_out or leaving_out not in path.relative_to(folder).parts[:1]
    }


def contents(path: Path) -> dict[str, Any]:
    return tensor_files.load(path)


def assert_as_the_reference(run: Path, reference: Path) -> None:
    for name in ("vae_gan_model.pth", "vae_gan_model_best.pth", "checkpoints/last.ckpt"):
        a, b = (contents(folder / name) for folder in (run, reference))
        for part in {*a, *b} - {"loops", "datamodule_hyper_parameters"}:
            assert digest(a[part]) == digest(b[part]), (name, part)
    assert (run / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()
    pictures = sorted(path.name for path in (reference / "images").iterdir())
    assert sorted(path.name for path in (run / "images").iterdir()) == pictures
    for name in pictures:
        assert (run / "images" / name).read_bytes() == (reference / "images" / name).read_bytes(), name


def test_runs_of_versions_without_todays_models_are_told_so(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(train, "train", *FEW, "trainer.max_steps=1", "hydra.run.dir=run") is None
    config = OmegaConf.load("run/config.yaml")
    del config.model.ema
    del config.optimizer.schedule
    config.model.networks._target_ = "vaegan_pl.model.networks.Networks"
    OmegaConf.save(config, "run/config.yaml")
    output = run_command(train, "train", "resume=run", "trainer.max_steps=2")
    assert output is not None
    assert "is not the configuration of a run of this version; start a new run" in output


@pytest.mark.parametrize(
    ("hook", "n", "every"),
    [
        ("on_train_batch_end", 1, 1),  # before the first checkpoint
        ("on_train_batch_end", 3, 1),
        ("on_train_batch_end", BATCHES, 1),
        ("on_train_batch_end", BATCHES + 1, 1),  # the checkpoint lies between two epochs
        ("on_train_batch_start", 2 * BATCHES + 1, 3),
        ("on_train_epoch_end", 2, 2),
        ("on_train_epoch_end", EPOCHS, 1),
        ("on_validation_epoch_end", 2, 3),
    ],
)
def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run, hook: str, n: int, every: int
) -> None:
    stop(monkeypatch, hook, n, f"callbacks.checkpoint.batches={every}")
    assert run_command(train, "train", "resume=run", *kill_at(hook, n)) is None
    assert_as_the_reference(Path("run"), reference)


def test_a_run_can_be_stopped_again_and_again(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    stop(monkeypatch, "on_train_batch_end", 3, "callbacks.checkpoint.batches=1")
    for n in (4, 1, 2):
        Kill.armed = True
        with pytest.raises(Killed):
            run_command(train, "train", "resume=run", *kill_at("on_train_batch_end", n))
    assert run_command(train, "train", "resume=run", *kill_at("on_train_batch_end", 2)) is None
    assert_as_the_reference(Path("run"), reference)


def test_a_longer_run_is_the_run_that_was_always_longer(reference: Path, run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "hydra.run.dir=run", "trainer.max_epochs=2") is None
    message = run_command(train, "train", "resume=run")
    assert (
        message
        == f"error: resume={Path('run').resolve()}: is finished, after 8 batches; raise trainer.max_epochs=2 to go on"
    )
    assert run_command(train, "train", "resume=run", f"trainer.max_epochs={EPOCHS}") is None
    assert_as_the_reference(Path("run"), reference)


def test_auto_starts_continues_and_leaves_finished_runs_alone(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    stop(monkeypatch, "on_train_batch_end", 6, "callbacks.checkpoint.batches=2", "resume=auto")
    kill = kill_at("on_train_batch_end", 6)
    again = [*FEW, "hydra.run.dir=run", "resume=auto", "callbacks.checkpoint.batches=2", *kill]
    assert run_command(train, "train", *again) is None
    assert_as_the_reference(Path("run"), reference)
    message = run_command(train, "train", *again)
    assert message is not None
    assert "is finished, after 12 batches" in message
    message = run_command(train, "train", *FEW, "resume=auto")
    assert message == "error: resume=auto: continues the run in hydra.run.dir, or starts it; set hydra.run.dir=PATH"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["resume=nowhere"], "resume=nowhere: there is no run in"),
        (["resume=run", "model.gamma=0.5"], "was started with model.gamma=0.01, not 0.5; leave the option out"),
        (["resume=run", "seed=3"], "was started with seed=0, not 3"),
        (["resume=run", "data.batch_size=8"], "was started with data.batch_size=16, not 8"),
        (["resume=run", "optimizer.decoder.lr=1e-3"], "was started with optimizer.decoder.lr=0.0003, not 0.001"),
        (["resume=run", "model/gate=equilibrium"], "was started with model.gate"),
        (["resume=run", "hydra.run.dir=other"], "a run is continued in its own directory"),
        (["--multirun", "resume=run"], "resume: continues one run; leave --multirun out"),
    ],
)
def test_another_run_is_not_continued(reference: Path, run_command: Run, options: list[str], words: str) -> None:
    copytree(reference, "run")
    before = tree(Path("run"))
    message = run_command(train, "train", *options)
    assert message is not None
    assert words in message
    assert tree(Path("run")) == before
    assert not Path("other").exists()


def test_a_rerun_of_a_finished_run_is_the_same_run(reference: Path, run_command: Run) -> None:
    assert run_command(train, "train", "rerun=reference", "hydra.run.dir=run") is None
    assert_as_the_reference(Path("run"), reference)
    log = Path("run/train.log").read_text()
    assert log.count(f"repeats      {reference}, with no changes") == 1
    assert yaml.safe_load(Path("reference/overrides.yaml").read_text()) == FEW
    assert yaml.safe_load(Path("run/overrides.yaml").read_text()) == [f"rerun={reference}"]
    (first, first_id), (second, second_id) = (
        (config, config.pop("run_id"))
        for config in (yaml.safe_load((run / "config.yaml").read_text()) for run in (reference, Path("run")))
    )
    assert first_id != second_id
    assert {**first, "sweep": None} == {**second, "sweep": None}


def test_a_rerun_takes_what_the_command_line_changes(reference: Path, run_command: Run) -> None:
    before = tree(reference)
    changes = ["seed=3", "trainer.max_epochs=1", "model/gate=equilibrium", "model/prior=standard"]
    assert run_command(train, "train", "rerun=latest", "output_root=there", *changes) is not None
    assert run_command(train, "train", "rerun=reference", "hydra.run.dir=run", *changes) is None
    first, second = (OmegaConf.to_container(OmegaConf.load(f"{run}/config.yaml")) for run in ("reference", "run"))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    a, b = overriding.flatten(first), overriding.flatten(second)
    differing = {key for key in {*a, *b} if a.get(key) != b.get(key)}
    gate = {f"model.gate.{name}" for name in ("_target_", "equilibrium", "margin")}
    assert differing - {"sweep.name", "run_id"} == {"seed", "trainer.max_epochs", "model.fakes", *gate}
    assert "with seed=3 trainer.max_epochs=1" in Path("run/train.log").read_text()
    assert column_of(Path("run"), "loss/gan") != column_of(reference, "loss/gan")[:2]
    assert tree(reference) == before


def column_of(run: Path, name: str) -> list[str]:
    with (run / "metrics.csv").open() as file:
        return [row[name] for row in csv.DictReader(file) if row[name]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["rerun=nowhere"], "there is no run in"),
        (["rerun=reference", "resume=reference"], "leave one of them out"),
        (["rerun=reference", "--multirun"], "leave --multirun out"),
        (["rerun=reference", "experiment=larsen_plus"], "experiment= sets many options"),
        (["rerun=reference", "hydra.run.dir=reference"], "already contains a run"),
        (["rerun=copy"], "sets callbacks.console._target_=os.system, which is not accepted"),
        (["rerun=linked"], "there is no run in"),
    ],
)
def test_what_cannot_be_repeated_is_refused(reference: Path, run_command: Run, options: list[str], words: str) -> None:
    for name in ("copy", "linked"):
        Path(name).mkdir()
    text = Path("reference/config.yaml").read_text()
    Path("copy/config.yaml").write_text(text.replace("vaegan_pl.training.callbacks.Console", "os.system"))
    Path("linked/config.yaml").symlink_to(reference / "config.yaml")
    before = tree(Path.cwd())
    message = run_command(train, "train", *options, "sweep.name=s")
    assert message is not None
    assert words in message
    assert tree(Path.cwd()) == before
    for name in ("copy", "linked"):
        rmtree(name)


def test_other_images_are_not_continued_on(reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run) -> None:
    copytree("outputs/phantoms", "run-data")
    Kill.armed = True
    mine = [option for option in FEW if not option.startswith("data.per_class")]
    kill = kill_at("on_train_batch_end", 3)
    options = [*mine, "data=mri", "data.root=run-data", "hydra.run.dir=run", "callbacks.checkpoint.batches=1", *kill]
    with pytest.raises(Killed):
        run_command(train, "train", *options)
    Path("run-data").rename("moved")
    next(Path("moved").rglob("*.png")).unlink()
    before = tree(Path("run"))
    message = run_command(train, "train", "resume=run", *kill)
    assert message == (
        f"error: {Path('run').resolve()}/config.yaml: the images were in run-data, outside the run's directory; to "
        "use them again, add data.root=run-data"
    )
    message = run_command(train, "train", "resume=run", *kill, "data.root=moved")
    rmtree("moved")
    assert message is not None
    assert "moved: the images or their splits have changed since this run was started" in message
    assert tree(Path("run")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_and_leaves(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run, number: signal.Signals
) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("nohup ignores the signal")
    monkeypatch.setattr(Kill, "number", number, raising=False)
    hook = ["+callbacks.kill._target_=tests.test_resume.Signal", f"+callbacks.kill.number={int(number)}"]
    Signal.armed = True
    before = signal.getsignal(number)
    assert run_command(train, "train", *FEW, *hook, "hydra.run.dir=run") == str(128 + number)
    assert signal.getsignal(number) == before
    log = Path("run/train.log").read_text()
    run = Path("run").resolve()
    assert f"stopped by {number.name} after 6 batches; continue with python -m vaegan_pl.train resume={run}" in log
    assert run_command(train, "train", "resume=latest", hook[0], hook[1]) is None
    assert_as_the_reference(Path("run"), reference)


def test_who_handles_a_signal_already_is_called_after_the_checkpoint(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    """As submitit, whose handler requeues the job and exits, or raises when it is out of time for good."""
    saved = []

    class UncompletedJobError(Exception):
        pass

    def handler(number: int, _: object) -> None:
        saved.append(checkpoints.read(Path("run/checkpoints/last.ckpt"))["global_step"])
        raise UncompletedJobError

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        hook = ["+callbacks.kill._target_=tests.test_resume.Signal", f"+callbacks.kill.number={int(signal.SIGUSR2)}"]
        Signal.armed = True
        with pytest.raises(UncompletedJobError):
            run_command(train, "train", *FEW, *hook, "hydra.run.dir=run")
        assert signal.getsignal(signal.SIGUSR2) == handler
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert saved == [6]
    assert run_command(train, "train", "resume=run", *hook) is None
    assert_as_the_reference(Path("run"), reference)


def test_another_process_trains_the_same_bits(reference: Path) -> None:
    """With another seed of Python's hashes, and so of the order of its sets."""
    command = [sys.executable, "-m", "vaegan_pl.train", *FEW, "hydra.run.dir=run"]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert_as_the_reference(Path("run"), reference)


def test_the_wandb_run_is_continued_under_its_own_id(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    stop(monkeypatch, "on_train_batch_end", 6, "callbacks.checkpoint.batches=2", "logger=default")
    assert run_command(train, "train", "resume=run", *kill_at("on_train_batch_end", 6)) is None
    parts = list(Path("run/wandb").glob("offline-run-*"))
    assert len({part.name.rpartition("-")[2] for part in parts}) == 1
    logged = []
    for part in sorted(parts):
        (file,) = part.glob("*.wandb")
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        history = [record["history"]["item"] for record in map(json.loads, lines) if record["type"] == "history"]
        logged.append([item["trainer/global_step"] for item in history if "loss/llike" in item])
    assert [step for part in logged for step in part] == [1, 3, 5, 7, 9, 11]


@pytest.mark.parametrize("damage", ["half", "empty", "missing"])
def test_the_checkpoint_before_a_damaged_one_goes_on_to_the_same_bits(
    reference: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Run,
    capfd: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    """Killed again while it is being continued, too: the damaged file must not take the place of the whole one."""
    kill = kill_at("on_train_batch_end", 7)
    stop(monkeypatch, "on_train_batch_end", 7, "callbacks.checkpoint.batches=2")
    last, previous = Path("run/checkpoints/last.ckpt"), Path("run/checkpoints/previous.ckpt")
    assert [checkpoints.read(path)["global_step"] for path in (previous, last)] == [4, 6]
    whole = last.read_bytes()
    if damage == "missing":
        last.unlink()
    else:
        last.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    Kill.armed = True
    with pytest.raises(Killed):
        run_command(train, "train", "resume=run", *kill_at("on_train_start", 1))
    assert checkpoints.read(last)["global_step"] == 4
    assert run_command(train, "train", "resume=run", *kill) is None
    said = [line for line in capfd.readouterr().out.splitlines() if "previous checkpoint, previous.ckpt" in line]
    assert len(said) == 1
    assert f"last.ckpt: is {'missing' if damage == 'missing' else 'damaged'}" in said[0]
    assert_as_the_reference(Path("run"), reference)


def test_two_damaged_checkpoints_are_refused_in_words(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    kill = kill_at("on_train_batch_end", 7)
    stop(monkeypatch, "on_train_batch_end", 7, "callbacks.checkpoint.batches=2")
    for name in ("last.ckpt", "previous.ckpt"):
        Path("run/checkpoints", name).write_bytes(b"")
    before = tree(Path("run"))
    message = run_command(train, "train", "resume=run", *kill)
    assert message is not None
    for name in ("last.ckpt", "previous.ckpt"):
        assert f"{Path('run/checkpoints', name).resolve()}: is damaged" in message
    assert tree(Path("run")) == before
    for name in ("last.ckpt", "previous.ckpt"):
        Path("run/checkpoints", name).unlink()
    before = tree(Path("run"))
    message = run_command(train, "train", "resume=run", *kill)
    assert message is not None
    assert "no checkpoint to resume from, and training again would overwrite vae_gan_model.pth" in message
    assert tree(Path("run")) == before
    Path("run/config.yaml").write_text("model: [")
    before = tree(Path("run"))
    message = run_command(train, "train", "resume=run", *kill)
    assert message is not None
    assert "config.yaml: is damaged" in message
    assert tree(Path("run")) == before


def test_a_configuration_from_elsewhere_starts_nothing_of_its_own(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    stop(monkeypatch, "on_train_batch_end", 2)
    kill = kill_at("on_train_batch_end", 2)
    path = Path("run/config.yaml")
    whole = path.read_text()
    for target in (
        "os.system",
        "vaegan_pl.runs.layout.os.system",
        "torch.optim.adam.torch.load",
        "lightning.pytorch.callbacks.ModelCheckpoint",
        "vaegan_pl.training.loggers.TensorBoard",
    ):
        path.write_text(whole.replace("vaegan_pl.training.callbacks.Console", target))
        message = run_command(train, "train", "resume=run", *kill)
        assert message is not None
        said = f"config.yaml: sets callbacks.console._target_={target}, which is not accepted from a run's directory"
        assert said in message
    path.write_text(whole.replace("torch.optim.RMSprop", "torch.optim.Adam"))
    assert run_command(train, "train", "resume=run", *kill) is None


def test_a_run_of_an_earlier_version_whose_classes_have_moved_goes_on(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    stop(monkeypatch, "on_train_batch_end", 2)
    path = Path("run/config.yaml")
    whole = path.read_text()
    before = whole.replace("vaegan_pl.training.", "vaegan_pl.").replace("vaegan_pl.sweeps.", "vaegan_pl.")
    for name in ("callbacks.Console", "checkpoints.Checkpoint", "loggers.MetricsFile"):
        assert f"_target_: vaegan_pl.{name}\n" in before
    path.write_text(before)
    assert run_command(train, "train", "resume=run", *kill_at("on_train_batch_end", 2)) is None
    assert "vaegan_pl.callbacks" not in path.read_text()


@pytest.mark.parametrize("group", ["trainer=cpu", "experiment=larsen_plus", "debug=fast"])
def test_groups_that_set_many_options_are_not_chosen_again(group: str, run_command: Run) -> None:
    message = run_command(train, "train", "resume=reference", group)
    assert f"reference: {group.partition('=')[0]}= sets many options" in str(message)


@pytest.mark.parametrize("share", ["0.5", "2"])
def test_limits_may_be_shares_or_numbers(share: str, monkeypatch: pytest.MonkeyPatch, run_command: Run) -> None:
    limit = f"+trainer.limit_train_batches={share}"
    stop(monkeypatch, "on_train_batch_end", 2, limit)
    assert run_command(train, "train", "resume=run", *kill_at("on_train_batch_end", 2)) is None


def test_a_run_that_overfits_on_purpose_is_not_resumed(monkeypatch: pytest.MonkeyPatch, run_command: Run) -> None:
    stop(monkeypatch, "on_train_batch_end", 2, "+trainer.overfit_batches=2")
    message = run_command(train, "train", "resume=run", *kill_at("on_train_batch_end", 2))
    assert "trainer.overfit_batches cannot be resumed" in str(message)


@pytest.mark.parametrize(("before", "now"), earlier_versions.MOVED.items())
def test_modules_have_moved_to_where_the_table_says(before: str, now: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module(before.rstrip("."))
    import_module(now.rstrip("."))


def test_options_that_had_no_effect_are_dropped_from_earlier_configurations() -> None:
    stored = {"model": {"prior": {"weight": 1.0, "warm_up": 0, "free_bits": 0.0}}}
    earlier_versions.update(stored)
    assert stored == {"model": {"prior": {"weight": 1.0, "free_bits": 0.0}}}
    grown = {"model": {"prior": {"weight": 1.0, "warm_up": 225}}}
    earlier_versions.update(grown)
    assert grown["model"]["prior"]["warm_up"] == 225  # which nothing accepts any more


def test_samples_of_earlier_runs_are_drawn_as_they_were() -> None:
    stored = {"callbacks": {"quality": {"n": 8}, "pictures": {"samples": 4}, "curves": None}}
    earlier_versions.update(stored)
    assert stored["callbacks"] == {
        "quality": {"n": 8, "prior": "normal"},
        "pictures": {"samples": 4, "prior": "normal"},
        "curves": None,
    }
    now = {"callbacks": {"quality": {"n": 8, "prior": "fitted"}, "pictures": None}}
    earlier_versions.update(now)
    assert now["callbacks"] == {"quality": {"n": 8, "prior": "fitted"}, "pictures": None}


def test_the_images_of_a_resumed_run_are_named_in_full(tmp_path: Path) -> None:
    """The command that a resumed run prints needs the data options of the first command, and those given now."""
    given = ["experiment=larsen_plus", "data=mri", "data.root=/old", "data.fold=2", "data.batch_size=4", "data.evil=1"]
    (tmp_path / "overrides.yaml").write_text("".join(f"- {option}\n" for option in given))
    found = stored_config.data_options_of(tmp_path, ["data=phantom", "data.root=/new"])
    assert found == ["data=mri", "data.root=/new", "data.fold=2"]
    (tmp_path / "overrides.yaml").unlink()
    assert stored_config.data_options_of(tmp_path, ["data=phantom"]) == ["data=phantom"]


def test_evaluating_a_run_of_an_earlier_version_splits_images_as_it_did(tmp_path: Path) -> None:
    (tmp_path / "overrides.yaml").write_text("- data=mri\n- data.root=heads\n")
    (tmp_path / "config.yaml").write_text("data: {split: group, published: true}\n")
    found = stored_config.data_options_of(tmp_path, ["data=mri", "data.root=/new"])
    assert found == ["data=mri", "data.root=/new", "data.registered_correlation=null", "data.masks=keep"]
    (tmp_path / "config.yaml").write_text("data: {split: group}\n")
    found = stored_config.data_options_of(tmp_path, ["data=mri", "data.published=true"])
    of_its_time = {"data.registered_correlation=null", "data.masks=keep"}
    assert set(found) == {"data=mri", "data.root=heads", "data.published=true"} | of_its_time


HOSTILE = {
    "callbacks.console.directory": "/elsewhere",
    "callbacks.model_file.path": "../../precious",
    "callbacks.checkpoint.path": "${output_root}/precious",
    "callbacks.pictures.directory": "images",
    "logger.csv.directory": "/elsewhere",
    "logger.wandb.save_dir": "/elsewhere",
    "logger.wandb.settings": {"_target_": "wandb.Settings", "base_url": "http://127.0.0.1:9"},
    "logger.wandb.entity": "somebody",
    "logger.wandb.offline": False,
    "logger.wandb.project": "http://127.0.0.1:9",
    "trainer.default_root_dir": "/elsewhere",
    "trainer.plugins": [{"_target_": "lightning.pytorch.plugins.io.AsyncCheckpointIO"}],
    "trainer.profiler": "simple",
    "trainer.strategy": "deepspeed",
    "trainer.fast_dev_run": True,
    "data.patient": "(a+)+$",
    "data.root": "/elsewhere",
    "data.classes": [{"_target_": "os.system"}],
    "data.augmentation._target_": "os.system",
    "data.per_class": {"../../precious": {"_target_": "os.system"}},
    "optimizer.encoder.lr": {"_target_": "os.system"},
    "optimizer.encoder.params": "x",
    "model.networks.latent_dim": "${oc.env:HOME}",
    "model.networks.encoder_channels": ["${oc.create:{_target_: os.system}}"],
    "model.networks.extra": 3,
    "run_id": "../../precious",
    "seed": 2**70,
    "data.split_seed": None,
    "data.test_fraction": {},
    "data.validation_fraction": [1, 2],
    "data.augmentation": {},
    "model.networks": None,
    "model.gamma": "much",
    "trainer.log_every_n_steps": {},
    "trainer.max_steps": [1],
    "trainer.devices": 1000,
    "trainer.num_nodes": 2,
    "logger.csv": None,
    "logger.csv.directory ": {},
    "logger.evil": {},
    "callbacks.console": {},
    "callbacks.evil": {},
    "callbacks.pictures.samples": 10**15,
    "data.image_size": 4096,
    "data.batch_size": 10**17,
    "optimizer.encoder._partial_": None,
    "optimizer.decoder._target_": "torch.optim.LBFGS",
    "optimizer.discriminator": [],
    "optimizer.schedule": {},
    "optimizer.schedule._target_": "torch.optim.lr_scheduler.ChainedScheduler",
    "optimizer.schedule.lr_lambda": {"_target_": "os.system"},
    "optimizer.schedule.T_max": "${oc.env:HOME}",
    "surprise": {"_target_": "os.system"},
    "\x1b[31m": 1,
}


@pytest.mark.parametrize("key", HOSTILE)
def test_what_a_runs_directory_may_not_say_is_refused_and_leaves_no_trace(
    reference: Path, run_command: Run, key: str
) -> None:
    copytree(reference, "run")
    path = Path("run/config.yaml")
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    *parts, last = key.split(".")
    node = config
    for part in parts:
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
    node[last] = HOSTILE[key]
    path.write_text(yaml.safe_dump(config))
    before, around = tree(Path("run")), tree(Path.cwd(), leaving_out="run")
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4")
    assert message is not None
    assert message.startswith(f"error: {path.resolve()}: ")
    assert "\n" not in message
    assert "\x1b" not in message
    assert (key == "data.root") == ("the images were in /elsewhere" in message)
    assert tree(Path("run")) == before
    assert tree(Path.cwd(), leaving_out="run") == around


def test_a_group_on_the_command_line_takes_nothing_of_the_stored_one(
    reference: Path, run_command: Run, write_classes: Callable[..., Path]
) -> None:
    """`data=mri` leaves `data.root` open, which the run's directory must not fill in."""
    copytree(reference, "run")
    write_classes(Path("run-data"), per_class=10)
    path = Path("run/config.yaml")
    whole = OmegaConf.load(path)
    before = tree(Path("run"))
    for root in ("run-data", {"_target_": "pathlib.Path.touch", "self": "executed"}):
        config: Any = OmegaConf.to_container(whole)
        config["data"]["root"] = root
        path.write_text(yaml.safe_dump(config))
        message = run_command(train, "train", "resume=run", "trainer.max_epochs=4", "data=mri")
        assert message is not None
        assert "data.root" in message
        assert {name: text for name, text in tree(Path("run")).items() if name != path} == {
            name: text for name, text in before.items() if name != path
        }
    rmtree("run-data")
    assert not Path("executed").exists()


def test_a_logger_that_a_run_did_not_have_is_taken_whole(reference: Path, run_command: Run) -> None:
    copytree(reference, "run")
    assert "wandb" not in OmegaConf.load("run/config.yaml").logger
    assert run_command(train, "train", "resume=run", "trainer.max_epochs=4", "logger.wandb.offline=true") is None
    assert list(Path("run/wandb").glob("offline-run-*"))
    assert run_command(train, "train", "resume=run", "trainer.max_epochs=5", "logger.wandb.offline=true") is None


def test_parts_that_are_none_are_left_out_and_others_named(reference: Path, run_command: Run) -> None:
    copytree(reference, "run")
    before = tree(Path("run"))
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4", "+callbacks.mine.n=3")
    assert message == "error: callbacks.mine: is not a callback; set callbacks.mine._target_, or leave it out"
    assert tree(Path("run")) == before
    assert run_command(train, "train", "resume=run", "trainer.max_epochs=4", "callbacks.pictures=null") is None
    assert not Path("run/images/samples_epoch_0004.png").exists()


def test_links_in_a_circle_are_refused(reference: Path, run_command: Run) -> None:
    copytree(reference, "run")
    Path("run/a").symlink_to("b")
    Path("run/b").symlink_to("a")
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4")
    assert re.search("run/[ab]: is a pipe, a device or a link to somewhere else", str(message))


@pytest.mark.parametrize("at", ["wandb", "train.log"])
def test_a_new_run_does_not_write_through_what_is_there(run_command: Run, at: str) -> None:
    Path("run").mkdir()
    Path("thesis.txt").write_text("mine")
    Path("run", at).symlink_to(Path("thesis.txt").resolve())
    for resume in ([], ["resume=auto"]):
        message = run_command(train, "train", *FEW, "hydra.run.dir=run", *resume)
        assert f"run/{at}: is in the way of a file that a run writes" in str(message)
    assert Path("thesis.txt").read_text() == "mine"
    Path("thesis.txt").unlink()


def test_a_new_run_does_not_write_over_what_its_callbacks_point_at(run_command: Run) -> None:
    Path("mine").mkdir()
    for name, option in (
        ("metrics.csv", "logger.csv.directory=mine"),
        ("model.pth", "callbacks.model_file.path=mine/model.pth"),
        ("progress.png", "callbacks.pictures.directory=mine"),
    ):
        file = Path("mine", name)
        file.write_text("weeks of work")
        message = run_command(train, "train", *FEW, "hydra.run.dir=run", option)
        assert "in the way of a file that a run writes" in str(message) or "already contains a run" in str(message)
        assert file.read_text() == "weeks of work"
        file.unlink()
    rmtree("mine")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(format_version=torch.tensor([1, 2])),
        lambda c: c.update(global_step=torch.tensor(4)),
        lambda c: c["callbacks"]["ModelFile"].update(lowest=2**60),
        lambda c: c["callbacks"]["Checkpoint"]["finished"].update(max_epochs=torch.tensor([3, 3])),
        lambda c: c["optimizer_states"][0]["param_groups"][0].update(alpha=torch.tensor([0.9, 0.9])),
        lambda c: c["optimizer_states"][0]["state"][0].pop("square_avg"),
        lambda c: c["optimizer_states"][0]["state"][0].update(square_avg=torch.tensor(1.0)),
        lambda c: c["optimizer_states"][0]["state"][0].update(square_avg="x"),
    ],
)
def test_a_checkpoint_that_somebody_changed_is_refused_in_one_line(
    reference: Path, run_command: Run, change: Callable[[dict[str, Any]], None]
) -> None:
    copytree(reference, "run")
    Path("run/checkpoints/previous.ckpt").unlink(missing_ok=True)
    path = Path("run/checkpoints/last.ckpt")
    content = contents(path)
    change(content)
    torch.save(content, path)
    before = tree(Path("run"))
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4")
    assert message is not None
    assert "\n" not in message
    assert tree(Path("run")) == before


def test_what_the_command_line_gives_again_is_trusted(reference: Path, run_command: Run, tmp_path: Path) -> None:
    copytree(reference, "run")
    path = Path("run/config.yaml")
    path.write_text(path.read_text().replace("${directory}/images", "/elsewhere"))
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4")
    assert message is not None
    assert message.endswith("if you trust it, add callbacks.pictures.directory=/elsewhere")
    again = f"callbacks.pictures.directory={tmp_path}"
    assert run_command(train, "train", "resume=run", "trainer.max_epochs=4", again) is None
    assert (tmp_path / "samples_epoch_0004.png").exists()


@pytest.mark.parametrize("link", ["metrics.csv", "images", "checkpoints", "curves.png", "wandb"])
def test_links_in_a_runs_directory_lead_nowhere(reference: Path, run_command: Run, link: str) -> None:
    copytree(reference, "run")
    Path("precious").mkdir(exist_ok=True)
    path = Path("run", link)
    if path.is_dir():
        rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(Path("precious").resolve())
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4")
    assert message is not None
    assert f"{path.parent.resolve() / link}: is a pipe, a device or a link to somewhere else" in message
    assert list(Path("precious").iterdir()) == []


def test_settings_of_wandb_are_not_taken_from_a_runs_directory(reference: Path, run_command: Run) -> None:
    copytree(reference, "run")
    Path("run/wandb").mkdir()
    Path("run/wandb/settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4")
    assert message is not None
    assert "run/wandb/settings: would change where W&B sends its data" in message


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another shape": lambda c: c["state_dict"].update({next(iter(c["state_dict"])): torch.zeros(3)}),
    "not finite": lambda c: next(iter(c["state_dict"].values())).fill_(float("nan")),
    "a parameter less": lambda c: c["state_dict"].popitem(),
    "an optimizer less": lambda c: c["optimizer_states"].pop(),
    "a group less": lambda c: c["optimizer_states"][0]["param_groups"].pop(),
    "another alpha": lambda c: c["optimizer_states"][0]["param_groups"][0].update(alpha=0.5),
    "a wild rate": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=1e9),
    "a word for a rate": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr="fast"),
    "another state": lambda c: c["optimizer_states"][0]["state"][0].update(square_avg=torch.zeros(2)),
    "a state of nothing": lambda c: c["optimizer_states"][0]["state"].update({99: {}}),
    "no counts": lambda c: c.update(global_step="many"),
    "no skipped": lambda c: c.pop("skipped"),
    "no callbacks": lambda c: c.pop("callbacks"),
    "other limits": lambda c: c["callbacks"].update(Checkpoint={"finished": {"_target_": 1}}),
    "callbacks' states": lambda c: c["callbacks"].update(Quality=3),
    "a word for a best": lambda c: c["callbacks"].update(ModelFile={"lowest": "low"}),
    "no data": lambda c: c.pop("PhantomFolders"),
    "a word for an epoch": lambda c: c["PhantomFolders"].update(epoch="first"),
    "an epoch before the first": lambda c: c["PhantomFolders"].update(epoch=-1),
    "another Lightning": lambda c: c.update({"pytorch-lightning_version": "0.0.1"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_does_not_fit_is_refused_and_leaves_no_trace(
    reference: Path, run_command: Run, change: str
) -> None:
    copytree(reference, "run")
    path = Path("run/checkpoints/last.ckpt")
    content = torch.load(path, weights_only=True)
    CHANGES[change](content)
    torch.save(content, path)
    before = tree(Path("run"))
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4")
    assert message is not None
    assert message.startswith("error: ")
    assert "\n" not in message
    assert tree(Path("run")) == before


def test_what_a_checkpoint_says_of_lightnings_loops_counts_for_nothing(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    stop(monkeypatch, "on_train_batch_end", 7, "callbacks.checkpoint.batches=2")
    for name in ("last.ckpt", "previous.ckpt"):
        content = torch.load(Path("run/checkpoints", name), weights_only=True)
        content |= {"loops": {"fit_loop": {"epoch_progress": "the end"}}, "epoch": 10**6}
        torch.save(content, Path("run/checkpoints", name))
    assert run_command(train, "train", "resume=run", *kill_at("on_train_batch_end", 7)) is None
    assert_as_the_reference(Path("run"), reference)


def test_what_a_configuration_hides_is_refused(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    stop(monkeypatch, "on_train_batch_end", 2)
    kill = kill_at("on_train_batch_end", 2)
    path = Path("run/config.yaml")
    hidden = "${oc.create:{_target_: pathlib.Path.touch, self: executed}}"
    path.write_text(path.read_text().replace("callbacks:", f"callbacks:\n  x: '{hidden}'", 1))
    message = run_command(train, "train", "resume=run", *kill)
    assert message is not None
    assert "which is not accepted from a run's directory; nothing was started" in message
    assert not Path("executed").exists()


def test_an_extension_that_was_killed_is_resumed(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    kill = kill_at("on_train_batch_end", 1)
    assert run_command(train, "train", *FEW, "hydra.run.dir=run", "trainer.max_epochs=2", *kill) is None
    Kill.armed = True
    with pytest.raises(Killed):
        run_command(train, "train", "resume=run", *kill, f"trainer.max_epochs={EPOCHS}")
    assert run_command(train, "train", "resume=run", *kill) is None
    assert_as_the_reference(Path("run"), reference)


def test_two_processes_do_not_train_in_one_directory(reference: Path, run_command: Run) -> None:
    copytree(reference, "run")
    held = layout.lock(Path("run"))
    assert held is not None
    message = run_command(train, "train", "resume=run", "trainer.max_epochs=4")
    os.close(held)
    assert message == f"error: {Path('run').resolve()}: another process is training in it; wait for it, or stop it"


def test_paths_with_spaces_quotes_and_a_home(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    short = [*FEW, "trainer.max_epochs=1", "callbacks.quality.n=0"]
    assert run_command(train, "train", *short, "resume=auto", "hydra.run.dir='run/its γ=1'") is None
    message = run_command(train, "train", *short, "resume=auto", "hydra.run.dir='run/its γ=1'")
    assert message is not None
    assert "run/its γ=1: is finished" in message
    message = run_command(train, "train", "resume=~/run/its γ=1")
    assert message is not None
    assert "run/its γ=1: is finished" in message


def test_rows_that_a_full_disk_cut_off_are_written_whole_later(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()
    path = tmp_path / "metrics.csv"
    logger.log_metrics({"a": 2.0}, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 2, limits[1]))
    try:
        logger.save()
        assert path.read_text().splitlines() == ["a,step", "1.0,0"]
        logger.log_metrics({"b": 3.0}, 2)
        logger.save()
        assert path.read_text().splitlines() == ["a,step", "1.0,0"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    logger.save()
    assert path.read_text().splitlines() == ["a,b,step", "1.0,,0", "2.0,,1", ",3.0,2"]
    path.write_text(path.read_text() + "9.9,1")
    logger.keep(before=2)
    assert path.read_text().splitlines() == ["a,step", "1.0,0", "2.0,1"]


def test_intervals_must_be_positive(run_command: Run) -> None:
    message = run_command(train, "train", *FEW, "callbacks.checkpoint.minutes=0.0")
    assert message is not None
    assert "callbacks.checkpoint: minutes and batches must be positive" in message


@pytest.mark.parametrize(
    ("code", "words"), [(0, "job 7_3 was requeued"), (1, "job 7_3 could not be requeued: no such job")]
)
def test_slurm_is_asked_to_requeue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, words: str
) -> None:
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho no such job >&2\nexit {code}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with caplog.at_level("WARNING"):
        checkpoints.requeue({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"})
    assert (tmp_path / "asked").read_text() == "requeue 7_3\n"
    assert words in caplog.text
    monkeypatch.setenv("PATH", "")
    checkpoints.requeue({"SLURM_JOB_ID": "9"})
    assert "job 9 could not be requeued" in caplog.text


class Vanish(L.Callback):
    """Removes the run's directory in the sixth batch."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if checkpoints.trained(trainer) == 5:
            rmtree("run")


def test_a_directory_that_vanishes_is_made_again(
    reference: Path, run_command: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    vanish = ["+callbacks.vanish._target_=tests.test_resume.Vanish", "callbacks.checkpoint.batches=2"]
    assert run_command(train, "train", *FEW, *vanish, "hydra.run.dir=run") is None
    for name in ("vae_gan_model.pth", "checkpoints/last.ckpt"):
        a, b = (contents(folder / name)["state_dict"] for folder in (Path("run"), reference))
        assert digest(a) == digest(b)
    assert (
        "samples_epoch_0001.png" in capfd.readouterr().out
    )  # the picture of the first epoch is gone, and this is told


def test_cards_and_pictures_that_cannot_be_written_end_no_training(
    reference: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    write = files.atomic_write

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if path.suffix in (".md", ".png", ".html", ".json"):
            raise OSError(28, "No space left on device", str(path))
        write(path, *arguments, **options)

    for module in ("model_card", "pictures", "data_report", "curves"):
        monkeypatch.setattr(f"vaegan_pl.report.{module}.atomic_write", full)
    few = [option for option in FEW if not option.startswith("~callbacks")]
    assert run_command(train, "train", *few, "hydra.run.dir=run") is None
    for name in ("vae_gan_model.pth", "checkpoints/last.ckpt"):
        a, b = (contents(folder / name)["state_dict"] for folder in (Path("run"), reference))
        assert digest(a) == digest(b)
    said = capfd.readouterr().out
    for what in ("the card of vae_gan_model.pth", "pictures of this epoch", "the data report", "curves.png"):
        assert f"{what} could not be written" in said
    made = {path.name for path in Path("run").rglob("*") if path.is_file()}
    assert not {name for name in made if name.endswith((".md", ".png", ".html", ".json"))}
