"""How every command starts: Hydra composes its configuration, and a user's mistake ends it with one message.

Commands import torch and Lightning inside their functions, so that help and error messages appear at once.
"""

import argparse
import difflib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache, wraps
from importlib import import_module
from pathlib import Path
from threading import Timer
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from vaegan_pl import pretrained
from vaegan_pl.cli import help_page
from vaegan_pl.console import as_option, as_typed, enduring_streams
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import check_model_path, is_next_to, printable

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]
CONFIG_DIRECTORY = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The configuration files: inside an installed package, or next to the package in a checkout."""

CONFIG = "config.yaml"
"""The configuration of a run, in its directory."""

NULLABLE = frozenset(
    {"data.classes", "data.near_copy_correlation", "data.registered_correlation", "model.ema", "model.sigma"}
)
"""Options that may be null although their default is not."""

SHARES = frozenset({"trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.overfit_batches"})
"""Options that take a number of batches or a fraction of them, whatever the type of their default."""

NUMBER_OR_WORD = frozenset({"model.sigma"})
"""Options that may be a word although their default is a number."""

LISTS = frozenset({"weights", "images"})
"""Options that take a name or a list of names."""

FREE = ("class_names.", "data.aliases.", "data.per_class.")
"""Groups in which the user chooses the names of the options."""

NEEDED = frozenset({"model", "model/networks", "model/adversary", "model/prior", "optimizer", "data", "trainer"})
"""Groups that cannot be null."""

ADDABLE = ("trainer.", "callbacks.", "logger.")
"""Groups that accept more options than the configuration files list, added with a +."""

OF_AUTOMATIC_OPTIMIZATION = {
    "gradient_clip_val": "lower the learning rates optimizer.*.lr",
    "gradient_clip_algorithm": "lower the learning rates optimizer.*.lr",
    "accumulate_grad_batches": "raise data.batch_size",
}
"""Options of Lightning's Trainer that have no effect with manual optimization, and what to do instead."""

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Environment variables in which torchrun, Lightning and Slurm number the processes that train one model."""

CREATED_FOLDERS: list[Path] = []
"""Folders that Hydra creates for the command, innermost first; those left empty are removed at the end."""

ON_EXIT: list[Callable[[BaseException | None], None]] = []
"""Functions to call when the command ends, with the exception that ended it, if any."""

SLOW_IMPORT = 4.0
"""Seconds after which the import of PyTorch is announced; it is faster if its files are in the disk cache."""

_SEVERAL = re.compile(r"Ambiguous value for argument '(.*)'")
_NO_SUCH_PART = re.compile(r"Could not override '(\w+)/(\w+)'")
_NO_SUCH_GROUP = re.compile(r"Could not override '(\w+)'\.\s+No match in the defaults list")
_OVERRIDDEN = re.compile(r"Could not override '([^']+)'")

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)
"""Exceptions that, like Lightning's `MisconfigurationException`, end a command with a message, not a traceback."""


