"""Can a classifier tell two sets of images apart? The two-sample test of arXiv 1610.06545."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from vaegan_pl.evaluation.classifier import Classifier, Images, Labelled, Training, predict
from vaegan_pl.evaluation.estimate import Estimate, bootstrap_ci

STEPS = 400
RESAMPLES = 1000


def halves(real: Images, other: Images, seed: int) -> tuple[Labelled, Labelled]:
    """Two halves of both sets, equally many images of each; real images have label 1, the others 0."""
    generator = torch.Generator().manual_seed(seed)
    n = min(len(real), len(other)) // 2
    orders = [torch.randperm(len(images), generator=generator) for images in (other, real)]
    labels = torch.arange(2).repeat_interleave(n)
    first, second = (
        torch.cat([images[order[start : start + n]] for images, order in zip((other, real), orders, strict=True)])
        for start in (0, n)
    )
    return Labelled(first, labels), Labelled(second, labels)


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
    random = np.random.default_rng(seed)
    tested = [
        (predict(model, part.x.to(next(model.parameters()).device))[:, 1].cpu().numpy(), part.labels.numpy())
        for model, part in zip(models, reversed(parts), strict=True)
    ]
    draws = []
    for _ in range(RESAMPLES):
        areas = []
        for scores, labels in tested:
            chosen = np.concatenate([random.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in (0, 1)])
            areas.append(roc_auc_score(labels[chosen], scores[chosen]))
        draws.append(np.mean(areas))
    return bootstrap_ci(float(np.mean([roc_auc_score(labels, scores) for scores, labels in tested])), draws)
