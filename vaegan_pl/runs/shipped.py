"""The options that `conf/` has for training, whichever groups are chosen, and the values that its files give them."""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vaegan_pl.cli.commands import CONFIG_DIRECTORY

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
    root = Place()
    files = [CONFIG_DIRECTORY / "train.yaml", *(p for g in GROUPS for p in (CONFIG_DIRECTORY / g).rglob("*.yaml"))]
    for path in files:
        package, content = read(path)
        place = root
        for name in filter(None, package.split(".")):
            place = place.below.setdefault(name, Place())
        _add(place, content)
    return root


def _add(place: Place, content: object) -> None:
    if isinstance(content, dict):
        if not content:
            place.values.append({})
        for name, value in content.items():
            _add(place.below.setdefault(name, Place()), value)
    else:
        place.values.append(content)


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """Where Hydra puts the options of a file under `conf/` ("" is the root), and the options."""
    import yaml
    from omegaconf._utils import get_yaml_loader

    text = path.read_text(encoding="utf-8")
    named = re.match(r"# @package (\S+)", text)
    package = named[1] if named else ".".join(path.relative_to(CONFIG_DIRECTORY).parts[:-1])
    content = yaml.load(text, Loader=get_yaml_loader()) or {}  # noqa: S506 # a SafeLoader
    options = {name: value for name, value in content.items() if name not in ("defaults", "hydra")}
    return package.replace("_global_", ""), options


@cache
def group_names() -> frozenset[str]:
    """The groups of options, as they are typed: model, model/networks, ..."""
    folders = (path for group in GROUPS for path in (CONFIG_DIRECTORY / group, *(CONFIG_DIRECTORY / group).rglob("*")))
    return frozenset(path.relative_to(CONFIG_DIRECTORY).as_posix() for path in folders if path.is_dir())