def run(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Run `task` on the configuration that Hydra composes from `conf/CONFIG_NAME.yaml` and the command line.

    `--help` prints the command's options instead. A user's mistake (a wrong option, a file that cannot be read or
    written) exits with 1 and one message; with HYDRA_FULL_ERROR=1 in the environment, the traceback is shown instead.
    Only training can be swept; in a sweep, a mistake in one job does not end the others. If several processes train one
    model, only the first creates a directory.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        _show_help(config_name)
        return
    if config_name != "train" and {"--multirun", "-m", "hydra.mode=MULTIRUN"} & set(sys.argv[1:]):
        sys.exit(f"error: {config_name} cannot be swept; run it without --multirun, once for each output")
    asked = os.environ.get("HYDRA_FULL_ERROR", "0")
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is no reason for tracebacks
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files, also from a notebook, whose backend may not be there
    try:
        sys.argv[1:] = _with_run_directory(_with_run_to_repeat(_without_groups([*map(_with_home, sys.argv[1:])])))
    except UserError as error:
        sys.exit(f"error: {error}")
    if not is_first_process():
        sys.argv += ["hydra.run.dir=.", "hydra/job_logging=plain"]

    @wraps(task)
    def job(config: DictConfig) -> Any:
        # A job of a sweep checks its options itself, so that a mistake in one does not end the others.
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        with nullcontext() if in_sweep else _one_message(asked):
            if not in_sweep:
                check_options(config, config_name)
            _keep_paths(config)
            os.environ["HYDRA_FULL_ERROR"] = asked  # processes that the task starts show messages, too
            try:
                return task(config)
            finally:
                os.environ["HYDRA_FULL_ERROR"] = "1"

    os.environ["HYDRA_FULL_ERROR"] = "1"  # what goes wrong outside the job comes here instead of being printed by Hydra
    try:
        with enduring_streams(), _one_message(asked):
            try:
                hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name=config_name)(job)()
            finally:
                while ON_EXIT:
                    ON_EXIT.pop()(sys.exc_info()[1])
    finally:
        os.environ["HYDRA_FULL_ERROR"] = asked
        while CREATED_FOLDERS:
            with suppress(OSError):
                CREATED_FOLDERS.pop(0).rmdir()


@contextmanager
def _one_message(asked: str) -> Iterator[None]:
    """Exit with one message for a user's mistake, or with its traceback if `asked`, HYDRA_FULL_ERROR, is 1."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:
        if asked == "1" or not _is_mistake(error):
            raise
        sys.exit("\n".join(map(printable, f"error: {explain(error)}".split("\n"))))


def _show_help(config_name: str) -> None:
    """Print the command's options, with those of the command line in effect."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--config-dir", "-cd", type=Path)
    with enduring_streams(), _one_message(os.environ.get("HYDRA_FULL_ERROR", "0")):
        known, others = flags.parse_known_args(sys.argv[1:])
        if known.config_dir is not None and not known.config_dir.is_dir():
            raise UserError(f"--config-dir {known.config_dir}: no such folder")
        options = _without_groups([_with_home(argument) for argument in others if not argument.startswith("-")])
        directories = [CONFIG_DIRECTORY, *filter(None, [known.config_dir])]
        command = help_page.read(directories, config_name, options)
        width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
        sys.stdout.write(help_page.render(command, width) + "\n")
        sys.stdout.flush()


def model_paths(weights: object) -> list[Path]:
    """The paths of the model files that a command opens.

    Raises:
        UserError: if one does not exist, or none is given.
    """
    names = list(weights) if isinstance(weights, ListConfig) else [weights]
    if not names:
        raise UserError("weights=[]: give at least one model file")
    paths = [pretrained.path_of(str(name)) for name in names]
    for path in paths:
        check_model_path(path)
    return paths


def model_path(weights: object) -> Path:
    """The path of the model file that a command opens.

    Raises:
        UserError: if it does not exist, or several are given.
    """
    paths = model_paths(weights)
    if len(paths) > 1:
        raise UserError(f"weights={weights}: give a single model file")
    return paths[0]


def import_torch(package: str = "lightning.pytorch") -> None:
    """Import PyTorch; log a line if that takes longer than `SLOW_IMPORT`, as it does the first time.

    Args:
        package: what to import; importing it imports PyTorch. `sample` and others name a lighter package than
            Lightning, whose import takes longer than that of PyTorch.
    """
    timer = Timer(SLOW_IMPORT, log.info, ["loading PyTorch; this can take up to a minute the first time"])
    timer.daemon = True
    timer.start()
    try:
        import_module(package)
    finally:
        timer.cancel()


def is_first_process() -> bool:
    """Whether this is the first, or the only, process of those that train one model."""
    return all(os.environ.get(name, "0") in ("", "0") for name in RANKS)


