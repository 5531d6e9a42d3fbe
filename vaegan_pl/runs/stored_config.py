"""The configuration stored in a run's directory: written for a new run, read to resume or repeat it."""

from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vaegan_pl.cli.commands import CONFIG
from vaegan_pl.errors import UserError
from vaegan_pl.runs import accepted, earlier_versions, next_steps, overriding
from vaegan_pl.runs.accepted import MOVABLE, is_known
from vaegan_pl.runs.earlier_versions import CHANGED_DATA
from vaegan_pl.runs.yaml_files import read_yaml
from vaegan_pl.storage.files import RefusedError, atomic_write, first_line

OVERRIDES = "overrides.yaml"
"""The file with the options of the command that started a run; it is only for the user to read."""

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
"""Prefixes of the options that a resumed run must keep; changing them would make it a different experiment."""

NOT_STORED = ("directory", "output_root", "resume", "rerun", "sweep")
"""Options that always come from the command line."""


def write(config: DictConfig, directory: Path, overrides: Sequence[str]) -> None:
    """Store a run's configuration in its directory, as it was composed.

    Args:
        config: the configuration; references (`${...}`) stay as they are.
        directory: the run's directory.
        overrides: the options of the command line; those of the command that started a run are kept when it is resumed.
    """
    unset = {"resume": None, "rerun": None, "sweep": {"name": config.sweep.name}}
    atomic_write(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.merge(config, unset)))
    if config.resume is None:
        atomic_write(directory / OVERRIDES, yaml.safe_dump(list(overrides)))


