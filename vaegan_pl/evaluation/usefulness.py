"""How useful labelled synthetic images are: classifiers trained on them are tested on real images.

Train on synthetic, test on real (TSTR): arXiv 1706.02633, 1905.10887.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from torchmetrics.functional.classification import multiclass_calibration_error

from vaegan_pl.evaluation.classifier import Classifier, Labelled, balanced_accuracy, predict
from vaegan_pl.evaluation.estimate import RESAMPLES, Estimate, bootstrap_ci, resampled_counts

BINS = 15


@dataclass(frozen=True)
class Trial:
    """Which images classifiers of several seeds classified correctly.

    Attributes:
        right: whether each image was classified correctly, one row per seed.
        labels: classes of the images.
        calibration_error: mean difference between the probability of the most likely class and the share of images that
            are classified correctly with such a probability, in `BINS` bins (arXiv 1706.04599, eq. 3); mean over seeds,
            in [0, 1].
    """

    right: Bool[ndarray, "seed image"]
    labels: Int64[ndarray, " image"]
    calibration_error: float

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


def judge(models: Sequence[Classifier], images: Labelled) -> Trial:
    """Which images each classifier classifies correctly."""
    probabilities = [predict(model, images.x) for model in models]
    right = [(found.argmax(1) == images.labels).cpu().numpy() for found in probabilities]
    errors = [
        float(multiclass_calibration_error(found, images.labels, found.shape[1], BINS)) for found in probabilities
    ]
    return Trial(np.array(right), images.labels.cpu().numpy(), float(np.mean(errors)))


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
    images = np.empty(len(labels))
    draws = np.empty((RESAMPLES, len(trials)))
    for row in draws:
        for of_class in members:
            images[of_class] = resampled_counts(random, len(of_class)) / (len(of_class) * len(members))
        row[:] = [resampled_counts(random, len(one.right)) @ one.right @ images / len(one.right) for one in trials]
    return draws


@dataclass(frozen=True)
class Usefulness:
    """Classifiers trained on real and on synthetic images; with classical augmentation.

    Attributes:
        real_real: trained on real images, tested on real ones (TRTR).
        synthetic_real: trained on as many synthetic images, tested on real ones (TSTR).
        real_synthetic: trained on real images, tested on synthetic ones (TRTS).
        gaussian_real: trained on draws from a Gaussian of each class, tested on real images.
        both_real: trained on real and synthetic images, one to one, for twice as many steps, so that each real image is
            seen as often as for `real_real`; tested on real images.
        longer_real: trained on real images for twice as many steps, tested on real ones.
    """

    real_real: Trial
    synthetic_real: Trial
    real_synthetic: Trial
    gaussian_real: Trial
    both_real: Trial
    longer_real: Trial

    @cached_property
    def accuracies(self) -> dict[str, Estimate]:
        """Balanced accuracies in [0, 1], the share of TRTR that TSTR reaches, and the gain of training on both."""
        return {
            "TRTR": self.real_real.accuracy,
            "TSTR": self.synthetic_real.accuracy,
            "TSTR of Gaussians": self.gaussian_real.accuracy,
            "TRTS": self.real_synthetic.accuracy,
            "TSTR / TRTR": ratio(self.synthetic_real, self.real_real),
            "real + synthetic": self.both_real.accuracy,
            "real + real": self.longer_real.accuracy,
            "augmentation gain": gain(self.both_real, self.longer_real),
        }
