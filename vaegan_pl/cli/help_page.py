"""The page that `--help` shows: what a command does, its own options, and those of the groups that it uses."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from vaegan_pl.cli import descriptions
from vaegan_pl.cli.descriptions import Descriptions
from vaegan_pl.console import as_option

WIDEST = 40
"""Maximum width of the left side of a table, in columns; longer entries get a line of their own."""

HYDRA_FLAGS = (
    "Flags of Hydra: --cfg job prints the configuration as YAML, --multirun (train only) runs every combination of "
    "values separated by commas, --hydra-help lists the others."
)


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: the left side.
        text: the right side, wrapped where it is longer than the line.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Group:
    """A group of options, for which one choice is made.

    Attributes:
        name: its name, such as `data` or `model/networks`.
        purpose: what the command uses it for; empty if no comment says so.
        choices: all choices, with a description of each.
        chosen: the choices in effect: none, one or, for `experiment`, several.
    """

    name: str
    purpose: str
    choices: dict[str, str]
    chosen: list[str]


@dataclass(frozen=True)
class Command:
    """A command's options, as composed from its configuration file and the command line.

    Attributes:
        name: its name.
        summary: what it does, in one line.
        examples: command lines.
        values: the configuration, with references `${...}` as they are written.
        descriptions: what each option is for, by its full name.
        groups: the groups that it uses, each followed by the groups inside it.
    """

    name: str
    summary: str
    examples: list[str]
    values: dict[str, Any]
    descriptions: dict[str, str]
    groups: list[Group]


def read(directories: Sequence[Path], name: str, arguments: Sequence[str]) -> Command:
    """Compose a command's configuration and read the comments of all files that it is composed from.

    Args:
        directories: the folder of the configuration files, and others that Hydra searches after it.
        name: the command, which is the name of its file in the first folder.
        arguments: options from the command line. Those with several values, for a sweep, are left out.

    Raises:
        HydraException: if an option or choice does not exist, or an argument cannot be parsed.
    """
    parsed = OverridesParser.create().parse_overrides([*arguments])
    overrides = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    if len(directories) > 1:
        others = [as_option("", f"file://{directory.resolve()}")[1:] for directory in directories[1:]]
        overrides.append(f"hydra.searchpath=[{','.join(others)}]")
    with hydra.initialize_config_dir(str(directories[0].resolve()), version_base="1.3"):
        config = hydra.compose(name, overrides, return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        files = loader.compute_defaults_list(name, overrides, RunMode.RUN).defaults
    packages = {str(file.config_path): file.package for file in files}  # later files override earlier ones
    purposes, described = dict[str, str](), dict[str, str]()
    for path in (path for path in packages if not path.startswith("hydra/")):
        found = _descriptions(directories, path)
        parent = path.rpartition("/")[0]
        purposes |= {f"{parent}/{group}".lstrip("/"): text for group, text in found.groups.items() if text}
        described |= {f"{packages[path]}.{key}".lstrip("."): text for key, text in found.options.items() if text}
    own = _descriptions(directories, name)
    choices = {str(group): choice for group, choice in config.hydra.runtime.choices.items()}
    groups = [
        Group(group, purposes.get(group, ""), _choices(directories, group), _chosen(group, choices, packages))
        for top in own.groups
        for group in (top, *sorted(name for name in choices if name.startswith(f"{top}/")))
    ]
    values = cast("dict[str, Any]", OmegaConf.to_container(config))
    return Command(name, own.summary, own.more, values, described, groups)


def render(command: Command, width: int) -> str:
    """The help of a command.

    Args:
        command: the command.
        width: columns of the page. Names and values that are longer are not broken.
    """
    tops = [group.name for group in command.groups if "/" not in group.name and group.chosen]
    tops = [top for top in tops if isinstance(command.values.get(top), dict)]
    own = {name: value for name, value in command.values.items() if name not in (*tops, "hydra")}
    lines = [
        *textwrap.wrap(command.summary, width),
        "",
        f"Usage: python -m vaegan_pl.{command.name} NAME=VALUE ...",
        *(f"  {example}" for example in command.examples),
        "",
        "Options:",
        *_table([*_options(own, command.descriptions), *_of_hydra(command)], width),
    ]
    if command.groups:
        lines += ["", "Groups of options, GROUP=CHOICE (* is in effect):", *_table(_group_rows(command.groups), width)]
    for top in tops:
        taken = [f"{g.name}={g.chosen[0]}" for g in command.groups if g.chosen and f"{g.name}/".startswith(f"{top}/")]
        rows = list(_options(command.values[top], command.descriptions, f"{top}."))
        title = textwrap.wrap(f"Options of {', '.join(taken)}:", width)
        lines += ["", *title, *(_table(rows, width) or ["  none"])]
    notes = ("${NAME} stands for the value of the option NAME.", HYDRA_FLAGS)
    return "\n".join([*lines, "", *(line for note in notes for line in textwrap.wrap(note, width))])


def _descriptions(directories: Sequence[Path], file: str) -> Descriptions:
    """The descriptions in the first file of that name; empty if Hydra finds the file elsewhere."""
    paths = (directory / f"{file}.yaml" for directory in directories)
    return next((descriptions.read(path) for path in paths if path.exists()), Descriptions("", [], {}, {}))


def _choices(directories: Sequence[Path], group: str) -> dict[str, str]:
    names = sorted({path.stem for directory in directories for path in (directory / group).glob("*.yaml")})
    return {name: _descriptions(directories, f"{group}/{name}").summary for name in names}


def _chosen(group: str, choices: Mapping[str, Any], files: Iterable[str]) -> list[str]:
    if group in choices:
        return [] if choices[group] is None else [str(choices[group])]
    return [path.removeprefix(f"{group}/") for path in files if path.startswith(f"{group}/")]  # experiment=[A,B]


def _options(values: Mapping[str, Any], described: Mapping[str, str], prefix: str = "") -> Iterator[Row]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name in ("_target_", "_partial_"):
            continue
        if isinstance(value, dict) and value:
            if key in described:
                yield Row(key, described[key])
            yield from _options(value, described, f"{key}.")
        else:
            yield Row(f"{key} (required)" if value == "???" else f"{key}={_typed(value)}", described.get(key, ""))


def _of_hydra(command: Command) -> Iterator[Row]:
    """Hydra's own options that the command's files set and describe."""
    for key in (key for key in command.descriptions if key.startswith("hydra.")):
        *inside, name = key.split(".")
        values = command.values
        for part in inside:
            values = values[part]
        yield from _options({name: values[name]}, command.descriptions, f"{'.'.join(inside)}.")


def _group_rows(groups: Sequence[Group]) -> Iterator[Row]:
    for group in groups:
        yield Row(group.name, group.purpose)
        if not group.chosen:
            yield Row("  * null", "none of these")
        for choice, summary in group.choices.items():
            yield Row(f"  {'*' if choice in group.chosen else ' '} {choice}", summary)


def _typed(value: object) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _table(rows: Iterable[Row], width: int) -> list[str]:
    rows = list(rows)
    column = 4 + min(WIDEST, max((len(row.name) for row in rows), default=0))
    lines = []
    for row in rows:
        text = textwrap.wrap(row.text, width - column, break_on_hyphens=False)
        if text and len(row.name) <= column - 4:
            lines.append(f"  {row.name}".ljust(column) + text.pop(0))
        else:
            lines.append(f"  {row.name}")
        lines += [" " * column + line for line in text]
    return lines
