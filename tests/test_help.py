"""`--help`: every option is described next to its value, and shown with it."""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vaegan_pl.cli import descriptions, help_page
from vaegan_pl.cli.commands import CONFIG_DIRECTORY, FREE
from vaegan_pl.cli.sample import sample
from vaegan_pl.cli.train import train

COMMANDS = sorted(path.stem for path in CONFIG_DIRECTORY.glob("*.yaml") if "\n  - command\n" in path.read_text("utf-8"))
CHOICES = {
    str(folder.relative_to(CONFIG_DIRECTORY)): sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in CONFIG_DIRECTORY.glob("**/")
    if folder != CONFIG_DIRECTORY and "hydra" not in folder.parts and list(folder.glob("*.yaml"))
}
"""Choices of each group."""

ALONE = [group for group in CHOICES if group in ("experiment", "debug") or "/" in group]
"""Groups that override others."""

TOGETHER = [
    [f"{group}={choices[i % len(choices)]}" for group, choices in CHOICES.items() if group not in ALONE]
    for i in range(max(len(choices) for group, choices in CHOICES.items() if group not in ALONE))
]
"""Options of the training command that choose everything at least once, in few compositions."""

FILE = """\
# @package _global_
# What the file is,
# in two lines.
#
# python -m command a=1

defaults:
  - command
  # What data is for.
  - data: mri
  - model@part: null
  - override /logger: csv
  - _self_

# About a.
a: 1
b: ???  # not above it
# About c.
c: &same
  _target_: some.Class
  # About d,
  # in two lines.
  d: [1, 2]

  # Not directly above e.

  e: x
f: *same
"""


