from collections import Counter

import numpy as np
from scipy.stats import chisquare

from vaegan_pl.data.sampling import EpochSampler


def epochs(sampler: EpochSampler, n: int) -> list[list[tuple[int, int]]]:
    result = []
    for epoch in range(n):
        sampler.set_epoch(epoch)
        result.append([divmod(number, sampler.n_images) for number in sampler])
    return result


def test_an_epoch_shows_one_image_of_each_group_and_says_which_epoch() -> None:
    sampler = EpochSampler([[0], [1, 5], [2, 3, 4]], 6, seed=0)
    assert len(sampler) == 3
    for number, epoch in enumerate(epochs(sampler, 20)):
        assert {e for e, _ in epoch} == {number}
        assert sorted({0: 0, 1: 1, 5: 1, 2: 2, 3: 2, 4: 2}[image] for _, image in epoch) == [0, 1, 2]


def test_order_follows_seed_and_epoch_alone() -> None:
    groups = [[i] for i in range(50)]
    first, again = epochs(EpochSampler(groups, 50, seed=0), 2), epochs(EpochSampler(groups, 50, seed=0), 2)
    assert first == again
    orders = [[image for _, image in epoch] for epoch in (*first, epochs(EpochSampler(groups, 50, seed=1), 1)[0])]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_each_image_weighs_one_over_the_size_of_its_group() -> None:
    seen = Counter(image for epoch in epochs(EpochSampler([[0], [1, 2, 3]], 4, seed=0), 3000) for _, image in epoch)
    assert seen[0] == 3000
    assert chisquare([seen[i] for i in (1, 2, 3)], [1000] * 3).pvalue > 0.001


def test_places_in_the_order_are_even() -> None:
    first = Counter(epoch[0][1] for epoch in epochs(EpochSampler([[0], [1], [2], [3]], 4, seed=5), 2000))
    assert chisquare(np.array([first[i] for i in range(4)])).pvalue > 0.001
