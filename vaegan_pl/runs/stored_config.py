"""Resume a run with its own configuration, refusing changes that would make it a different experiment.

A run's directory may come from somebody else. Only options that exist in `conf/`, or in the folder that `--config-dir`
names now, with values of the same kind, are read from it. Paths outside the directory, URLs, other classes and anything
else must be given again on the command line.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vaegan_pl.cli.commands import CONFIG, CONFIG_DIRECTORY, FREE, NULLABLE, NUMBER_OR_WORD
from vaegan_pl.console import as_typed
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import MOST_DEPTH, RefusedError, atomic_write, first_line, printable, read_text

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

GROUPS = ("model", "optimizer", "data", "trainer", "logger", "callbacks", "experiment", "debug")
TAKEN_FROM_NOW = ("directory", "output_root", "resume", "sweep")
TO_GIVE_AGAIN = frozenset({"data.patient", "logger.wandb.offline"})
"""Options that may do harm: a regular expression can run forever, and an online run uploads data."""

MOST_YAML, MOST_YAML_NODES = 2**17, 20_000
"""The most bytes and values of a configuration; a run's has some 4,000 and 200."""

OF_LIGHTNING = frozenset(
    {
        "check_val_every_n_epoch",
        "detect_anomaly",
        "deterministic",
        "enable_progress_bar",
        "inference_mode",
        "limit_test_batches",
        "limit_train_batches",
        "limit_val_batches",
        "min_epochs",
        "min_steps",
        "overfit_batches",
        "val_check_interval",
    }
)
"""Numbers and switches of Lightning's Trainer that `conf/` does not set."""

_OPTIMIZER = re.compile(r"torch\.optim\.(?!LBFGS|SparseAdam)[A-Z]\w*")
CLASSES = {
    "optimizer.encoder": _OPTIMIZER,
    "optimizer.decoder": _OPTIMIZER,
    "optimizer.discriminator": _OPTIMIZER,
    "callbacks.pruning.pruner": re.compile(r"optuna\.pruners\.[A-Z]\w*"),
}
"""Where another class of a library may stand, with any numbers as its arguments."""

WORDS = {
    "run_id": re.compile(r"[\w-]{1,64}"),
    "trainer.strategy": re.compile("auto|ddp"),
    "trainer.accelerator": re.compile("[a-z]{1,16}"),
}
_WORD = re.compile(r"(?!.*://).{0,256}")
MOST = {
    "callbacks.pictures.samples": 2**12,
    "callbacks.pictures.reconstructions": 2**12,
    "callbacks.quality.n": 2**17,
    "data.image_size": 512,
    "data.batch_size": 2**14,
    "trainer.devices": os.cpu_count() or 1,
    "trainer.num_nodes": 1,
}
"""The largest numbers that are taken from a run's directory; more nodes would wait for each other without a word."""

MAY_BE_EMPTY = frozenset({"logger", "callbacks"})
_SHOWN = 3
_MOST_LISTED, _MOST_NUMBER = 10_000, 2**63

EARLIER: dict[str, dict[str, Any]] = {
    "callbacks.objective": {"_target_": "vaegan_pl.sweeps.pruning.Objective"},
    "logger.wandb.settings": {"_target_": "wandb.Settings", "silent": True},
}
"""What earlier versions kept in configurations, and how it began; it is left out."""


MOVED = {
    "vaegan_pl.callbacks.": "vaegan_pl.training.callbacks.",
    "vaegan_pl.checkpoints.": "vaegan_pl.training.checkpoints.",
    "vaegan_pl.loggers.": "vaegan_pl.training.loggers.",
    "vaegan_pl.pruning.": "vaegan_pl.sweeps.pruning.",
}
"""Modules that earlier versions' configurations name, and where they are now."""


@dataclass
class _Place:
    """What `conf/` holds in one place of the configuration: the options below it, or the values that it may have."""

    below: dict[str, "_Place"] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """Those of its values that are text."""
        return [value for value in self.values if isinstance(value, str)]

    @property
    def is_path(self) -> bool:
        """Whether its values are paths: `conf/` builds them from folders, or leaves them to the user."""
        return any("${directory}" in text or "${output_root}" in text or text == "???" for text in self.texts)


@cache
def _shipped() -> _Place:
    """All that `conf/` holds for training."""
    return _held_by([CONFIG_DIRECTORY])


