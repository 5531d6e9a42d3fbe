"""Slow results that depend on the real images alone, computed once and kept in the cache."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vaegan_pl.evaluation.classifier import Classifier, Images, Training, fit
from vaegan_pl.evaluation.privacy import CopyDetector, Nearest
from vaegan_pl.storage import tensor_files
from vaegan_pl.storage.files import RefusedError, printable

log = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 1
"""To be raised when `classifier.fit` trains differently."""

SEARCH_VERSION = 1
"""To be raised when `CopyDetector.nearest` finds something else."""


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
    _keep(path, {"classifiers": states}, "classifiers are trained")
    return models


def nearest_once(detector: CopyDetector, x: Images, description: str, cache: Path) -> Nearest:
    """What `CopyDetector.nearest` finds, from the cache if it searched for the same images before.

    Args:
        detector: of the training images.
        x: images in [-1, 1].
        description: text of the progress bar.
        cache: folder of the cache.
    """
    digest = hashlib.sha256(json.dumps([SEARCH_VERSION, detector.device.type]).encode())
    for images in (detector.train, x):
        digest.update(json.dumps(list(images.shape)).encode())
        digest.update(images.cpu().numpy().tobytes())
    path = cache / f"nearest-{digest.hexdigest()[:32]}.pth"

    def restored(_: int, part: dict[str, Tensor]) -> Nearest:
        found = Nearest(**part)
        types = [values.dtype for values in vars(found).values()]
        if types != [torch.float32, torch.int64, torch.bool]:
            raise ValueError(f"holds {', '.join(map(str, types))}")
        if [len(values) for values in vars(found).values()] != [len(x)] * 3:
            raise ValueError(f"is not about {len(x)} images")
        exist = (found.image >= 0) & (found.image < len(detector.train))
        if not bool((exist & (found.correlation.abs() < 1.001)).all()):
            raise ValueError("contains numbers out of range")
        return found

    kept = read_parts(path, "nearest", 1, restored)
    if kept is not None:
        return kept[0]
    found = detector.nearest(x, description)
    stored = {name: values.contiguous() for name, values in vars(found).items()}
    _keep(path, {"nearest": [stored]}, "copies are looked for")
    return found


def _keep(path: Path, content: dict[str, Any], otherwise: str) -> None:
    try:
        tensor_files.save(path, content)
    except OSError as error:
        log.warning("data.cache=%s cannot be used (%s): %s anew every time", path.parent, error, otherwise)


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
    """The parts of a list in a file of the cache; None, with a warning, if it cannot be used.

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
            raise ValueError(f"does not contain {n} {key}")
        return [restored(i, part) for i, part in enumerate(parts)]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, RefusedError) as error:
        reason = printable(str(error).partition("\n")[0])[:200]
        log.warning("%s cannot be used and will be rebuilt: %s", path, reason)
        return None
