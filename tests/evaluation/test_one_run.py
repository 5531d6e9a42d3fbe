"""The lower bound on epsilon against the paper's examples, another formula and simulated attacks."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from vaegan_pl.evaluation.one_run import DELTA, ERROR, GUESSES, epsilon_bound, guess, p_value


@pytest.mark.parametrize(
    ("m", "r", "v", "delta", "published"),
    [
        (100, 100, 75, 0.0, 0.702),
        (100, 100, 75, 1e-4, 0.699),
        (1000, 100, 75, 1e-4, 0.673),
        (100_000, 1510, 1439, 1e-5, 2.675),
    ],
)
def test_the_bounds_that_the_paper_prints(m: int, r: int, v: int, delta: float, published: float) -> None:
    """arXiv 2305.08846, Appendix D and section 7; the last value is cut off there, not rounded."""
    assert epsilon_bound(m, r, v, delta, 0.05) == pytest.approx(published, abs=1e-3)


def test_the_p_value_is_that_of_appendix_d() -> None:
    """P(Binomial(100, 3/4) >= 75) at epsilon = log 3; with delta, the sums of Appendix D written out."""
    assert p_value(100, 100, 75, math.log(3), 0.0) == pytest.approx(0.553, abs=5e-4)
    q, r, v, m, delta = math.exp(0.8) / (1 + math.exp(0.8)), 20, 16, 50, 1e-3
    probability = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    alpha = max(sum(probability[v - i : v]) / i for i in range(1, v + 1))
    expected = sum(probability[v:]) + 2 * m * delta * alpha
    assert p_value(m, r, v, 0.8, delta) == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_bound_holds_for_randomised_response(epsilon: float) -> None:
    """Each bit is told truthfully with probability e^epsilon / (1 + e^epsilon), which is epsilon-private exactly."""
    random = np.random.default_rng(0)
    truthful = random.random((200_000, 60)) < math.exp(epsilon) / (1 + math.exp(epsilon))
    bounds = np.array([epsilon_bound(60, 60, v, 0.0, ERROR) for v in range(61)])
    assert np.mean(bounds[truthful.sum(1)] <= epsilon) >= 1 - ERROR - 0.001


@pytest.mark.parametrize(("auc", "expected"), [(0.5, 0.0), (0.56, 0.13), (0.67, 1.0), (0.8, 2.2)])
def test_the_bound_of_attacks_of_known_auc(auc: float, expected: float) -> None:
    """Gaussian scores of 726 members and 726 others, whose means differ by sqrt(2) times the quantile of the AUC."""
    random = np.random.default_rng(1)
    shift = math.sqrt(2) * norm.ppf(auc)
    found = [
        epsilon_bound(*guess(random.normal(shift, 1, 726), random.normal(size=726), seed), DELTA, ERROR)
        for seed in range(60)
    ]
    assert np.median(found) == pytest.approx(expected, abs=0.1)


def test_guesses_by_hand() -> None:
    """Members score higher than all others, until one other scores highest of all."""
    members, others = np.arange(100.0, 160), np.arange(0.0, 60)
    assert guess(members, others, 0) == (120, GUESSES, GUESSES)
    others[0] = 1000
    assert guess(members, others, 0) == (120, GUESSES, GUESSES - 1)
    m, r, _ = guess(members[:7], others, 0)
    assert (m, r) == (14, 14)


def test_equal_scores_give_guesses_at_random() -> None:
    right = [guess(np.zeros(200), np.zeros(200), seed)[2] for seed in range(200)]
    assert np.mean(right) == pytest.approx(GUESSES / 2, abs=1.5)
    assert np.std(right) > 2
