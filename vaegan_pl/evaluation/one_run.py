"""A lower bound on epsilon from one training run (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846)."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import expit
from scipy.stats import binom

GUESSES = 100
"""Number of guesses, fixed before any score is seen: choosing the best number afterwards would void the bound."""

DELTA, ERROR = 1e-5, 0.05
"""Delta of the (epsilon, delta) that is bounded, and the probability that the bound is too high."""

_STEPS = 60


def p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Largest probability of `v` or more correct guesses under (epsilon, delta)-differential privacy (Appendix D).

    Without delta, the number of correct guesses is stochastically dominated by a binomial distribution with the
    accuracy of randomised response, e^epsilon / (1 + e^epsilon).

    Args:
        m: number of examples, each of which was a member with probability 1/2, independently.
        r: number of guesses; the attacker abstains on all other examples.
        v: number of correct guesses.
        epsilon: at least 0.
        delta: in [0, 1].
    """
    accuracy = expit(epsilon)
    beta = binom.sf(v - 1, r, accuracy)
    i = np.arange(1, v + 1)
    alpha = np.max((binom.sf(v - 1 - i, r, accuracy) - beta) / i, initial=0.0)
    return float(min(1.0, beta + 2 * m * delta * alpha))


def epsilon_bound(m: int, r: int, v: int, delta: float, error: float) -> float:
    """The largest epsilon that the guesses refute: a lower bound at confidence 1 - `error`; 0 if they refute none.

    Args:
        m: see `p_value`.
        r: see `p_value`.
        v: see `p_value`.
        delta: see `p_value`.
        error: probability that the bound is too high, in (0, 1).
    """
    if p_value(m, r, v, 0.0, delta) > error:
        return 0.0
    low, high = 0.0, 1.0
    while p_value(m, r, v, high, delta) <= error:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(m, r, v, middle, delta) <= error else (low, middle)
    return low


def guess(members: Float[ndarray, " member"], others: Float[ndarray, " other"], seed: int) -> tuple[int, int, int]:
    """Guess that the images with the highest scores are members and that those with the lowest are not.

    Membership has probability 1/2, so as many members as others take part, drawn at random.

    Args:
        members: scores of members.
        others: scores of others.
        seed: seed of the draw, and of the order of equal scores.

    Returns:
        m, r and v of `p_value`: `GUESSES` guesses, or as many as there are images, half of them of each kind.
    """
    random = np.random.default_rng(seed)
    n = min(len(members), len(others))
    scores = np.r_[random.permutation(members)[:n], random.permutation(others)[:n]]
    is_member = np.arange(2 * n) < n
    mixed = random.permutation(2 * n)
    ordered = is_member[mixed[np.argsort(scores[mixed], kind="stable")]]
    half = min(GUESSES, 2 * n) // 2
    return 2 * n, 2 * half, int(ordered[2 * n - half :].sum() + (~ordered[:half]).sum())
