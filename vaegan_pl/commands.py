"""How every command starts: Hydra composes its configuration, and a user's mistake ends it with one message."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from wandb.errors import Error as WandbError

from vaegan_pl.errors import UserError

_PACKAGE = Path(__file__).parent
CONFIG_DIRECTORY = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Inside an installed package, or beside the package in a checkout."""


def run(task: Callable[[DictConfig], None], config_name: str) -> None:
    """Run `task` on the configuration that Hydra composes from `conf/CONFIG_NAME.yaml` and the command line.

    Exits with 1 and one message for users' mistakes: wrong options, and files that cannot be read or written. With
    HYDRA_FULL_ERROR=1 in the environment the traceback is shown instead.
    """
    asked = os.environ.get("HYDRA_FULL_ERROR", "0")

    @contextmanager
    def one_message() -> Iterator[None]:
        try:
            yield
        except (UserError, HydraException, OmegaConfBaseException, OSError, WandbError) as error:
            if asked == "1":
                raise
            sys.exit(f"error: {_message(error)}")

    @wraps(task)
    def job(config: DictConfig) -> None:
        with one_message():
            task(config)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # what goes wrong outside the job comes here instead of being printed by Hydra
    try:
        with one_message():
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name=config_name)(job)()
    finally:
        os.environ["HYDRA_FULL_ERROR"] = asked


def _message(error: BaseException) -> str:
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return _message(error.__cause__)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}; check the path, its permissions and the space left"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set; add {error.full_key}=VALUE"
    text = str(error).strip()
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return f"there is no option {cause.full_key}{_suggestion(str(cause.full_key), cause)}"
    if isinstance(cause, OmegaConfBaseException):
        text += f"\n{cause}"
    if isinstance(error, WandbError):
        text += "\nW&B could not start; keep logger.wandb.offline=true or take logger=csv"
    return re.sub(r"\n\s*(object_type=.*)", "", text)


def _suggestion(key: str, error: OmegaConfBaseException) -> str:
    root = error.parent_node
    while root is not None and root._get_parent() is not None:
        root = root._get_parent()
    known = list(_keys(OmegaConf.to_container(root))) if root is not None else []
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; --help shows them all"


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")
