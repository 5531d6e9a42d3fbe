"""A figure with its interval."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from scipy.stats import binomtest
from scipy.stats import t as student

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. Without an interval, both ends equal the value.

    Attributes:
        value: the figure.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 0 if abs(self.value) >= 100 else 1 if abs(self.value) >= 10 else 3
        if self.low == self.value == self.high:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Halved(Estimate):
    """A figure of one or more sets of images, with an interval from its values on halves of the sets.

    Attributes:
        halves: its values on both halves, one row per division.
    """

    halves: Float64[ndarray, "division 2"] = field(repr=False, compare=False)


def halved(value: float, halves: Float64[ndarray, "division 2"], *, on_log_scale: bool = False) -> Halved:
    """A figure with its 95 % interval from random halves: a delete-half jackknife (Shao and Wu 1989).

    If the variance of a figure falls as 1 / n, its values on halves, which share images, have the variance of the
    figure itself; and the difference of its values on the two halves of a division, which share none, has four times
    that. The mean of both estimates is used: in simulations, counts of neighbours needed it. Unlike a bootstrap,
    halves contain no image twice, which would be its own nearest neighbour.

    Args:
        value: the figure of all images.
        halves: its values on the halves of each of several divisions; without any, the interval is the value.
        on_log_scale: whether it is the variation of the logarithm that falls as 1 / n, as for positive figures that
            grow or shrink with n.
    """
    if len(halves) == 0:
        return Halved(value, value, value, halves)
    positive = on_log_scale and value > 0 and bool((halves > 0).all())
    scaled = np.log(halves) if positive else halves
    variance = (scaled.var(ddof=1) + np.square(scaled[:, 0] - scaled[:, 1]).mean() / 4) / 2
    reach = float(student.ppf(0.975, halves.size - 1) * np.sqrt(variance))
    if positive:
        return Halved(value, value * math.exp(-reach), value * math.exp(reach), halves)
    return Halved(value, value - reach, value + reach, halves)


def difference(one: Halved, other: Halved) -> Halved:
    """The difference of two figures on the same divisions, with its interval."""
    return halved(one.value - other.value, one.halves - other.halves)


def bootstrap_ci(value: float, resampled: Sequence[float] | ndarray) -> Estimate:
    """A figure with its 95 % percentile bootstrap interval, given its values on resamples."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def resampled_counts(random: np.random.Generator, n: int) -> Int64[ndarray, " n"]:
    """How often each of `n` items is in a bootstrap resample of them."""
    return np.bincount(random.integers(n, size=n), minlength=n)


def area_under_roc(
    trials: Sequence[tuple[Float[ndarray, " positive"], Float[ndarray, " negative"]]], seed: int
) -> Estimate:
    """How well scores tell positive items from negative ones, with its 95 % interval.

    The area under the ROC curve is the share of pairs in which the positive item scores higher; ties count half (Hanley
    and McNeil 1982). 0.5 is chance, 1 means that all are told apart. The interval is a bootstrap over items.

    Args:
        trials: scores of positive and of negative items, the mean of whose areas is wanted.
        seed: seed of the bootstrap.
    """
    random = np.random.default_rng(seed)
    places = [
        [np.searchsorted(np.sort(negative), positive, side) for side in ("left", "right")]
        for positive, negative in trials
    ]

    def area(counts: Callable[[int], Int64[ndarray, " n"]]) -> float:
        areas = []
        for (positive, negative), (less, not_more) in zip(trials, places, strict=True):
            below = np.r_[0, counts(len(negative)).cumsum()]
            areas.append(counts(len(positive)) @ (below[less] + below[not_more]) / (2 * len(positive) * len(negative)))
        return float(np.mean(areas))

    draws = [area(lambda n: resampled_counts(random, n)) for _ in range(RESAMPLES)]
    return bootstrap_ci(area(lambda n: np.ones(n, dtype=np.int64)), draws)


def wilson_ci(count: int, n: int) -> Estimate:
    """A proportion with its 95 % Wilson interval."""
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return Estimate(count / n, float(interval.low), float(interval.high))
