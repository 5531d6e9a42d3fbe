"""What is accepted from a stored configuration, which anyone may have written.

Only options that exist in `conf/` or in a folder named by `--config-dir`, with values of the same kind, are accepted.
Paths outside the run's directory, URLs, other classes and anything else must be given again on the command line.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException

from vaegan_pl.cli.commands import CONFIG_DIRECTORY, FREE, NULLABLE, NUMBER_OR_WORD
from vaegan_pl.console import as_typed
from vaegan_pl.errors import UserError
from vaegan_pl.runs.overriding import flatten, parse
from vaegan_pl.runs.shipped import NUMBERS, Place, group_names, listed, shipped
from vaegan_pl.runs.yaml_files import MOST_NUMBER
from vaegan_pl.storage.files import MOST_DEPTH, printable

MOVABLE = frozenset({"data.root", "data.cache", "data.patients"})
"""Options that say where the images are; they may change, because a checkpoint identifies images by their pixels."""

TO_GIVE_AGAIN = frozenset({"data.patient", "data.patients", "logger.wandb.offline"})
"""Options that can do harm: a regular expression can run forever, and an online run uploads data."""

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
    "optimizer.schedule": re.compile(
        r"torch\.optim\.lr_scheduler\.(StepLR|MultiStepLR|ConstantLR|LinearLR|ExponentialLR|PolynomialLR|"
        r"CosineAnnealingLR|CosineAnnealingWarmRestarts)"
    ),
    "callbacks.pruning.pruner": re.compile(r"optuna\.pruners\.[A-Z]\w*"),
}
"""Where other classes of a library are accepted, with any numbers as their arguments."""

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
"""The largest numbers that are accepted; with more nodes, each would silently wait for the others."""

MAY_BE_EMPTY = frozenset({"logger", "callbacks"})
_SHOWN = 3
_MOST_LISTED = 10_000


def check(path: Path, stored: dict[Any, Any], trusted: Sequence[str], composed: dict[Any, Any]) -> None:
    """Check that a stored configuration contains only what is accepted.

    Args:
        path: its file, for the message.
        stored: the configuration, changed by the command line.
        trusted: keys of options and groups that do not come from the file.
        composed: the configuration composed from the command line.

    Raises:
        UserError: if it contains anything else; the message says what to type if the user trusts it.
    """
    rejected = list(_rejected(stored, listed(), "", trusted))
    if not rejected:
        return
    known = flatten(composed)
    again = " ".join(_typed(key, value, key in known) for key, value in rejected[:_SHOWN])
    again = printable(again)[:1000] + (" ..." if len(rejected) > _SHOWN else "")
    key, value = rejected[0]
    if len(rejected) == 1 and key == "data.root":
        raise UserError(
            f"{path}: the images were in {printable(value)[:200]}, outside the run's directory; to use them again, "
            f"add {again}"
        )
    raise UserError(
        f"{path}: sets {printable(key)}={printable(value)[:100]}, which is not accepted from a run's directory; "
        f"nothing was started; if it is from your own folder, add --config-dir FOLDER; if you trust it, add {again}"
    )


def is_known(override: str) -> bool:
    """Whether `conf/` has such an option and value; `MOVABLE` and `TO_GIVE_AGAIN`, which users set, are accepted."""
    try:
        (parsed,) = parse([override])
        value, group = parsed.value(), parsed.key_or_group
        key = group.replace("/", ".")
        if key in MOVABLE or key in TO_GIVE_AGAIN:
            return True
        if group in group_names():
            names = {path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml")}
            return all(isinstance(name, str) and name in names for name in (value if type(value) is list else [value]))
        if key.count(".") > MOST_DEPTH or "${" in str(value):
            return False
        node: Any = value
        for name in reversed(key.split(".")):
            node = {name: node}
        return not list(_rejected(node, shipped(), "", []))
    except (HydraException, ValueError, RecursionError):
        return False


def _typed(key: str, value: Any, known: bool) -> str:
    """An option as typed on the command line."""
    name = key if known else f"+{key}"
    if isinstance(value, str):
        return as_typed(name, value)
    return f"{name}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


def _rejected(stored: Any, place: Place | None, key: str, trusted: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The options of a stored configuration that `conf/` lacks, or has with values of another kind."""
    if any(key == own or key.startswith(f"{own}.") for own in trusted):
        return
    if isinstance(stored, dict):
        if not stored and (place is None or not ({} in place.values or key in MAY_BE_EMPTY)):
            yield key, stored
        for name, value in stored.items():
            below = None if place is None else place.below.get(name)
            if key == "trainer" and name in OF_LIGHTNING:  # whole numbers and fractions, whichever `conf/` has
                below = NUMBERS
            yield from _rejected(value, below or _unlisted(key, name), f"{key}.{name}".lstrip("."), trusted)
    elif place is None or not _is_accepted(stored, place, key):
        yield key, stored


def _unlisted(key: str, name: object) -> Place | None:
    """The place of an option that `conf/` does not list although it is accepted; None for other options."""
    is_word = isinstance(name, str) and _WORD.fullmatch(name) is not None and printable(name) == name
    if (key == "trainer" and name in OF_LIGHTNING) or (key in CLASSES and is_word):
        return NUMBERS
    if f"{key}." in FREE and is_word:
        return Place(values=["", 0])
    return None


def _is_accepted(value: Any, place: Place, key: str) -> bool:
    """Whether a value is accepted in a place of the configuration."""
    if value is None and (key in MAY_BE_EMPTY or key.rpartition(".")[0] == "callbacks"):
        return True
    if place.below and not place.values:
        return False
    if key in TO_GIVE_AGAIN:
        return value is True or value in place.values
    if not _has_right_type(value, place, key):
        return False
    if isinstance(value, list):
        return len(value) < _MOST_LISTED and all(
            not isinstance(part, list | dict) and _is_safe(part, place, key) for part in value
        )
    return _is_safe(value, place, key)


def _has_right_type(value: Any, place: Place, key: str) -> bool:
    """Whether `conf/` has such a value there: null, a number, text or a list; null in `conf/` allows any of them."""
    types = {type(known) for known in place.values}
    derived = any(text.startswith("${") for text in place.texts)
    if type(None) in types or (derived and not place.is_path):
        return True
    if value is None:
        return key in NULLABLE or place is NUMBERS
    if isinstance(value, list) and place is NUMBERS:
        return True
    return type(value) in types or (type(value) is int and float in types) or key in NUMBER_OR_WORD


def _is_safe(value: Any, place: Place, key: str) -> bool:
    """Whether a number is not too large, and text is a short word, not a new URL, path, reference or class."""
    if value is None or isinstance(value, bool | float):
        return True
    if isinstance(value, int):
        return abs(value) <= MOST.get(key, MOST_NUMBER)
    if not isinstance(value, str) or place is NUMBERS:
        return False
    owner = key.rpartition(".")[0]
    if "${" in value or key.endswith("_target_"):
        return value in place.texts or (owner in CLASSES and CLASSES[owner].fullmatch(value) is not None)
    if place.is_path:
        return value in place.texts and value != "???"
    if not any(isinstance(known, str | list) or known is None for known in place.values):
        return key in NUMBER_OR_WORD
    return printable(value) == value and WORDS.get(key, _WORD).fullmatch(value) is not None