def _held_by(folders: Sequence[Path]) -> _Place:
    """All that folders of configuration hold for training, whichever groups are chosen.

    Raises:
        OSError: if a file cannot be read.
        UserError: if a file is not YAML.
    """
    root = _Place()
    for folder in folders:
        of_groups = (path for group in GROUPS for path in (folder / group).rglob("*.yaml"))
        for path in [*folder.glob("train.yaml"), *of_groups]:
            text = path.read_text(encoding="utf-8")
            named = re.match(r"# @package (\S+)", text)
            package = named[1] if named else ".".join(path.relative_to(folder).parts[:-1])
            place = root
            for name in filter(None, package.replace("_global_", "").split(".")):
                place = place.below.setdefault(name, _Place())
            _add(place, {name: value for name, value in _parts(path, text) if name not in ("defaults", "hydra")})
    return root


def _parts(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    """What stands at the top of a file of the configuration."""
    import yaml
    from omegaconf._utils import get_yaml_loader

    try:
        content = yaml.load(text, Loader=get_yaml_loader()) or {}  # noqa: S506 # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML ({first_line(error)}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold options, one NAME: VALUE a line")
    return content.items()


def _own_folders() -> list[Path]:
    """The folders of configuration that the user named on the command line, by `--config-dir` or `hydra.searchpath`."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    named = (each for each in sources if each.schema == "file" and each.provider.endswith("command-line"))
    return [Path(each.path).resolve() for each in named]


_NUMBERS = _Place(values=[0, 0.5, True])
"""The place of an argument that a library has."""


def _add(place: _Place, content: object) -> None:
    if isinstance(content, dict):
        if not content:
            place.values.append({})
        for name, value in content.items():
            _add(place.below.setdefault(name, _Place()), value)
    else:
        place.values.append(content)


def write(config: DictConfig, directory: Path) -> None:
    """Keep a run's configuration in its directory, as it was composed."""
    text = OmegaConf.to_yaml(OmegaConf.merge(config, {"resume": None, "sweep": {"name": config.sweep.name}}))
    atomic_write(directory / CONFIG, text)


def read(directory: Path, composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a run was started with, changed by what the command line says now.

    Args:
        directory: the run's directory.
        composed: what Hydra composed from the command line.
        overrides: the command line's options.

    Raises:
        UserError: if it cannot be read, holds what `conf/` does not, or would make another run of it.
    """
    path = directory / CONFIG
    before, now = _load(path), OmegaConf.to_container(composed)
    if not isinstance(now, dict) or not now.keys() <= before.keys() or not _of_now(before):
        raise UserError(f"{path}: is not the configuration of a run of this version; start a new run")
    given = [override.key_or_group.replace("/", ".") for override in _parsed(overrides)]
    before |= {key: now[key] for key in TAKEN_FROM_NOW}
    before["data"] |= {"cache": (now.get("data") or {}).get("cache", before["data"]["cache"])}
    config = deepcopy(before)
    for key in given:
        _take(key.split("."), now, config)
    config |= {key: now[key] for key in TAKEN_FROM_NOW}
    _check(path, config, [*TAKEN_FROM_NOW, *_from(given, now)], now)
    try:
        old, new = (_flat(OmegaConf.to_container(OmegaConf.create(each), resolve=True)) for each in (before, config))
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: is inconsistent ({first_line(error)}); start a new run") from error
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


def data_of(directory: Path, output_root: str, root: str | None) -> DictConfig:
    """The `data` options that a run was started with.

    Args:
        directory: the run's directory.
        output_root: where phantoms and decoded images are.
        root: the folder of the images; None where the run drew its own.

    Raises:
        OSError: if there is no configuration.
        UserError: if it cannot be read, holds what `conf/` does not, or does not say where the images are.
    """
    path = directory / CONFIG
    stored = _load(path)
    data = stored.get("data")
    if not isinstance(data, dict) or "root" not in data:
        raise UserError(f"{path}: does not say which images trained the model")
    data["cache"] = f"{output_root}/cache"
    kept = {"data": data, "output_root": output_root, "seed": stored.get("seed", 0)}
    if root is not None:
        data["root"] = root
    _check(path, kept, ["data.root", "data.cache"] if root is not None else ["data.cache"], {"data": data})
    found = OmegaConf.create(kept)["data"]
    assert isinstance(found, DictConfig)
    return found


def read_yaml(path: Path) -> Any:
    """The same as a YAML document in plain containers, read as OmegaConf reads it.

    Aliases, by which a few lines stand for gigabytes, tags and deep nesting are refused before anything is built.

    Raises:
        OSError: see `read_bytes`.
        RefusedError: see `read_text`; also for anything but such YAML.
    """
    import yaml
    from omegaconf._utils import get_yaml_loader

    text = read_text(path, MOST_YAML)
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH or number > MOST_YAML_NODES:
                raise RefusedError("is damaged (too many values, or nested too deeply)")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise RefusedError("is damaged (it holds YAML aliases or tags, which this project does not write)")
        content = yaml.load(text, Loader=get_yaml_loader())  # noqa: S506 # a SafeLoader
        if any(isinstance(leaf, int) and abs(leaf) > _MOST_NUMBER for leaf in _leaves(content)):
            raise RefusedError("is damaged (it holds a number that is too large)")
        return content
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(f"is damaged (not YAML: {first_line(error)})") from error


def _leaves(content: Any) -> Iterator[Any]:
    if isinstance(content, dict):
        content = [*content.keys(), *content.values()]
    if not isinstance(content, list):
        yield content
    else:
        for part in content:
            yield from _leaves(part)


def is_known(override: str) -> bool:
    """Whether `conf/` has an option, and such a value for it; also where images are, which is for the user to say."""
    try:
        (parsed,) = _parsed([override])
        value, group = parsed.value(), parsed.key_or_group
        key = group.replace("/", ".")
        if key in MOVABLE or key in TO_GIVE_AGAIN:
            return True
        if group in _groups():
            names = {path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml")}
            return all(isinstance(name, str) and name in names for name in (value if type(value) is list else [value]))
        if key.count(".") > MOST_DEPTH or "${" in str(value):
            return False
        node: Any = value
        for name in reversed(key.split(".")):
            node = {name: node}
        return not list(_strange(node, _shipped(), "", []))
    except (HydraException, ValueError, RecursionError):
        return False


@cache
def _groups() -> frozenset[str]:
    folders = (path for group in GROUPS for path in (CONFIG_DIRECTORY / group, *(CONFIG_DIRECTORY / group).rglob("*")))
    return frozenset(path.relative_to(CONFIG_DIRECTORY).as_posix() for path in folders if path.is_dir())


def _load(path: Path) -> dict[Any, Any]:
    try:
        stored = read_yaml(path)
    except RefusedError as error:
        raise UserError(f"{path}: {error}; start a new run") from error
    if not isinstance(stored, dict):
        return {}
    _rename(stored)
    for key, start in EARLIER.items():
        *parts, last = key.split(".")
        node: Any = stored
        for name in parts:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), dict) and start.items() <= node[last].items():
            del node[last]
    return stored


def _rename(stored: object) -> None:
    """Give classes of this project the names that they have now."""
    if isinstance(stored, list):
        for value in stored:
            _rename(value)
    elif isinstance(stored, dict):
        for value in stored.values():
            _rename(value)
        target = stored.get("_target_")
        for before, now in MOVED.items():
            if isinstance(target, str) and target.startswith(before):
                stored["_target_"] = now + target.removeprefix(before)


def _parsed(overrides: Sequence[str]) -> Iterator[Any]:
    yield from OverridesParser.create().parse_overrides(list(overrides))


def _check(path: Path, stored: dict[Any, Any], given: Sequence[str], now: dict[Any, Any]) -> None:
    """Stop where a stored configuration holds more than `conf/` has, and the command line does not give it again.

    Raises:
        UserError: if it does; says what to type for those who trust it.
    """
    own = _own_folders()
    place = _held_by([CONFIG_DIRECTORY, *own]) if own else _shipped()
    strange = list(_strange(stored, place, "", given))
    if not strange:
        return
    known = _flat(now)
    again = " ".join(_typed(key, value, key in known) for key, value in strange[:_SHOWN])
    again = printable(again)[:1000] + (" ..." if len(strange) > _SHOWN else "")
    key, value = strange[0]
    if len(strange) == 1 and key == "data.root":
        raise UserError(
            f"{path}: the images were in {printable(value)[:200]}, outside the run's directory; to use them again, "
            f"add {again}"
        )
    raise UserError(
        f"{path}: sets {printable(key)}={printable(value)[:100]}, which is not accepted from a run's directory; "
        f"nothing was started; if it is from a folder of yours, add --config-dir FOLDER; if you trust it, add {again}"
    )


def _typed(key: str, value: Any, known: bool) -> str:
    """An option as it is typed."""
    name = key if known else f"+{key}"
    if isinstance(value, str):
        return as_typed(name, value)
    return f"{name}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


def _strange(stored: Any, place: _Place | None, key: str, given: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The options of a stored configuration that `conf/` does not have or that have other kinds of values."""
    if any(key == own or key.startswith(f"{own}.") for own in given):
        return
    if isinstance(stored, dict):
        if not stored and (place is None or not ({} in place.values or key in MAY_BE_EMPTY)):
            yield key, stored
        for name, value in stored.items():
            below = None if place is None else place.below.get(name)
            if key == "trainer" and name in OF_LIGHTNING:  # a preset may show a whole number where shares go, too
                below = _NUMBERS
            yield from _strange(value, below or _besides(key, name, value), f"{key}.{name}".lstrip("."), given)
    elif place is None or not _is_of(stored, place, key):
        yield key, stored


def _besides(key: str, name: object, value: object) -> _Place | None:
    """The place of an option that `conf/` does not list and that may stand there all the same."""
    word = isinstance(name, str) and _WORD.fullmatch(name) is not None and printable(name) == name
    if (key == "trainer" and name in OF_LIGHTNING) or (key in CLASSES and word):
        return _NUMBERS
    if f"{key}." in FREE and word:
        return _Place(values=["", 0])
    return None


def _is_of(value: Any, place: _Place, key: str) -> bool:
    """Whether a value may stand in a place of the configuration."""
    if value is None and (key in MAY_BE_EMPTY or key.rpartition(".")[0] == "callbacks"):
        return True
    if place.below and not place.values:
        return False
    if key in TO_GIVE_AGAIN:
        return value is True or value in place.values
    if not _is_of_its_kind(value, place, key):
        return False
    if isinstance(value, list):
        return len(value) < _MOST_LISTED and all(
            not isinstance(part, list | dict) and _is_safe(part, place, key) for part in value
        )
    return _is_safe(value, place, key)


def _is_of_its_kind(value: Any, place: _Place, key: str) -> bool:
    """Whether `conf/` has such a value there: null, a number, a text or a list; null there stands for any."""
    kinds = {type(known) for known in place.values}
    derived = any(text.startswith("${") for text in place.texts)
    if type(None) in kinds or (derived and not place.is_path):
        return True
    if value is None:
        return key in NULLABLE or place is _NUMBERS
    if isinstance(value, list) and place is _NUMBERS:
        return True
    return type(value) in kinds or (type(value) is int and float in kinds) or key in NUMBER_OR_WORD


def _is_safe(value: Any, place: _Place, key: str) -> bool:
    """Whether a number is small enough to be built, and a text only a word."""
    if value is None or isinstance(value, bool | float):
        return True
    if isinstance(value, int):
        return abs(value) <= MOST.get(key, _MOST_NUMBER)
    if not isinstance(value, str) or place is _NUMBERS:
        return False
    owner = key.rpartition(".")[0]
    if "${" in value or key.endswith("_target_"):
        return value in place.texts or (owner in CLASSES and CLASSES[owner].fullmatch(value) is not None)
    if place.is_path:
        return value in place.texts and value != "???"
    if not any(isinstance(known, str | list) or known is None for known in place.values):
        return key in NUMBER_OR_WORD
    return printable(value) == value and WORDS.get(key, _WORD).fullmatch(value) is not None


def _of_now(config: dict[Any, Any]) -> bool:
    """Whether a configuration has the parts that models, optimizers and data have in this version."""
    parts = {"model": "ema", "optimizer": "schedule", "data": "cache", "trainer": "precision"}
    return all(isinstance(config.get(group), dict) and name in config[group] for group, name in parts.items())


def _from(given: Sequence[str], now: dict[Any, Any]) -> Iterator[str]:
    """The single options that come from the command line; in a group, what it leaves open comes from the run."""
    leaves = _flat(now)
    for key in given:
        of_group = [leaf for leaf in leaves if leaf.startswith(f"{key}.")]
        yield from (leaf for leaf in of_group or [key] if leaves.get(leaf) != "???")


def _take(key: list[str], source: Any, target: Any) -> None:
    """Set what a key names to what it is in another configuration; missing values stay as they were."""
    name = key[0]
    if not isinstance(source, dict) or name not in source:
        target.pop(name, None)  # an option that takes it away
    elif key[1:]:
        if isinstance(target.get(name), dict):
            _take(key[1:], source[name], target[name])
        else:
            target[name] = deepcopy(source[name])
    elif isinstance(source[name], dict) and isinstance(target.get(name), dict):
        earlier, target[name] = target[name], deepcopy(source[name])
        target[name] |= {k: earlier[k] for k, value in target[name].items() if value == "???" and k in earlier}
    elif source[name] != "???":
        target[name] = deepcopy(source[name])


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    return {
        key: leaf for name, value in node.items() for key, leaf in _flat(value, f"{prefix}.{name}".strip(".")).items()
    }
