from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from vaegan_pl.data.sampling import EpochSampler, in_order


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


@pytest.mark.parametrize(("n", "devices"), [(24, 1), (24, 2), (23, 2), (25, 4)])
def test_batches_of_several_devices_make_up_those_of_one(n: int, devices: int) -> None:
    def order(rank: int, of: int) -> list[int]:
        sampler = EpochSampler(n, 3, rank, of)
        sampler.set_epoch(7)
        return list(sampler)

    alone = order(0, 1)
    shares = [order(rank, devices) for rank in range(devices)]
    assert {len(share) for share in shares} == {n // devices} == {len(EpochSampler(n, 3, 0, devices))}
    for k in range(n // devices // 3):
        joint = [number for share in shares for number in share[3 * k : 3 * k + 3]]
        assert sorted(joint) == sorted(alone[3 * devices * k : 3 * devices * (k + 1)])


@pytest.mark.parametrize(("n", "batch_size", "devices"), [(10, 4, 1), (9, 4, 2), (129, 64, 2), (3, 4, 3), (0, 4, 1)])
def test_in_order_has_everything_once_in_equally_many_batches(n: int, batch_size: int, devices: int) -> None:
    shares = [in_order(n, batch_size, rank, devices) for rank in range(devices)]
    assert sorted(number for share in shares for batch in share for number in batch) == list(range(n))
    assert len({len(share) for share in shares}) == 1
    assert all(0 < len(batch) <= batch_size for share in shares for batch in share)
    assert all(batch == sorted(batch) for share in shares for batch in share)
