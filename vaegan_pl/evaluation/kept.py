"""Classifiers of real images, which are the same for every model: trained once, and kept in the cache."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vaegan_pl.evaluation.classifier import Classifier, Training, fit
from vaegan_pl.storage import tensor_files
from vaegan_pl.storage.files import RefusedError, printable

log = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 1
"""To be raised when `classifier.fit` trains differently."""


def fit_once(trainings: Sequence[Training], description: str, cache: Path) -> list[Classifier]:
    """The classifiers that `classifier.fit` trains, from the cache if it trained the same ones before.

    Args:
        trainings: how to train each classifier.
        description: text of the progress bar.
        cache: folder of the cache.
    """
    path = cache / f"classifiers-{_digest(trainings)}.pth"

    def restored(i: int, state: dict[str, Tensor]) -> Classifier:
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise ValueError("contains numbers that are not finite")
        device = trainings[i].images.x.device
        model = Classifier(trainings[i].classes).to(device).to(memory_format=torch.channels_last)
        model.load_state_dict(state)
        return model.eval()

    found = read_parts(path, "classifiers", len(trainings), restored)
    if found is not None:
        return found
    models = fit(trainings, description)
    states = [{name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()} for model in models]
    try:
        tensor_files.save(path, {"classifiers": states})
    except OSError as error:
        log.warning("data.cache=%s cannot be used (%s): classifiers are trained in every evaluation", cache, error)
    return models


def _digest(trainings: Sequence[Training]) -> str:
    """Identifies everything that training depends on."""
    digest = hashlib.sha256(json.dumps(VERSION).encode())
    for training in trainings:
        images, labels = training.images.x, training.images.labels
        how = [training.classes, training.seed, training.steps, images.device.type, list(images.shape)]
        digest.update(json.dumps(how).encode())
        digest.update(images.cpu().numpy().tobytes())
        digest.update(labels.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def read_parts(path: Path, key: str, n: int, restored: Callable[[int, Any], T]) -> list[T] | None:
    """What a file of the cache holds for each of `n` classifiers; None, with a warning, if it cannot be used.

    Args:
        path: the file, which need not exist.
        key: the name of the list in it.
        n: number of its parts.
        restored: checks and converts a part, given its index.
    """
    if not path.exists():
        return None
    try:
        parts = tensor_files.load(path)[key]
        if not isinstance(parts, list) or len(parts) != n:
            raise ValueError(f"does not contain {n} classifiers")
        return [restored(i, part) for i, part in enumerate(parts)]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, RefusedError) as error:
        reason = printable(str(error).partition("\n")[0])[:200]
        log.warning("%s cannot be used and will be rebuilt: %s", path, reason)
        return None
