"""Continuing a run: with its own configuration, and with nothing changed that would make it another."""

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vaegan_pl.commands import CONFIG, CONFIG_DIRECTORY
from vaegan_pl.errors import UserError

FIXED = (
    "model.",
    "optimizer.",
    "data.",
    "seed",
    "trainer.precision",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.sync_batchnorm",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
)
MOVABLE = frozenset({"data.root", "data.cache"})
"""The same images may lie elsewhere; a checkpoint knows them by their pixels."""

_REFERENCE = re.compile(r"\$\{(hydra:runtime\.output_dir|[\w.]+)\}")
"""To another option; whatever else can stand there might make one."""

ADDED = "vaegan_pl.pruning.Objective"
"""What no file of the configuration names, but sweeps add."""

_LIBRARIES = re.compile(r"torch\.optim\.[A-Z]\w*|lightning\.pytorch\.(callbacks|loggers)\.[A-Z]\w*")


def write(config: DictConfig, directory: Path) -> None:
    """Keep a run's configuration in its directory, as it was composed."""
    from vaegan_pl import sealed

    text = OmegaConf.to_yaml(OmegaConf.merge(config, {"resume": None, "sweep": {"name": config.sweep.name}}))
    sealed.publish(directory / CONFIG, text.encode())


def read(directory: Path, composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a run was started with, changed by what the command line says now.

    Args:
        directory: the run's directory.
        composed: what Hydra composed from the command line.
        overrides: the command line's options.

    Raises:
        UserError: if it cannot be read, names what this project does not start, or would make another run of it.
    """
    path = directory / CONFIG
    before, now = _load(path), OmegaConf.to_container(composed)
    if not isinstance(now, dict) or not now.keys() <= before.keys() or not _of_now(before):
        raise UserError(f"{path}: is no configuration of a run of this version; start a new run")
    config = deepcopy(before)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        _take(override.key_or_group.replace("/", ".").split("."), now, config)
    config |= {key: now[key] for key in ("directory", "resume")}
    _refuse_strange(path, before, config, {*_targets(now)})
    old, new = (_flat(OmegaConf.to_container(OmegaConf.create(each), resolve=True)) for each in (before, config))
    fixed = (key for key in {*old, *new} if key.startswith(FIXED) and key not in MOVABLE)
    for key in sorted(fixed, key=lambda key: (key.count("."), key)):
        if old.get(key) != new.get(key) and (key, new.get(key)) != ("trainer.precision", "auto"):
            raise UserError(
                f"resume={directory}: was started with {key}={old.get(key)}, not {new.get(key)}; leave the option out, "
                "or start a new run"
            )
    if config["trainer"]["precision"] == "auto":
        config["trainer"]["precision"] = before["trainer"]["precision"]
    return OmegaConf.create(config)


def data_of(directory: Path) -> DictConfig:
    """The `data` options that a run was started with.

    Args:
        directory: the run's directory.

    Raises:
        OSError: if there is no configuration.
        UserError: if it cannot be read, or names what this project does not start.
    """
    path = directory / CONFIG
    stored = _load(path)
    _refuse_strange(path, stored, stored, set())
    data = OmegaConf.create(stored).get("data")
    if not isinstance(data, DictConfig) or "root" not in data:
        raise UserError(f"{path}: does not say which images trained the model; give data=mri data.root=PATH")
    return data


def _load(path: Path) -> dict[Any, Any]:
    try:
        stored = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is damaged ({str(error).partition(chr(10))[0]}); start a new run") from error
    return stored if isinstance(stored, dict) else {}


def _refuse_strange(path: Path, stored: dict[Any, Any], config: dict[Any, Any], known: set[str]) -> None:
    """Stop where a stored configuration refers to more than options, or what comes of it names what is not known.

    Raises:
        UserError: then.
    """
    for text in _texts(stored):
        if "${" in _REFERENCE.sub("", text):
            raise UserError(f"{path}: holds {text}, which this project did not write; nothing was started")
    for target in _targets(config):
        if target not in {*known, *_shipped(), ADDED} and not _LIBRARIES.fullmatch(target):
            raise UserError(
                f"{path}: names {target}, which is not part of this project; nothing was started; if you trust it, "
                "give the option that names it again"
            )


def _of_now(config: dict[Any, Any]) -> bool:
    """Whether a configuration has the parts that models and optimizers have in this version."""
    model, optimizer = config.get("model"), config.get("optimizer")
    return isinstance(model, dict) and isinstance(optimizer, dict) and "ema" in model and "schedule" in optimizer


def _take(key: list[str], source: Any, target: Any) -> None:
    """Set what a key names to what it is in another configuration; missing values stay as they were."""
    name = key[0]
    if not isinstance(source, dict) or name not in source:
        target.pop(name, None)  # an option that takes it away
    elif key[1:]:
        _take(key[1:], source[name], target.setdefault(name, {}))
    elif isinstance(source[name], dict) and isinstance(target.get(name), dict):
        earlier, target[name] = target[name], deepcopy(source[name])
        target[name] |= {k: earlier[k] for k, value in target[name].items() if value == "???" and k in earlier}
    elif source[name] != "???":
        target[name] = deepcopy(source[name])


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        node = [*node.keys(), *node.values()]
    if isinstance(node, list):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str):
        yield node


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    return {
        key: leaf for name, value in node.items() for key, leaf in _flat(value, f"{prefix}.{name}".strip(".")).items()
    }


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _shipped() -> set[str]:
    """Everything that this project's own configuration names."""
    texts = (path.read_text() for path in CONFIG_DIRECTORY.rglob("*.yaml"))
    return {target for text in texts for target in re.findall(r"_target_: *(\S+)", text)}
