"""Intervals against hand computations."""

import numpy as np
import pytest

from vaegan_pl.evaluation.estimate import Estimate, bootstrap_ci, spread, wilson_ci


@pytest.mark.parametrize(("count", "n", "low", "high"), [(10, 100, 0.05523, 0.17437), (0, 50, 0.0, 0.07135)])
def test_a_share_has_its_wilson_interval(count: int, n: int, low: float, high: float) -> None:
    """The bounds are those of Wilson's formula with z = 1.96, worked by hand."""
    found = wilson_ci(count, n)
    assert found.value == count / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-5)


def test_the_range_and_the_middle_95_percent() -> None:
    draws = np.random.default_rng(0).permutation(1001).tolist()
    assert spread(draws) == Estimate(500.0, 0, 1000)  # the range
    assert bootstrap_ci(3.0, draws) == Estimate(3.0, 25.0, 975.0)


def test_how_it_reads() -> None:
    assert str(Estimate(0.12345, 0.1, 0.2)) == "0.123 [0.100, 0.200]"
    assert str(Estimate(0.5, 0.5, 0.5)) == "0.500"
    assert str(Estimate(123.4, 100, 150)) == "123 [100, 150]"
