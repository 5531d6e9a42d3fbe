"""The options that `conf/` has for training, whichever groups are chosen, and the values that its files give them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import first_line

GROUPS = ("model", "optimizer", "data", "trainer", "logger", "callbacks", "experiment", "debug")


@dataclass
class Place:
    """A place in the configuration.

    Attributes:
        below: the options in it, by name; empty for a single option.
        values: the values that files under `conf/` give it.
    """

    below: dict[str, "Place"] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The values that are text."""
        return [value for value in self.values if isinstance(value, str)]

    @property
    def is_path(self) -> bool:
        """Whether the values are paths: `conf/` builds them from folders, or leaves them to the user."""
        return any("${directory}" in text or "${output_root}" in text or text == "???" for text in self.texts)


NUMBERS = Place(values=[0, 0.5, True])
"""The place of a numeric argument of a library's class."""


@cache
def shipped() -> Place:
    """The root of everything that `conf/` has for training."""
    return _held_by([CONFIG_DIRECTORY])


def listed() -> Place:
    """The root of everything that `conf/` and the user's own folders have for training.

    Raises:
        OSError: if a file cannot be read.
        UserError: if a file of the user is not YAML.
    """
    own = _own_folders()
    return _held_by([CONFIG_DIRECTORY, *own]) if own else shipped()


def _held_by(folders: Sequence[Path]) -> Place:
    root = Place()
    for folder in folders:
        of_groups = (path for group in GROUPS for path in (folder / group).rglob("*.yaml"))
        for path in [*folder.glob("train.yaml"), *of_groups]:
            package, content = read(path, folder)
            place = root
            for name in filter(None, package.split(".")):
                place = place.below.setdefault(name, Place())
            _add(place, content)
    return root


def _own_folders() -> list[Path]:
    """The configuration folders that the user named on the command line, with `--config-dir` or `hydra.searchpath`."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    named = (each for each in sources if each.schema == "file" and each.provider.endswith("command-line"))
    return [Path(each.path).resolve() for each in named]


def _add(place: Place, content: object) -> None:
    if isinstance(content, dict):
        if not content:
            place.values.append({})
        for name, value in content.items():
            _add(place.below.setdefault(name, Place()), value)
    else:
        place.values.append(content)


def read(path: Path, folder: Path = CONFIG_DIRECTORY) -> tuple[str, dict[str, Any]]:
    """The package in which Hydra puts the options of a configuration file ("" is the root), and the options.

    Raises:
        OSError: if the file cannot be read.
        UserError: if it is not YAML, or contains no options.
    """
    import yaml
    from omegaconf._utils import get_yaml_loader

    text = path.read_text(encoding="utf-8")
    named = re.match(r"# @package (\S+)", text)
    package = named[1] if named else ".".join(path.relative_to(folder).parts[:-1])
    try:
        content = yaml.load(text, Loader=get_yaml_loader()) or {}  # noqa: S506 # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML ({first_line(error)}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must contain options, one NAME: VALUE per line")
    options = {name: value for name, value in content.items() if name not in ("defaults", "hydra")}
    return package.replace("_global_", ""), options


@cache
def group_names() -> frozenset[str]:
    """The groups of options, as they are typed: model, model/networks, ..."""
    folders = (path for group in GROUPS for path in (CONFIG_DIRECTORY / group, *(CONFIG_DIRECTORY / group).rglob("*")))
    return frozenset(path.relative_to(CONFIG_DIRECTORY).as_posix() for path in folders if path.is_dir())
