from collections import Counter

import numpy as np
from scipy.stats import chisquare

from vaegan_pl.data.sampling import EpochSampler


def epochs(n: int, seed: int, count: int) -> list[list[tuple[int, int]]]:
    sampler, result = EpochSampler(n, seed), []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        result.append([divmod(number, n) for number in sampler])
    return result


def test_every_epoch_has_every_number_once_and_says_which_epoch() -> None:
    assert len(EpochSampler(7, seed=0)) == 7
    for number, epoch in enumerate(epochs(7, 0, 20)):
        assert sorted(epoch) == [(number, i) for i in range(7)]


def test_order_follows_seed_and_epoch_alone() -> None:
    first, again, other = epochs(50, 0, 2), epochs(50, 0, 2), epochs(50, 1, 1)
    assert first == again
    orders = [[i for _, i in epoch] for epoch in (*first, *other)]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_places_in_the_order_are_even() -> None:
    first = Counter(epoch[0][1] for epoch in epochs(4, 5, 2000))
    assert chisquare(np.array([first[i] for i in range(4)])).pvalue > 0.001
