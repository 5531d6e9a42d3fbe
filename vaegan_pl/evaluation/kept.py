"""Classifiers of real images, which are the same for every model: trained once, and kept in the cache."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from vaegan_pl.evaluation.classifier import Classifier, Training, fit
from vaegan_pl.storage import tensor_files
from vaegan_pl.storage.files import RefusedError, printable

log = logging.getLogger(__name__)

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
    found = _read(path, trainings)
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


def _read(path: Path, trainings: Sequence[Training]) -> list[Classifier] | None:
    if not path.exists():
        return None
    try:
        states = tensor_files.load(path)["classifiers"]
        if not isinstance(states, list) or len(states) != len(trainings):
            raise ValueError(f"does not contain {len(trainings)} classifiers")
        found = []
        for state, training in zip(states, trainings, strict=True):
            if not all(tensor.isfinite().all() for tensor in state.values()):
                raise ValueError("contains numbers that are not finite")
            model = Classifier(training.classes).to(training.images.x.device).to(memory_format=torch.channels_last)
            model.load_state_dict(state)
            found.append(model.eval())
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, RefusedError) as error:
        reason = printable(str(error).partition("\n")[0])[:200]
        log.warning("%s cannot be used and will be rebuilt: %s", path, reason)
        return None
    return found
