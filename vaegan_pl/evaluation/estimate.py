"""A figure with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy.stats import binomtest


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


def spread(draws: Sequence[float]) -> Estimate:
    """The mean of a figure over several draws, with their range."""
    return Estimate(float(np.mean(draws)), min(draws), max(draws))


def bootstrap_ci(value: float, resampled: Sequence[float] | ndarray) -> Estimate:
    """A figure with its 95 % percentile bootstrap interval, given its values on resamples."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def wilson_ci(count: int, n: int) -> Estimate:
    """A proportion with its 95 % Wilson interval."""
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return Estimate(count / n, float(interval.low), float(interval.high))
