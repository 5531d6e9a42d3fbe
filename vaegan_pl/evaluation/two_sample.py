"""Can a classifier tell two sets of images apart? The classifier two-sample test (arXiv 1610.06545)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vaegan_pl.evaluation.classifier import Classifier, Images, Labelled, Training, predict
from vaegan_pl.evaluation.estimate import Estimate, area_under_roc

STEPS = 400


@dataclass(frozen=True)
class Grouped:
    """Images, and what belongs together.

    Attributes:
        x: images in [-1, 1].
        groups: the patient, or what else belongs together, of each image.
    """

    x: Images
    groups: Sequence[str]


def halves(real: Grouped, other: Grouped, seed: int) -> tuple[Labelled, Labelled]:
    """Two halves of both sets, equally many images of each; real images have label 1, the others 0.

    No group is in both halves, since a classifier would recognise it.
    """
    random = np.random.default_rng(seed)
    parts = [_divided(one.groups, random) for one in (other, real)]
    n = min(len(half) for part in parts for half in part)
    labels = torch.arange(2).repeat_interleave(n)
    first, second = (
        torch.cat([one.x[random.permutation(part[k])[:n]] for one, part in zip((other, real), parts, strict=True)])
        for k in (0, 1)
    )
    return Labelled(first, labels), Labelled(second, labels)


def _divided(groups: Sequence[str], random: np.random.Generator) -> tuple[list[int], list[int]]:
    """Indices of two halves of about the same size, the largest groups first."""
    members: dict[str, list[int]] = {}
    for i in random.permutation(len(groups)).tolist():
        members.setdefault(groups[i], []).append(i)
    found: tuple[list[int], list[int]] = ([], [])
    for own in sorted(members.values(), key=len, reverse=True):
        min(found, key=len).extend(own)
    return found


def trainings(parts: tuple[Labelled, Labelled], seed: int, device: torch.device) -> list[Training]:
    """A training on each half."""
    return [Training(part.to(device), 2, seed, STEPS) for part in parts]


def auc(models: Sequence[Classifier], parts: tuple[Labelled, Labelled], seed: int) -> Estimate:
    """How well classifiers trained on one half tell real images from others in the other half: the area under the ROC.

    0.5 is chance, 1 means that all are told apart. The interval is a bootstrap over images. It does not include
    the randomness of training.

    Args:
        models: trained on the first and on the second half.
        parts: the halves.
        seed: seed of the bootstrap.
    """
    scored = [
        (predict(model, part.x.to(next(model.parameters()).device))[:, 1].cpu().numpy(), part.labels.numpy())
        for model, part in zip(models, reversed(parts), strict=True)
    ]
    return area_under_roc([(scores[labels == 1], scores[labels == 0]) for scores, labels in scored], seed)