def note_missing(directory: Path) -> None:
    """Note which folders Hydra is about to create, to remove those still empty when the command ends."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    CREATED_FOLDERS.extend(missing)


def _with_home(argument: str) -> str:
    """An argument with the home directory in place of a leading ~, which shells do not expand after a `=`.

    Raises:
        UserError: if there is no home directory.
    """
    name, equals, value = argument.partition("=")
    if not equals or value.partition("/")[0] != "~":
        return argument
    try:
        return f"{name}={Path(value).expanduser()}"
    except RuntimeError as error:  # as in many containers
        raise UserError(f"{argument}: there is no home directory here; write the path in full") from error


def _without_groups(arguments: list[str]) -> list[str]:
    """Arguments with Hydra's `~GROUP` in place of `GROUP=null`, which Hydra does not accept.

    Raises:
        UserError: for a group that cannot be null.
    """
    changed = []
    for argument in arguments:
        group, _, value = argument.partition("=")
        if value == "null" and (CONFIG_DIRECTORY / group).is_dir():
            if group in NEEDED:
                choices = sorted(path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml"))
                raise UserError(f"{argument}: cannot be left out; use one of {', '.join(choices)}")
            argument = f"~{group}"
        changed.append(argument)
    return changed


def _keep_paths(config: DictConfig) -> None:
    """Resolve relative paths from where the command was started, even if hydra.job.chdir changed the directory."""
    started_in = Path(HydraConfig.get().runtime.cwd)
    if started_in == Path.cwd():
        return
    for key in ("output_root", "resume", "data.root", "data.cache", "data.patients"):
        value = OmegaConf.select(config, key, throw_on_missing=False)
        node, _, name = key.rpartition(".")
        parent = OmegaConf.select(config, node) if node else config
        if isinstance(value, str) and not OmegaConf.is_interpolation(parent, name):
            OmegaConf.update(config, key, str(started_in / value))


def check_seed(seed: int) -> None:
    """Check that NumPy accepts a seed.

    Raises:
        UserError: unless 0 <= seed < 2^32.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}: must lie between 0 and 4294967295")


def _with_run_directory(arguments: list[str]) -> list[str]:
    """Arguments with the directory of the run that `resume` continues, which Hydra needs before it composes.

    Raises:
        UserError: if there is no such run, or in a sweep.
    """
    given, options = _by_name(arguments)
    wanted, directory = options.get("resume", "None"), options.get("hydra.run.dir")
    if wanted == "None":
        return arguments
    if _is_sweep(options):
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
        return [*kept, as_option("resume", found.resolve()), as_option("hydra.run.dir", found.resolve())]
    if wanted == "auto":
        return [*kept, given["hydra.run.dir"]]
    raise UserError(f"resume={wanted}: there is no run in {found.resolve()}; give a directory with a {CONFIG}")


def _with_run_to_repeat(arguments: list[str]) -> list[str]:
    """Arguments with the absolute path of the run that `rerun` repeats.

    Raises:
        UserError: if there is no such run, in a sweep, or together with `resume`.
    """
    given, options = _by_name(arguments)
    wanted = options.get("rerun", "None")
    if wanted == "None":
        return arguments
    if _is_sweep(options):
        raise UserError("rerun: repeats one run; leave --multirun out")
    if options.get("resume", "None") != "None":
        raise UserError("rerun: starts a new run, and resume continues one; leave one of them out")
    found = Path(options.get("output_root", "outputs"), "latest") if wanted == "latest" else Path(wanted)
    if not is_next_to(found / CONFIG, found):
        raise UserError(f"rerun={wanted}: there is no run in {found.resolve()}; give a directory with a {CONFIG}")
    return [*(argument for argument in arguments if argument != given["rerun"]), as_option("rerun", found.resolve())]


