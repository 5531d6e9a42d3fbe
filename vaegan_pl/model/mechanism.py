"""The Gaussian mechanism of differential privacy, with noise from the operating system's generator.

Sums of integer vectors are released with noise from the discrete Gaussian distribution, which is sampled exactly. The
low bits of floating-point noise can reveal what it was added to (Mironov, "On significance of the least significant
bits for differential privacy", 2012); integers have no such bits.
"""

import math
from collections.abc import Callable
from secrets import randbelow

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy.special import log_ndtr, ndtr, ndtri

SCALE = 2**30
"""The integer that stands for 1. The vectors that are summed have a norm of `SCALE` at most."""

MARGIN = 1e-6
"""Relative reduction of epsilon and delta before the noise is chosen: the calibration is that of continuous noise.

On a lattice as fine as `SCALE`, the probability of each point under the discrete Gaussian differs from that of its cell
under the continuous one, whose rounding is post-processing, by a factor of at most exp(t^2 / 24 s^2) within t standard
deviations s of the mean. For t = 40 (beyond which less than 1e-340 of either lies) and s > 2^27, this is less than
4e-15 for each number, so less than 1e-8 for a million numbers.
"""

LEAST_DEVIATION = 2**27
"""Least standard deviation of the noise for which this holds, in units of 1 / `SCALE`."""


def delta_of(epsilon: float, deviation: float) -> float:
    """The smallest delta for which Gaussian noise gives (epsilon, delta) (Balle and Wang, arXiv 1805.06530, Theorem 8).

    Args:
        epsilon: at least 0.
        deviation: standard deviation of the noise, divided by the L2 sensitivity.
    """
    half, ratio = 1 / (2 * deviation), epsilon * deviation
    return math.exp(log_ndtr(half - ratio)) - math.exp(epsilon + log_ndtr(-half - ratio))


def exceeding(epsilon: float, deviation: float) -> float:
    """Probability that the privacy loss of one release exceeds epsilon; it is larger than `delta_of`.

    With Gaussian noise, the loss is normal with mean 1 / 2 deviation^2 and variance 1 / deviation^2 (Balle and Wang,
    Lemma 3).

    Args:
        epsilon: at least 0.
        deviation: see `delta_of`.
    """
    return float(ndtr(1 / (2 * deviation) - epsilon * deviation))


def deviation_for(epsilon: float, delta: float) -> float:
    """The least noise that gives (epsilon, delta)-differential privacy, by bisection (arXiv 1805.06530, Algorithm 1).

    Args:
        epsilon: above 0.
        delta: in (0, 1).

    Returns:
        The standard deviation divided by the L2 sensitivity, rounded up.
    """
    low, high = 0.0, 1.0
    while delta_of(epsilon, high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(epsilon, middle) > delta else (low, middle)
    return high


def power(deviation: float, false_positives: float) -> float:
    """The largest share of true positives of any test of whether a unit was included, given that of false positives.

    This is the Gaussian mechanism's trade-off function (Dong, Roth and Su, arXiv 1905.02383, equation 6).
    """
    return float(ndtr(ndtri(false_positives) + 1 / deviation))


def noisy(sums: Int64[ndarray, " entry"], deviation: float) -> Float64[ndarray, " entry"]:
    """Sums of integer vectors, with independent noise from the discrete Gaussian distribution.

    Args:
        sums: the sums.
        deviation: standard deviation of the noise, in units of `SCALE`.

    Raises:
        ValueError: if the noise is too small for the lattice; see `MARGIN`.
    """
    of_integers = math.ceil(deviation * SCALE)
    if of_integers < LEAST_DEVIATION:
        raise ValueError(f"noise of {deviation} is too small for the lattice")
    return np.array([value + discrete_gaussian(of_integers) for value in sums.tolist()], dtype=np.float64)


def discrete_gaussian(deviation: int, below: Callable[[int], int] = randbelow) -> int:
    """An integer x with probability proportional to exp(-x^2 / 2 s^2), exactly (arXiv 2004.00010, Algorithm 3)."""
    variance, t = deviation**2, deviation + 1
    while True:
        x = _discrete_laplace(t, below)
        if _happens(abs(abs(x) * t - variance) ** 2, 2 * variance * t**2, below):
            return x


def _discrete_laplace(t: int, below: Callable[[int], int]) -> int:
    """An integer x with probability proportional to exp(-|x| / t) (arXiv 2004.00010, Algorithm 2)."""
    while True:
        u, v = below(t), 0
        if not _happens(u, t, below):
            continue
        while _happens(1, 1, below):
            v += 1
        x, negative = u + t * v, below(2)
        if x or not negative:
            return -x if negative else x


def _happens(numerator: int, denominator: int, below: Callable[[int], int]) -> bool:
    """True with probability exp(-numerator / denominator), exactly (arXiv 2004.00010, Algorithm 1)."""
    while numerator > denominator:
        if not _happens(1, 1, below):
            return False
        numerator -= denominator
    k = 1
    while below(denominator * k) < numerator:
        k += 1
    return k % 2 == 1