def read(directory: Path, composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration to resume a run with: that of the run, changed by the command line.

    Args:
        directory: the run's directory.
        composed: the configuration composed from the command line.
        overrides: the options of the command line.

    Raises:
        UserError: if the stored configuration cannot be read or has anything not accepted, or if the command line
            would make the run a different experiment.
    """
    path = directory / CONFIG
    stored, now = _load_run(path, composed), _plain(composed)
    keys = overriding.given_keys(overrides)
    config = _changed(path, stored, now, keys)
    compared = (_resolved(path, {**each, "trainer": _trainer_until(each, config)}) for each in (stored, config))
    old, new = map(overriding.flatten, compared)
    fixed = (key for key in {*old, *new} if key.startswith(FIXED) and key not in MOVABLE)
    for key in sorted(fixed, key=lambda key: (key.count("."), key)):
        if old.get(key) != new.get(key) and (key, new.get(key)) != ("trainer.precision", "auto"):
            raise UserError(
                f"resume={directory}: was started with {key}={old.get(key)}, not {new.get(key)}; leave the option out, "
                "or start a new run"
            )
    if config["trainer"]["precision"] == "auto":
        config["trainer"]["precision"] = stored["trainer"]["precision"]
    return OmegaConf.create(config)


def _trainer_until(config: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
    """The Trainer's options with `max_epochs` of another configuration, to which a schedule may refer."""
    return {**config["trainer"], "max_epochs": other["trainer"].get("max_epochs")}


def repeat(directory: Path, composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a new run that repeats another one, with the changes that the command line makes.

    Args:
        directory: the directory of the run to repeat.
        composed: the configuration composed from the command line, which also names the new run's directory.
        overrides: the options of the command line.

    Raises:
        UserError: if the stored configuration cannot be read, or contains anything that is not accepted.
    """
    path = directory / CONFIG
    stored, now = _load_run(path, composed), _plain(composed)
    stored["run_id"] = now["run_id"]
    keys = [*overriding.given_keys(overrides), *overriding.keys_set_elsewhere(overrides)]
    config = _changed(path, stored, now, ["run_id", *keys])
    _resolved(path, config)
    return OmegaConf.create(config)


def data_of(directory: Path, output_root: str, root: str | None) -> DictConfig:
    """The `data` options that a run was started with.

    Args:
        directory: the run's directory.
        output_root: where phantoms and decoded images are.
        root: the folder of the images; None if the run drew its own.

    Raises:
        OSError: if there is no configuration.
        UserError: if it cannot be read, contains anything not accepted, or does not say where the images are.
    """
    path = directory / CONFIG
    stored = _load(path)
    data = stored.get("data")
    if not isinstance(data, dict) or "root" not in data:
        raise UserError(f"{path}: does not say which images the model was trained on")
    data["cache"] = f"{output_root}/cache"
    kept = {"data": data, "output_root": output_root, "seed": stored.get("seed", 0)}
    if root is not None:
        data["root"] = root
    accepted.check(path, kept, ["data.root", "data.cache"] if root is not None else ["data.cache"], {"data": data})
    found = OmegaConf.create(kept)["data"]
    assert isinstance(found, DictConfig)
    return found


def data_options_of(directory: Path, now: Sequence[str]) -> list[str]:
    """The options by which `evaluate` finds the images of a run that is resumed or repeated.

    Args:
        directory: the run's directory.
        now: the options of its data on the command line; see `next_steps.data_options`.
    """
    try:
        stored = read_yaml(directory / OVERRIDES)
    except (OSError, RefusedError):
        return list(now)
    config: Any = None
    with suppress(OSError, RefusedError):
        config = read_yaml(directory / CONFIG)
    data = config.get("data") if isinstance(config, dict) else None
    lacked = {name: value for name, value in CHANGED_DATA.items() if isinstance(data, dict) and name not in data}
    before = [option for option in stored if isinstance(option, str) and is_known(option)] if stored else []
    chosen = [option.partition("=")[2] for option in before if option.startswith("data=")]
    given = {option.partition("=")[0]: option for option in next_steps.data_options("", before)[1:]}
    given |= {option.partition("=")[0]: option for option in now[1:]}
    for name, value in lacked.items():
        given.setdefault(f"data.{name}", f"data.{name}={'null' if value is None else str(value).lower()}")
    return [f"data={chosen[-1]}" if chosen else now[0], *given.values()]


def _load(path: Path) -> dict[Any, Any]:
    """A stored configuration, brought up to date; empty if the file contains something else."""
    try:
        stored = read_yaml(path)
    except RefusedError as error:
        raise UserError(f"{path}: {error}; start a new run") from error
    if not isinstance(stored, dict):
        return {}
    earlier_versions.update(stored)
    return stored


def _load_run(path: Path, composed: DictConfig) -> dict[Any, Any]:
    """The stored configuration of a run, with the options that are never stored taken from the command line.

    Raises:
        UserError: if it is not the configuration of a run of this version.
    """
    stored, now = _load(path), _plain(composed)
    stored |= {key: now[key] for key in NOT_STORED}
    parts = {"model": "ema", "optimizer": "schedule", "data": "cache", "trainer": "precision"}
    known = all(isinstance(stored.get(group), dict) and name in stored[group] for group, name in parts.items())
    if not known or not now.keys() <= stored.keys():
        raise UserError(f"{path}: is not the configuration of a run of this version; start a new run")
    stored["data"] |= {"cache": (now.get("data") or {}).get("cache", stored["data"]["cache"])}
    return stored


def _changed(path: Path, stored: dict[Any, Any], now: dict[Any, Any], keys: Sequence[str]) -> dict[Any, Any]:
    """The stored configuration with the given options set as on the command line.

    Raises:
        UserError: if it then contains anything that is not accepted.
    """
    config = deepcopy(stored)
    for key in keys:
        overriding.apply(key, now, config)
    config |= {key: now[key] for key in NOT_STORED}
    accepted.check(path, config, [*NOT_STORED, *overriding.leaves_given(keys, now)], now)
    return config


def _plain(config: DictConfig) -> dict[Any, Any]:
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return plain


def _resolved(path: Path, config: dict[Any, Any]) -> dict[Any, Any]:
    """A configuration with all references (`${...}`) resolved.

    Raises:
        UserError: if one cannot be resolved.
    """
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: is inconsistent ({first_line(error)}); start a new run") from error
    assert isinstance(resolved, dict)
    return resolved
