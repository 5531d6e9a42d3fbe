"""The Gaussian mechanism: its calibration against another program, its noise against exact probabilities."""

import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chisquare, kstest, norm

from vaegan_pl.model import mechanism
from vaegan_pl.model.mechanism import delta_of, deviation_for, discrete_gaussian, exceeding, noisy, power

OF_DP_ACCOUNTING = [
    (0.1, 1e-6, 36.30469045643756),
    (0.5, 1e-9, 10.673896858798365),
    (1, 1e-5, 3.730631664679545),
    (3, 1e-5, 1.3905934987510848),
    (8, 1e-5, 0.6002290725849286),
    (20, 1e-5, 0.29004146352477017),
]
"""Standard deviations for sensitivity 1 from dp-accounting 0.6.0: `GaussianPrivacyLoss.from_privacy_guarantee(
DifferentialPrivacyParameters(epsilon, delta), sensitivity=1).standard_deviation`."""


def seeded(seed: int) -> Callable[[int], int]:
    """A generator of random integers for tests; noise for releases comes from `secrets`."""
    return random.Random(seed).randrange


@pytest.mark.parametrize(("epsilon", "delta", "expected"), OF_DP_ACCOUNTING)
def test_the_noise_is_that_of_dp_accounting(epsilon: float, delta: float, expected: float) -> None:
    assert deviation_for(epsilon, delta) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1, 4, 12])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_the_noise_suffices_and_slightly_less_does_not(epsilon: float, delta: float) -> None:
    deviation = deviation_for(epsilon, delta)
    assert delta_of(epsilon, deviation) <= delta
    assert delta_of(epsilon, 0.9999 * deviation) > delta


@pytest.mark.parametrize(("epsilon", "deviation"), [(0.5, 1.0), (1, 3.7), (2, 0.8), (0, 5.0)])
def test_delta_is_the_integral_over_the_privacy_loss(epsilon: float, deviation: float) -> None:
    """The loss L of N(0, s^2) against N(1, s^2) is N(1 / 2 s^2, 1 / s^2); delta is E[max(0, 1 - exp(epsilon - L))]."""
    loss = norm(1 / (2 * deviation**2), 1 / deviation)
    upper = loss.mean() + 20 * loss.std()
    expected, _ = quad(lambda x: (1 - math.exp(epsilon - x)) * loss.pdf(x), epsilon, upper, epsabs=1e-13, limit=500)
    assert delta_of(epsilon, deviation) == pytest.approx(expected, rel=1e-6)


def test_no_test_finds_more_than_power_says() -> None:
    """By Neyman and Pearson, the best test of N(0, s^2) against N(1, s^2) is a threshold."""
    deviation = 1.5
    threshold = norm(0, deviation).isf(0.01)
    assert power(deviation, 0.01) == pytest.approx(norm(1, deviation).sf(threshold), rel=1e-9)


@pytest.mark.parametrize("deviation", [1, 2, 7])
def test_noise_has_exactly_the_probabilities_of_the_discrete_gaussian(deviation: int) -> None:
    n, below = 20_000, seeded(deviation)
    drawn = Counter(discrete_gaussian(deviation, below) for _ in range(n))
    reach = range(-3 * deviation, 3 * deviation + 1)
    mass = {x: math.exp(-(x**2) / (2 * deviation**2)) for x in range(-40 * deviation, 40 * deviation + 1)}
    expected = [n * mass[x] / sum(mass.values()) for x in reach]
    observed = [drawn[x] for x in reach]
    result = chisquare([*observed, n - sum(observed)], [*expected, n - sum(expected)])
    assert result.pvalue > 1e-3


def test_fine_noise_is_gaussian() -> None:
    deviation, below = 3 * mechanism.SCALE, seeded(0)
    drawn = np.array([discrete_gaussian(deviation, below) / deviation for _ in range(3000)])
    assert kstest(drawn, "norm").pvalue > 1e-3


def test_noise_is_added_to_sums_and_cannot_be_seeded() -> None:
    sums, found = np.full(200, 5 * mechanism.SCALE), []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        found.append(noisy(sums, 2.0) / mechanism.SCALE)
    assert not (found[0] == found[1]).any()
    for each in found:
        assert kstest((each - 5) / 2, "norm").pvalue > 1e-6
        np.testing.assert_array_equal(each * mechanism.SCALE, np.round(each * mechanism.SCALE))


def test_noise_too_small_for_the_lattice_is_refused() -> None:
    with pytest.raises(ValueError, match="too small for the lattice"):
        noisy(np.zeros(1, dtype=np.int64), 0.1)


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-2), (0.5, 0.05)])
def test_outputs_for_neighbours_are_as_alike_as_promised(epsilon: float, delta: float) -> None:
    """For half-lines, the sets that tell two Gaussians apart best; with tolerances of four standard errors."""
    n, deviation, below = 40_000, deviation_for(epsilon, delta), seeded(1)
    integer = round(deviation * 64)  # a coarse lattice of 1 / 64
    noise = np.array([discrete_gaussian(integer, below) for _ in range(2 * n)]) / 64
    without, with_ = noise[:n], 1 + noise[n:]
    excess = []
    for threshold in np.linspace(-3 * deviation, 1 + 3 * deviation, 60):
        for one, other in ((with_ > threshold, without > threshold), (without <= threshold, with_ <= threshold)):
            p, q = one.mean(), other.mean()
            error = math.sqrt((p * (1 - p) + math.exp(2 * epsilon) * q * (1 - q)) / n)
            excess.append(p - math.exp(epsilon) * q)
            assert excess[-1] <= delta + 4 * error
    assert max(excess) > 0.7 * delta  # the guarantee is tight, and the thresholds reach it


def test_half_of_the_noise_would_break_the_promise() -> None:
    epsilon, delta, n, below = 1.0, 1e-2, 20_000, seeded(2)
    integer = round(deviation_for(epsilon, delta) * 32)  # half of it, on a lattice of 1 / 64
    noise = np.array([discrete_gaussian(integer, below) for _ in range(2 * n)]) / 64
    shares = [((1 + noise[n:] > t).mean(), (noise[:n] > t).mean()) for t in np.linspace(-2, 3, 60)]
    assert max(p - math.exp(epsilon) * q for p, q in shares) > 4 * delta


def test_the_loss_exceeds_epsilon_as_often_as_simulated() -> None:
    """The loss is the logarithm of the ratio of the densities, with and without a unit, at what was released."""
    for epsilon, deviation in ((1.0, 3.73), (0.5, 1.0), (3.0, 0.6)):
        released = norm(1, deviation).rvs(1_000_000, random_state=np.random.default_rng(0))
        loss = norm(1, deviation).logpdf(released) - norm(0, deviation).logpdf(released)
        share = (loss > epsilon).mean()
        assert exceeding(epsilon, deviation) == pytest.approx(share, abs=4 * (share / 1e6) ** 0.5)