def test_descriptions_are_the_comments_above_options(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text(FILE)
    found = descriptions.read(tmp_path / "file.yaml")
    assert found.summary == "What the file is, in two lines."
    assert found.more == ["python -m command a=1"]
    assert found.groups == {"data": "What data is for.", "model": ""}
    inside = {"d": "About d, in two lines.", "e": ""}
    assert found.options == {
        "a": "About a.",
        "b": "",
        "c": "About c.",
        **{f"c.{name}": text for name, text in inside.items()},
        "f": "",
        **{f"f.{name}": text for name, text in inside.items()},
    }


def test_the_head_of_a_file_describes_no_option(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("# About the file.\na: 1\n")
    found = descriptions.read(tmp_path / "file.yaml")
    assert (found.summary, found.options) == ("About the file.", {"a": ""})


@cache
def read(command: str, *options: str) -> help_page.Command:
    return help_page.read([CONFIG_DIRECTORY], command, options)


def shown(command: help_page.Command) -> str:
    return help_page.render(command, 100_000)  # so that no text is wrapped


def names(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The options of a configuration that hold a value."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from names(value, f"{prefix}{name}.")
        elif name not in ("_target_", "_partial_"):
            yield f"{prefix}{name}"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        *((command, []) for command in COMMANDS),
        *(("train", options) for options in TOGETHER),
        *(("train", [f"{group}={choice}"]) for group in ALONE for choice in CHOICES[group]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_every_option_of_every_file_is_described_and_shown(command: str, options: list[str]) -> None:
    composed = read(command, *options)
    page = shown(composed)
    described = composed.descriptions
    known = {name for name in names(composed.values) if not name.startswith(("hydra.", *FREE))}
    assert known - described.keys() == set()
    for name in (name for name in described if name in known or name.startswith("hydra.")):
        value_and_text = r"(=\S.*?| \(required\))?\s+" + re.escape(described[name]) + "$"
        assert re.search(f"^  {re.escape(name)}{value_and_text}", page, re.MULTILINE), name
    assert [g.name for g in composed.groups if not g.purpose] == []
    for option in options:
        summary = descriptions.read(CONFIG_DIRECTORY / f"{option.replace('=', '/')}.yaml").summary
        assert summary
        assert re.search(rf"^    \* {option.partition('=')[2]} +{re.escape(summary)}$", page, re.MULTILINE)
    assert page.startswith(f"{descriptions.read(CONFIG_DIRECTORY / f'{command}.yaml').summary}\n\nUsage: ")
    assert len(page.partition("\n")[0]) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_commands_have_options_that_exist(command: str) -> None:
    composed = read(command)
    choices = {group.name: list(group.choices) for group in composed.groups}
    assert composed.examples
    for example in composed.examples:
        program, *options = shlex.split(example)[2:]
        assert (example.startswith("python -m "), program) == (True, f"vaegan_pl.{command}")
        for name, _, value in (option.partition("=") for option in options):
            assert value in choices[name] if name in choices else name in names(composed.values)


def test_a_commands_own_options_come_first_then_groups_and_their_options() -> None:
    page = help_page.render(read("sample", "n=3"), 80)
    places = [
        page.index(text) for text in ("weights (required)", "n=3", "* mri", "data.root (required)", "--hydra-help")
    ]
    assert places == sorted(places)
    assert "model=" not in page
    assert max(len(line) for line in page.splitlines() if "python -m" not in line) <= 80


def test_choices_on_the_command_line_are_marked_and_bring_their_values() -> None:
    default, plus = shown(read("train")), shown(read("train", "experiment=[larsen_plus,sweep_gamma_lr]"))
    for line in ("model.gamma=0.01", "model.ema=null", "model.networks.encoder_channels=[64,128,256]"):
        assert re.search(rf"^  {re.escape(line)}(\s|$)", default, re.MULTILINE)
    for line in ("model.gamma=0.003", "model.ema=0.995", "model.networks.encoder_channels=[32,64,128]"):
        assert re.search(rf"^  {re.escape(line)}(\s|$)", plus, re.MULTILINE)
    assert re.findall(r"^    \* (\w+)", default, re.MULTILINE).count("larsen") == 1
    assert re.findall(r"\* (larsen_plus|sweep_gamma_lr|larsen)\b", plus) == [
        "larsen_plus",
        "larsen_plus",
        "sweep_gamma_lr",
    ]
    assert "experiment=null" not in plus
    assert "data.phantom_seed=0" in default
    assert "data.phantom_seed" not in shown(read("train", "data=mri"))


def test_what_an_option_inherits_and_overrides_is_described_once() -> None:
    """data/phantom.yaml has a root of its own and takes the other options of data/mri.yaml."""
    mri, phantom = read("train", "data=mri").descriptions, read("train", "data=phantom").descriptions
    assert mri["data.root"] != phantom["data.root"]
    assert mri["data.white"] == phantom["data.white"]
    assert shown(read("train", "data=phantom")).count(phantom["data.white"]) == 1


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_takes_whatever_a_command_takes(
    flag: str, run_command: Callable[..., str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["resume=latest", "model/gate=null", "logger=null", "--multirun", "seed=1,2", "sweep.seeds=7"]
    assert run_command(train, "train", flag, *options) is None
    page = capsys.readouterr().out
    assert page.startswith("Train a model")
    for option in ("resume=latest", "seed=0", "sweep.seeds=7"):
        assert f"\n  {option} " in page
    assert "\n  logger.csv" not in page


def test_choices_of_a_users_own_folder_are_listed_and_taken(
    run_command: Callable[..., str | None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = tmp_path / "my, confs" / "data" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# My images.\n\ndefaults:\n  - mri\n\n# Where mine are.\nroot: /mine\n")
    assert run_command(sample, "sample", "--help", "--config-dir", str(tmp_path / "my, confs"), "data=mine") is None
    page = capsys.readouterr().out
    assert re.search(r"^    \* mine +My images\.$", page, re.MULTILINE)
    assert re.search(r"^  data\.root=/mine +Where mine are\.$", page, re.MULTILINE)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("wieghts=m.pth", "there is no option wieghts; did you mean weights?"),
        ("trainer.accelerator=cpu", "there is no option trainer.accelerator; did you mean accelerator?"),
        ("optimizer.encoder.lr=1", "there is no option optimizer.encoder.lr; --help shows them all"),
        ("callbacks.foo=1", "there is no option callbacks.foo; --help shows them all"),
        ("trainer.gradient_clip_val=1", "there is no option trainer.gradient_clip_val; --help shows them all"),
        ("model=larsen", "there is no option model; --help shows them all"),
        ("data=brains", "use one of mri"),
        ("samples", "name=value"),
    ],
)
def test_help_reports_options_that_do_not_exist(
    option: str, message: str, run_command: Callable[..., str | None]
) -> None:
    found = run_command(sample, "sample", "--help", option)
    assert found is not None
    assert found.startswith("error: ")
    assert message in found
