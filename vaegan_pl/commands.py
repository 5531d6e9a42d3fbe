"""How every command starts: Hydra composes its configuration, and a user's mistake ends it with one message.

Commands import what is heavy (torch, Lightning) inside their function, so that help and refusals come at once.
"""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from vaegan_pl.errors import UserError

_PACKAGE = Path(__file__).parent
CONFIG_DIRECTORY = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Inside an installed package, or beside the package in a checkout."""

CONFIG = "config.yaml"
"""The configuration of a run, in its directory."""

NULLABLE = frozenset({"data.classes", "data.near_copy_correlation", "model.ema", "model.sigma"})
"""Options that have a default of some type and a meaning for null."""

NUMBER_OR_WORD = frozenset({"model.sigma"})
"""Options whose default is a number and that also take a word."""

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""What torchrun, Lightning and Slurm set in the environment of each of several processes that train one model."""

AT_END: list[Callable[[BaseException | None], None]] = []
"""What is called when the command ends, with what ended it before its time."""

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)
"""What ends a command with a message instead of a traceback, beside Lightning's `MisconfigurationException`."""


def run(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Run `task` on the configuration that Hydra composes from `conf/CONFIG_NAME.yaml` and the command line.

    Exits with 1 and one message for users' mistakes: wrong options, and files that cannot be read or written. With
    HYDRA_FULL_ERROR=1 in the environment the traceback is shown instead. Only training can be swept; in a sweep the
    other jobs still run. Of several processes that train one model only the first makes a directory.
    """
    if config_name != "train" and {"--multirun", "-m", "hydra.mode=MULTIRUN"} & set(sys.argv[1:]):
        sys.exit(f"error: {config_name} has no sweeps; start it without --multirun, once for each output")
    asked = os.environ.get("HYDRA_FULL_ERROR", "0")
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is no reason for tracebacks
    sys.argv[1:] = [re.sub("=~(?=/|$)", f"={Path.home()}", argument) for argument in sys.argv[1:]]  # no shell does it
    try:
        sys.argv[1:] = _in_its_own_directory(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    if any(os.environ.get(name, "0") not in ("", "0") for name in RANKS):
        sys.argv += ["hydra.run.dir=.", "hydra/job_logging=stdout"]

    @contextmanager
    def one_message() -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            sys.exit(130)
        except Exception as error:
            if asked == "1" or not _is_mistake(error):
                raise
            sys.exit(f"error: {explain(error)}")

    @wraps(task)
    def job(config: DictConfig) -> Any:
        # A job of a sweep checks its options itself, so that a mistake in one does not end the others.
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        with nullcontext() if in_sweep else one_message():
            if not in_sweep:
                check_options(config, config_name)
            os.environ["HYDRA_FULL_ERROR"] = asked  # processes that the task starts show messages, too
            try:
                return task(config)
            finally:
                os.environ["HYDRA_FULL_ERROR"] = "1"

    os.environ["HYDRA_FULL_ERROR"] = "1"  # what goes wrong outside the job comes here instead of being printed by Hydra
    try:
        with one_message():
            try:
                hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name=config_name)(job)()
            finally:
                while AT_END:
                    AT_END.pop()(sys.exc_info()[1])
    finally:
        os.environ["HYDRA_FULL_ERROR"] = asked


def refuse_seed(seed: int) -> None:
    """Refuse what NumPy takes for no seed.

    Raises:
        UserError: unless 0 <= seed < 2^32.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: must lie between 0 and 4294967295")


def _in_its_own_directory(arguments: list[str]) -> list[str]:
    """Name the directory of the run that `resume` continues, which Hydra must know first.

    Raises:
        UserError: if there is no such run, or in a sweep.
    """
    given = {name.lstrip("+"): argument for argument in arguments for name in [argument.partition("=")[0]]}
    options = {name: argument.partition("=")[2].strip("'\"") for name, argument in given.items()}
    wanted, directory = options.get("resume", "null"), options.get("hydra.run.dir")
    if wanted == "null":
        return arguments
    if {"--multirun", "-m"} & options.keys() or options.get("hydra.mode") == "MULTIRUN":
        raise UserError("resume: continues one run; leave --multirun out")
    if wanted == "auto":
        if directory is None or "${" in directory:
            raise UserError("resume=auto: continues the run in hydra.run.dir, or starts it; set hydra.run.dir=PATH")
        found = Path(directory)
    else:
        found = Path(options.get("output_root", "outputs"), "latest") if wanted == "latest" else Path(wanted)
        if directory is not None and Path(directory).resolve() != found.resolve():
            raise UserError("hydra.run.dir: a run is continued in its own directory; leave it out")
    kept = [argument for argument in arguments if argument not in (given["resume"], given.get("hydra.run.dir"))]
    if (found / CONFIG).is_file():
        quoted = "'" + str(found.resolve()).replace("'", "\\'") + "'"
        return [*kept, f"resume={quoted}", f"hydra.run.dir={quoted}"]
    if wanted == "auto":
        return [*kept, given["hydra.run.dir"]]
    raise UserError(f"resume={wanted}: there is no run in {found.resolve()}; give a directory that holds {CONFIG}")


def check_options(config: DictConfig, config_name: str, only: str | None = None) -> None:
    """Hold the options' types against those of the same configuration without the user's values.

    Args:
        config: the configuration.
        config_name: the command's.
        only: the group whose options are looked at; all if None.

    Raises:
        UserError: for a value of another type than its default, and for an added option that no command reads.
    """
    hydra_config = HydraConfig.get()
    chosen = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
    groups = [o.input_line for o in chosen if o.key_or_group in hydra_config.runtime.choices and o.input_line]
    defaults = OmegaConf.to_container(hydra.compose(config_name, groups))
    values = OmegaConf.to_container(config)
    assert isinstance(defaults, dict)
    assert isinstance(values, dict)
    if only is not None:
        defaults, values = {only: defaults[only]}, {only: values[only]}
    for name in sorted(map(str, values.keys() - defaults.keys())):
        raise UserError(f"there is no option {name}{_suggestion(name, defaults)}")
    _check_types(defaults, values, "")


def _check_types(defaults: dict[Any, Any], values: dict[Any, Any], prefix: str) -> None:
    for name, default in defaults.items():
        if name not in values or default is None or isinstance(default, str):
            continue
        value, key = values[name], f"{prefix}{name}"
        if isinstance(value, str) and value.startswith("${"):
            continue
        group = isinstance(default, dict) and not (key.startswith("model.") and key != "model.gate")
        nullable = value is None and (group or key in NULLABLE)
        if nullable or (isinstance(value, str) and key in NUMBER_OR_WORD):
            continue
        if isinstance(default, dict) and isinstance(value, dict):
            _check_types(default, value, f"{key}.")
        elif type(value) is not type(default) and not (type(default) is float and type(value) is int):
            words = {int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a group"}
            such = "; leave it out, or set options of it" if isinstance(default, dict) else f", such as {default}"
            raise UserError(f"{key}={value}: must be {words[type(default)]}{such}")


def _is_mistake(error: Exception) -> bool:
    lightnings = any(kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__)
    return lightnings or isinstance(error, MISTAKES)


def explain(error: Exception) -> str:
    """What went wrong, in one message; what is no user's mistake by its kind, too."""
    return _message(error) if _is_mistake(error) else f"{type(error).__name__}: {error}"


def _message(error: BaseException) -> str:
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = str(error).rpartition("full_key: ")[2]
        cause = _message(error.__cause__)
        named = isinstance(error.__cause__, InstantiationException) or key.split(".")[0] in cause
        return cause if named else f"{key}: {cause}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}; check the path, its permissions and the space left"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set; add {error.full_key}=VALUE"
    unknown = error.__cause__
    if isinstance(unknown, ConfigKeyError | ConfigAttributeError):
        root = unknown.parent_node
        while root is not None and root._get_parent() is not None:
            root = root._get_parent()
        known = OmegaConf.to_container(root) if root is not None else {}
        return f"there is no option {unknown.full_key}{_suggestion(str(unknown.full_key), known)}"
    return str(error).strip() + (f"\n{unknown}" if isinstance(unknown, OmegaConfBaseException) else "")


def _suggestion(key: str, known: object) -> str:
    close = difflib.get_close_matches(key, list(_keys(known)), n=1)
    return f"; did you mean {close[0]}?" if close else "; --help shows them all"


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")
