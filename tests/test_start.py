"""Commands start where people start them: notebooks, containers, Slurm shells, pipes, folders with odd names."""

import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from vaegan_pl.cli.inspect_data import inspect_data
from vaegan_pl.cli.sample import sample
from vaegan_pl.cli.train import train
from vaegan_pl.console import EnduringStream, as_option

from .conftest import SMALL, networks_with, save_model
from .processes import started

Run = Callable[..., str | None]
FEW = [
    *SMALL,
    "data.per_class.Training=16",
    "data.per_class.Testing=4",
    "trainer.max_epochs=1",
    "callbacks.pictures.samples=1",
    "hydra.run.dir=run",
]


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def batches() -> int:
    return int(torch.load("run/vae_gan_model.pth", weights_only=True)["training"]["batches"])


def test_a_notebooks_backend_of_matplotlib_is_not_asked_for(write_classes: Callable[..., Path]) -> None:
    write_classes(Path("data"), per_class=10)
    command = [sys.executable, "-m", "vaegan_pl.inspect_data", "data.root=data"]
    environment = {
        **os.environ,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert Path("outputs/data_report/data_report.html").exists()


@pytest.mark.parametrize("home", ["C:\\Users\\x", None])
def test_a_home_of_another_system_or_none_at_all(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    def nobody(_: int) -> None:
        raise KeyError("no such user")

    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", nobody)
    else:
        monkeypatch.setenv("HOME", home)
    save_model(Path("m.pth"), networks_with())
    assert run_command(sample, "sample", "weights=m.pth", "n=1", "output=out") is None
    message = run_command(sample, "sample", "weights=~/m.pth")
    assert message is not None
    assert ("there is no home directory here" if home is None else "m.pth: no such file") in message
    assert run_command(train, "train", *FEW) is None
    assert batches() == 4


@pytest.mark.parametrize("option", ["logger=null", "callbacks=null", "model/gate=null"])
def test_groups_can_be_left_out(run_command: Run, option: str) -> None:
    few = [o for o in FEW if option != "callbacks=null" or not o.lstrip("~").startswith("callbacks.")]
    assert run_command(train, "train", *few, option) is None
    made = {path.name for path in Path("run").iterdir()}
    assert "config.yaml" in made
    assert ("metrics.csv" in made) == (option != "logger=null")
    assert ("vae_gan_model.pth" in made) == (option != "callbacks=null")
    if option == "callbacks=null":
        assert "callbacks=null: no model, checkpoint or picture is kept" in Path("run/train.log").read_text()


def test_a_group_that_is_needed_is_named_with_its_choices(run_command: Run) -> None:
    message = run_command(train, "train", "model=null")
    assert message is not None
    assert message.startswith("error: model=null: cannot be left out; use one of conditional, gan, larsen,")


def test_hydras_working_directory_moves_no_cache_and_no_latest(run_command: Run) -> None:
    here = Path.cwd()
    assert run_command(train, "train", *FEW, "hydra.job.chdir=true") is None
    assert Path.cwd() == here
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["cache", "latest", "phantoms"]
    assert Path("outputs/latest").resolve() == Path("run").resolve()
    assert not Path("run/outputs").exists()


@pytest.mark.parametrize("name", ["bash", "training"])
def test_a_slurm_shell_with_several_tasks_trains_one_model(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What sbatch sets in its script, and salloc in its shell, where nothing was started by srun."""
    shell = {"NTASKS": "4", "JOB_ID": "7", "JOB_NAME": name, "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for variable, value in shell.items():
        monkeypatch.setenv(f"SLURM_{variable}", value)
    assert run_command(train, "train", *FEW, "logger=csv", "trainer.accelerator=auto") is None
    assert batches() == 4


def test_several_tasks_of_srun_for_one_device_are_refused(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"NTASKS": "4", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0", "STEP_NUM_TASKS": "4"}.items():
        monkeypatch.setenv(f"SLURM_{variable}", value)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    message = run_command(train, "train", *FEW, "logger=csv")
    assert message == (
        "error: several processes were started for one device; set trainer.devices and trainer.strategy=ddp"
    )


@pytest.mark.parametrize("what", ["a closed pipe", "a full disk", "a closed file"])
def test_training_outlives_the_console(run_command: Run, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "a full disk":
        stream: Any = open("/dev/full", "w")  # noqa: PTH123, SIM115
    else:
        read, write = os.pipe()
        os.close(read)
        stream = os.fdopen(write, "w")
        if what == "a closed file":
            stream.close()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        patch.setattr("sys.stderr", stream)
        assert run_command(train, "train", *FEW, "logger=csv") is None
    assert batches() == 4
    assert "4 batches in" in Path("run/train.log").read_text()
    try:
        stream.close()
    except OSError:
        assert what == "a full disk"


def test_a_process_whose_reader_goes_ends_as_ever() -> None:
    process = started("vaegan_pl.train", *FEW, "logger=csv")
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    assert process.wait(120) == 0
    assert batches() == 4


@pytest.mark.parametrize(
    "closed", [">&- 2>&-", *(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", "2>&-"))]
)
def test_a_stream_that_was_closed_before_the_start_is_done_without(closed: str) -> None:
    command = shlex.join([sys.executable, "-m", "vaegan_pl.train", *FEW, "logger=csv"])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run(["sh", "-c", f"{command} {closed}"], env=environment, check=False).returncode == 0
    assert batches() == 4
    assert "4 batches in" in Path("run/train.log").read_text()


def test_a_stream_that_works_is_written_to() -> None:
    text = StringIO()
    stream = EnduringStream(text)
    assert stream.write("abc") == 3
    stream.flush()
    assert text.getvalue() == "abc"
    assert not stream.isatty()


@pytest.mark.parametrize(
    "name",
    ["archive (1)", "josé", "a=b", "a#b", "O'Brien", 'say "x"', "x]", "{a}", "a;b", "a\\b'c", "a, b", "[x]"],
)
def test_folders_of_any_name_work_when_quoted_as_the_message_says(
    run_command: Run, write_classes: Callable[..., Path], name: str
) -> None:
    write_classes(Path(name), per_class=10)
    message = run_command(inspect_data, "inspect_data", f"data.root={name}")
    if name == "[x]":
        assert "must be a single value; put text with brackets in quotes" in str(message)
        typed = as_option("data.root", name)
    else:
        assert message is not None
        assert ("contains characters that must be quoted; write " in message) or ("lists several values" in message)
        written = message.partition("write ")[2].removesuffix(", for a sweep add --multirun")
        (typed,) = shlex.split(written)
    assert run_command(inspect_data, "inspect_data", typed) is None
    assert Path("outputs/data_report/data_report.html").exists()


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: "${" not in text))
def test_options_come_out_of_hydra_as_they_were_meant(text: str) -> None:
    value = OverridesParser.create().parse_override(as_option("data.root", text)).value()
    assert (type(value), str(value)) == (str, text) or (str(value) == text and not isinstance(value, int | float))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["trainer.limit_train_batches=3"],
            "trainer.limit_train_batches is not among the options that --help shows; to add it, put a + before it: "
            "+trainer.limit_train_batches=VALUE",
        ),
        (["data.aliases.knee=glioma"], "+data.aliases.knee=VALUE"),
        (["trainer.gradient_clip_val=1"], "has no effect, because this project uses manual optimization"),
        (["+trainer.gradient_clip_val=1"], "lower the learning rates optimizer.*.lr"),
        (["+trainer.accumulate_grad_batches=4"], "raise data.batch_size"),
        (["trainer.max_epoch=1"], "there is no option trainer.max_epoch; did you mean trainer.max_epochs?"),
        (["data.root=[a,b]"], "data.root=['a', 'b']: must be a single value"),
        (["train"], "train: is not an option; options are written name=value"),
        (["model.networks.encoder_features=1000000000"], "parameters need"),
        (["model.networks._target_=tests.test_start.own_networks"], "cannot be stored in a model file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_messages_say_what_to_type(run_command: Run, options: list[str], message: str) -> None:
    found = run_command(train, "train", *(o for o in FEW if "encoder_features" not in o), *options)
    assert found is not None
    assert found.startswith("error: ")
    assert message in found
    assert not Path("run").exists()


def own_networks(**arguments: Any) -> Any:
    """Networks of somebody's own."""
    from vaegan_pl.model.networks import Networks

    class Own(Networks):
        pass

    return Own(**arguments)


def test_an_option_that_the_message_tells_works(run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "+trainer.limit_train_batches=3", "logger=csv") is None
    assert batches() == 3