def _by_name(arguments: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The arguments by the names of their options, and the options' values."""
    given = {name.lstrip("+"): argument for argument in arguments for name in [argument.partition("=")[0]]}
    return given, {name: _value(argument) for name, argument in given.items()}


def _is_sweep(options: dict[str, str]) -> bool:
    return bool({"--multirun", "-m"} & options.keys()) or options.get("hydra.mode") == "MULTIRUN"


def _value(argument: str) -> str:
    """The value of an argument, taken literally where Hydra cannot parse it, as for unquoted paths."""
    try:
        return str(OverridesParser.create().parse_override(argument).value())
    except HydraException:
        return argument.partition("=")[2].strip("'\"")


def check_options(config: DictConfig, config_name: str, only: str | None = None) -> None:
    """Check the types of the options against the defaults of the same configuration.

    Args:
        config: the configuration.
        config_name: the name of the command.
        only: the group to check; all if None.

    Raises:
        UserError: if a value does not have the type of its default, or no command reads an added option.
    """
    hydra_config = HydraConfig.get()
    given = [*hydra_config.overrides.hydra, *hydra_config.overrides.task]
    check_values(config, config_name, given, hydra_config.runtime.choices, only)


def check_values(
    config: DictConfig, config_name: str, options: Sequence[str], choices: Mapping[str, Any], only: str | None = None
) -> None:
    """Like `check_options`, for when Hydra is initialised but no command is running.

    Args:
        config: the configuration.
        config_name: the name of its file in `conf/`.
        options: what it was composed with.
        choices: the choice made in each group of the configuration.
        only: see `check_options`.

    Raises:
        UserError: see `check_options`.
    """
    chosen = OverridesParser.create().parse_overrides(list(options))
    kept = {*choices, "hydra.searchpath"}
    groups = tuple(o.input_line for o in chosen if o.key_or_group in kept and o.input_line)
    folders = tuple(element.path for element in GlobalHydra.instance().config_loader().get_search_path().get_path())
    defaults = _defaults(config_name, groups, folders)
    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    if only is not None:
        defaults, values = {only: defaults[only]}, {only: values[only]}
    for name in sorted(map(str, values.keys() - defaults.keys())):
        raise UserError(f"there is no option {name}{_suggestion(name, defaults)}")
    _check_types(defaults, values, "")
    if "output" in values and values["output"] in (None, ""):
        raise UserError(f"output={values['output'] or ''}: give a folder to write into")


@lru_cache(maxsize=16)
def _defaults(config_name: str, groups: tuple[str, ...], folders: tuple[str | None, ...]) -> dict[Any, Any]:
    """The options of a command with choices of groups, from folders of configurations.

    The jobs of a sweep, which differ in values only, have the same; composing it takes Hydra longer than all checks.
    """
    composed = OmegaConf.to_container(hydra.compose(config_name, list(groups)))
    assert isinstance(composed, dict)
    return composed


def _check_types(defaults: dict[Any, Any], values: dict[Any, Any], prefix: str) -> None:
    for name, default in defaults.items():
        if name not in values or default is None:
            continue
        value, key = values[name], f"{prefix}{name}"
        if isinstance(default, str):
            if isinstance(value, list | dict) and key not in LISTS:
                raise UserError(
                    f"{key}={value}: must be a single value; put text with brackets in quotes: '{key}=\"[a]\"'"
                )
            continue
        if isinstance(value, str) and value.startswith("${"):
            continue
        group = isinstance(default, dict) and not (key.startswith("model.") and key != "model.gate")
        nullable = value is None and (group or key in NULLABLE)
        if nullable or (isinstance(value, str) and key in NUMBER_OR_WORD):
            continue
        if isinstance(default, dict) and isinstance(value, dict):
            _check_types(default, value, f"{key}.")
        elif type(value) is not type(default) and not (type(default) is float and type(value) is int):
            if key in SHARES and type(value) is float:
                continue
            words = {int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a group"}
            such = "; leave it out, or set options in it" if isinstance(default, dict) else f", such as {default}"
            raise UserError(f"{key}={value}: must be {words[type(default)]}{such}")


def _is_mistake(error: Exception) -> bool:
    lightnings = any(kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__)
    return lightnings or isinstance(error, MISTAKES) or _is_short_of_memory(error)


def _is_short_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search("can't allocate memory|out of memory", str(error)) is not None
    )


def explain(error: Exception) -> str:
    """What went wrong, in one message; errors that are not users' mistakes are given with their type."""
    return _message(error) if _is_mistake(error) else f"{type(error).__name__}: {error}"


def _message(error: BaseException) -> str:
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = str(error).rpartition("full_key: ")[2]
        cause = _message(error.__cause__)
        named = isinstance(error.__cause__, InstantiationException) or key.split(".")[0] in cause
        return cause if named else f"{key}: {cause}"
    if isinstance(error, MissingConfigException) and error.options:
        name = str(error.missing_cfg_file)
        group, _, wrong = name.rpartition("/")
        return f"{group}={wrong}: use one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        if "=" not in error.override:
            return f"{error.override}: is not an option; options are written name=value"
        quoted = as_typed(*error.override.split("=", 1))
        return f"{error.override}: contains characters that must be quoted; write {quoted}"
    part = _NO_SUCH_PART.match(str(error)) if isinstance(error, HydraException) else None
    if part is not None:
        return f"{part[1]}/{part[2]}: the chosen {part[1]} has no {part[2]}; leave the option out"
    foreign = _NO_SUCH_GROUP.match(str(error)) if isinstance(error, HydraException) else None
    if foreign is not None:
        return _unknown(foreign[1], {})
    several = _SEVERAL.match(str(error)) if isinstance(error, HydraException) else None
    if several is not None:
        name, _, value = several[1].partition("=")
        one = as_typed(name, value)
        return f"{several[1]}: lists several values; for one value write {one}, for a sweep add --multirun"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}; check the path, its permissions and the space left"
    if _is_short_of_memory(error):
        return f"not enough memory ({str(error).strip().partition(chr(10))[0]}); ask for fewer or smaller images"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set; add {error.full_key}=VALUE"
    unknown = error.__cause__
    if isinstance(unknown, ConfigKeyError | ConfigAttributeError):
        root = unknown.parent_node
        while root is not None and root._get_parent() is not None:
            root = root._get_parent()
        known = OmegaConf.to_container(root) if root is not None else {}
        overridden = _OVERRIDDEN.match(str(error)) if isinstance(error, HydraException) else None
        return _unknown(overridden[1] if overridden else str(unknown.full_key), known)
    return str(error).strip() + (f"\n{unknown}" if isinstance(unknown, OmegaConfBaseException) else "")


def _unknown(key: str, known: object) -> str:
    """The message for an option that the configuration does not have."""
    addable = key.startswith(ADDABLE) and isinstance(known, dict) and key.partition(".")[0] in known
    instead = OF_AUTOMATIC_OPTIMIZATION.get(key.removeprefix("trainer."))
    if instead is not None and isinstance(known, dict) and "trainer" in known:
        return f"{key}: has no effect, because this project uses manual optimization; {instead}"
    if key.startswith(FREE) or (addable and not difflib.get_close_matches(key, _keys(known), 1, 0.9)):
        return f"{key} is not among the options that --help shows; to add it, put a + before it: +{key}=VALUE"
    return f"there is no option {key}{_suggestion(key, known)}"


def _suggestion(key: str, known: object) -> str:
    names = [name for name in _keys(known) if not name.startswith("hydra") or key.startswith("hydra")]
    if "trainer" in names:
        names += [path.name for path in CONFIG_DIRECTORY.iterdir() if path.is_dir() and path.name != "hydra"]
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]}?" if close else "; --help shows them all"


def _keys(node: object, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    return [key for name, value in node.items() for key in (f"{prefix}{name}", *_keys(value, f"{prefix}{name}."))]
