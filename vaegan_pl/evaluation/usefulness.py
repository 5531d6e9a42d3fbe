"""How useful labelled synthetic images are: classifiers trained on them are tested on real images.

Train on synthetic, test on real (TSTR): arXiv 1706.02633, 1905.10887.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor

from vaegan_pl.evaluation.classifier import STEPS, Classifier, Images, balanced_accuracy, fit, predict
from vaegan_pl.evaluation.estimate import Estimate, bootstrap_ci

RESAMPLES = 2000


@dataclass(frozen=True)
class Labelled:
    """Images and their classes.

    Attributes:
        x: images in [-1, 1].
        labels: class indices.
    """

    x: Images
    labels: Int64[Tensor, " image"]

    def some(self, n: int, seed: int) -> "Labelled":
        """At most `n` images, drawn at random without replacement."""
        chosen = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))[:n]
        return Labelled(self.x[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> "Labelled":
        """The same images and labels on a device."""
        return Labelled(self.x.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Trial:
    """Which images classifiers of several seeds classified correctly.

    Attributes:
        right: whether each image was classified correctly, one row per seed.
        labels: classes of the images.
    """

    right: Bool[ndarray, "seed image"]
    labels: Int64[ndarray, " image"]

    @property
    def value(self) -> float:
        """Balanced accuracy in [0, 1], mean over seeds."""
        return float(np.mean([balanced_accuracy(row, self.labels) for row in self.right]))

    @property
    def accuracy(self) -> Estimate:
        """Balanced accuracy with its bootstrap interval over seeds and over images of each class."""
        return bootstrap_ci(self.value, _resampled([self])[:, 0])

    @property
    def per_class(self) -> list[float]:
        """Share of each class that was classified correctly, mean over seeds."""
        return [float(self.right[:, self.labels == label].mean()) for label in np.unique(self.labels)]


def classifiers(train: Labelled, classes: int, seeds: Sequence[int], name: str, steps: int = STEPS) -> list[Classifier]:
    """Train one classifier per seed, all for the same number of steps."""
    return [fit(train.x, train.labels, classes, seed, f"{name}, seed {seed}", steps) for seed in seeds]


def judge(models: Sequence[Classifier], images: Labelled) -> Trial:
    """Which images each classifier classifies correctly."""
    right = [(predict(model, images.x) == images.labels).cpu().numpy() for model in models]
    return Trial(np.array(right), images.labels.cpu().numpy())


def ratio(numerator: Trial, denominator: Trial) -> Estimate:
    """Ratio of two balanced accuracies on the same images, with its 95 % interval."""
    draws = _resampled([numerator, denominator])
    return bootstrap_ci(numerator.value / denominator.value, draws[:, 0] / draws[:, 1])


def gain(new: Trial, old: Trial) -> Estimate:
    """Difference of two balanced accuracies on the same images, with its 95 % interval."""
    draws = _resampled([new, old])
    return bootstrap_ci(new.value - old.value, draws[:, 0] - draws[:, 1])


def _resampled(trials: Sequence[Trial]) -> ndarray:
    """Balanced accuracies on bootstrap resamples of seeds and of images within classes; all trials share the images."""
    random = np.random.default_rng(0)
    labels = trials[0].labels
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    draws = np.empty((RESAMPLES, len(trials)))
    for row in draws:
        chosen = [random.choice(of_class, len(of_class)) for of_class in members]
        for i, one in enumerate(trials):
            some = one.right[random.integers(len(one.right), size=len(one.right))]
            row[i] = np.mean([some[:, images].mean() for images in chosen])
    return draws
