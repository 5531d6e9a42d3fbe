"""The order of images: a function of the seed and the epoch alone, shared out over the devices."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """All numbers below `n` in random order, another one in every epoch.

    Yields `epoch * n + number`, so that whoever gets it knows both, in whatever process. Of several devices each takes
    every so-manieth, equally many, so that their k-th batches together are the k-th batch of one device with larger
    batches.

    Args:
        n: how many numbers.
        seed: seed of the order, at least 0.
        rank: which of the devices this is, from 0.
        devices: how many there are.
        start: the epoch to continue in, and how many numbers of it this device has had.
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
    """All numbers below `n` in batches, each on one device, and equally many batches on every device.

    Args:
        n: how many numbers, at least `devices`.
        batch_size: the most in a batch.
        rank: which of the devices this is, from 0.
        devices: how many there are.
    """
    batches = -(-n // (batch_size * devices))
    return [part.tolist() for part in np.array_split(np.arange(rank, n, devices), batches)] if n else []
