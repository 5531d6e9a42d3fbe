"""The order of images, a function of the seed and the epoch only, distributed over devices."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """All numbers below `n` in random order, in a new order every epoch.

    Yields `epoch * n + number`, which tells a dataset in any process both numbers. Each of D devices uses every D-th
    number, and all use equally many. The k-th batches of all devices together are then the k-th batch of a single
    device with D times the batch size.

    Args:
        n: how many numbers.
        seed: seed of the order, at least 0.
        rank: rank of this device, from 0.
        devices: number of devices.
        start: the epoch to continue in, and how many of its numbers this device has already used.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, devices: int = 1, start: tuple[int, int] = (0, 0)) -> None:
        self.n = n
        self.seed = seed
        self.rank = rank
        self.devices = devices
        self.start = start
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n // self.devices

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)[: len(self) * self.devices]
        had = self.start[1] if self.epoch == self.start[0] else 0
        yield from (self.epoch * self.n + order[self.rank :: self.devices])[had:].tolist()


def in_order(n: int, batch_size: int, rank: int = 0, devices: int = 1) -> list[list[int]]:
    """This device's batches of the numbers below `n`; all devices have equally many batches.

    Args:
        n: how many numbers, at least `devices`.
        batch_size: largest size of a batch.
        rank: rank of this device, from 0.
        devices: number of devices.
    """
    batches = -(-n // (batch_size * devices))
    return [part.tolist() for part in np.array_split(np.arange(rank, n, devices), batches)] if n else []
