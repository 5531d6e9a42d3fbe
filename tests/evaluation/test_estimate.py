"""Intervals against hand computations."""

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp
from sklearn.metrics import roc_auc_score

from vaegan_pl.evaluation import estimate
from vaegan_pl.evaluation.estimate import Estimate, area_under_roc, bootstrap_ci, difference, halved, wilson_ci


@pytest.mark.parametrize(("count", "n", "low", "high"), [(10, 100, 0.05523, 0.17437), (0, 50, 0.0, 0.07135)])
def test_a_share_has_its_wilson_interval(count: int, n: int, low: float, high: float) -> None:
    """The bounds are those of Wilson's formula with z = 1.96, worked by hand."""
    found = wilson_ci(count, n)
    assert found.value == count / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-5)


def test_the_middle_95_percent() -> None:
    draws = np.random.default_rng(0).permutation(1001).tolist()
    assert bootstrap_ci(3.0, draws) == Estimate(3.0, 25.0, 975.0)


def test_how_it_reads() -> None:
    assert str(Estimate(0.12345, 0.1, 0.2)) == "0.123 [0.100, 0.200]"
    assert str(Estimate(0.5, 0.5, 0.5)) == "0.500"
    assert str(Estimate(123.4, 100, 150)) == "123 [100, 150]"


def halves_of(x: np.ndarray, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(x)) for _ in range(10)]
    return np.array([[x[order[:50]].mean(), x[order[50:]].mean()] for order in orders])


def test_the_interval_of_a_mean_from_halves_is_that_of_the_t_test() -> None:
    """Student's interval of a mean of 100 values, and 95 % of intervals contain the true mean of 0."""
    random = np.random.default_rng(0)
    samples = random.standard_normal((1000, 100))
    found = [halved(float(x.mean()), halves_of(x, i)) for i, x in enumerate(samples)]
    exact = [ttest_1samp(x, 0).confidence_interval() for x in samples]
    widths = [np.mean([one.high - one.low for one in some]) for some in (found, exact)]
    assert widths[0] == pytest.approx(widths[1], rel=0.05)
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.97


def test_differences_on_the_same_halves_have_narrow_intervals() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal(100)
    y = x + 0.1 + 0.01 * random.standard_normal(100)
    one, other = (halved(float(values.mean()), halves_of(values, 0)) for values in (y, x))
    assert one.low < other.high
    gap = difference(one, other)
    assert gap.value == pytest.approx(0.1, abs=0.005)
    assert 0.09 < gap.low < gap.high < 0.11


def test_without_halves_there_is_no_interval() -> None:
    found = halved(2.0, np.zeros((0, 2)))
    assert (found.low, found.value, found.high) == (2, 2, 2)


def test_areas_agree_with_scikit_learn_ties_included() -> None:
    random = np.random.default_rng(0)
    trials = [(random.integers(0, 9, n).astype(float), random.integers(0, 8, 70).astype(float)) for n in (50, 90)]
    expected = [roc_auc_score(np.repeat([1, 0], [len(a), len(b)]), np.r_[a, b]) for a, b in trials]
    assert area_under_roc(trials, seed=0).value == pytest.approx(np.mean(expected), abs=1e-12)


def test_the_interval_of_an_area_contains_it_95_times_of_100(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal scores one standard deviation apart: the area is the normal distribution function at 1 / sqrt(2)."""
    monkeypatch.setattr(estimate, "RESAMPLES", 200)
    random = np.random.default_rng(0)
    found = [
        area_under_roc([(random.standard_normal(100) + 1, random.standard_normal(100))], seed) for seed in range(150)
    ]
    assert 0.9 <= np.mean([one.low <= norm.cdf(0.5**0.5) <= one.high for one in found]) <= 0.99
