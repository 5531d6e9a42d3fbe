"""The order of training images: a function of the seed and the epoch alone."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """All numbers below `n` in random order, another one in every epoch.

    Yields `epoch * n + number`, so that whoever gets it knows both, in whatever process.

    Args:
        n: how many numbers.
        seed: seed of the order, at least 0.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        yield from (self.epoch * self.n + order).tolist()
