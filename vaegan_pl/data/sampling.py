"""The order of training images: endless, and a function of the seed and the epoch alone."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """One image of each group in random order, another order and choice in every epoch.

    Yields `epoch * n_images + image`, so that whoever gets the number knows both, in whatever process.

    Args:
        groups: indices of the images that may stand for each group.
        n_images: more than the largest index.
        seed: seed of order and choice.
    """

    def __init__(self, groups: Sequence[Sequence[int]], n_images: int, seed: int) -> None:
        self.groups = groups
        self.n_images = n_images
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.groups))
        choice = random.random(len(self.groups))
        for i in order.tolist():
            group = self.groups[i]
            yield self.epoch * self.n_images + group[int(choice[i] * len(group))]
