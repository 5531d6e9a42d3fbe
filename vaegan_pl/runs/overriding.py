"""Changing a stored configuration with the options of a command line."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.runs import shipped


def parse(overrides: Sequence[str]) -> list[Any]:
    """Hydra's `Override` for each option.

    Raises:
        HydraException: if an option cannot be parsed.
    """
    return list(OverridesParser.create().parse_overrides(list(overrides)))


def given_keys(overrides: Sequence[str]) -> list[str]:
    """The keys of the options and groups that are given, such as `model.gamma` and, for `model/gate`, `model.gate`."""
    return [override.key_or_group.replace("/", ".") for override in parse(overrides)]


def keys_set_elsewhere(overrides: Sequence[str]) -> Iterator[str]:
    """The keys of the options that chosen groups set outside the group itself, as `model/gate=equilibrium` does."""
    for override in parse(overrides):
        group = override.key_or_group
        path = CONFIG_DIRECTORY / group / f"{override.value()}.yaml"
        if group in shipped.group_names() and path.is_file():
            package, options = shipped.read(path)
            if package != group.replace("/", "."):
                yield from (f"{package}.{name}".lstrip(".") for name in options)


def leaves_given(keys: Sequence[str], composed: dict[Any, Any]) -> Iterator[str]:
    """The keys of the single options that the command line determines.

    What a group leaves open (`???`) is not among them: it comes from the stored configuration.

    Args:
        keys: see `given_keys`.
        composed: the configuration composed from the command line.
    """
    leaves = flatten(composed)
    for key in keys:
        of_group = [leaf for leaf in leaves if leaf.startswith(f"{key}.")]
        yield from (leaf for leaf in of_group or [key] if leaves.get(leaf) != "???")


def apply(key: str, source: Any, target: Any) -> None:
    """Copy an option or a group from `source` to `target`, in place; values missing in `source` (`???`) are kept.

    Args:
        key: its key, such as `model.gamma`; one that is missing in `source` is removed.
        source: the configuration composed from the command line, as plain containers.
        target: the stored configuration, as plain containers.
    """
    name, _, rest = key.partition(".")
    if not isinstance(source, dict) or name not in source:
        target.pop(name, None)
    elif rest:
        if isinstance(target.get(name), dict):
            apply(rest, source[name], target[name])
        else:
            target[name] = deepcopy(source[name])
    elif isinstance(source[name], dict) and isinstance(target.get(name), dict):
        earlier, target[name] = target[name], deepcopy(source[name])
        target[name] |= {k: earlier[k] for k, value in target[name].items() if value == "???" and k in earlier}
    elif source[name] != "???":
        target[name] = deepcopy(source[name])


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """The single options of nested containers by their keys, such as `model.gamma`; empty groups count as options."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    return {
        key: leaf for name, value in node.items() for key, leaf in flatten(value, f"{prefix}.{name}".strip(".")).items()
    }
