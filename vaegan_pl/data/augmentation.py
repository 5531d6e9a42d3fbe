"""Random changes to training images, each a function of the seed, the epoch and the image alone."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

BLACK = -1.0


@dataclass(frozen=True)
class Augmentation:
    """The changes to make, and how large they may be.

    Attributes:
        horizontal_flip: probability of a left-right flip, in [0, 1].
        shift: largest shift in each direction, as a share of the side, in [0, 0.5]; the uncovered margin is black.
        brightness: largest change of brightness, as a share of the whole grey range, in [0, 1].
        contrast: largest change of contrast, as a share of the image's own, in [0, 1].

    Raises:
        ValueError: if a value is out of range; the message names it.
    """

    horizontal_flip: float
    shift: float
    brightness: float
    contrast: float

    def __post_init__(self) -> None:
        for name, limit in (("horizontal_flip", 1), ("shift", 0.5), ("brightness", 1), ("contrast", 1)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"data.augmentation.{name}={getattr(self, name)}: must lie between 0 and {limit}")

    def __call__(
        self, x: Float[Tensor, "batch 1 side side"], u: Float[Tensor, "batch 5"]
    ) -> Float[Tensor, "batch 1 side side"]:
        """Augment images in [-1, 1] by five random numbers in [0, 1) for each; the result is in [-1, 1]."""
        if self.horizontal_flip:
            x = torch.where((u[:, 0] < self.horizontal_flip)[:, None, None, None], x.flip(3), x)
        if self.shift:
            moves = torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)
            moves[:, :, 2] = (2 * u[:, 1:3] - 1) * 2 * self.shift  # the side is 2 long in affine_grid's units
            where = affine_grid(moves, list(x.shape), align_corners=False)
            x = grid_sample(x - BLACK, where, align_corners=False) + BLACK
        if self.brightness or self.contrast:
            gain, offset = (2 * u[:, 3:].T - 1)[:, :, None, None, None]
            x = (x - BLACK) * (1 + self.contrast * gain) + 2 * self.brightness * offset + BLACK
            x = x.clamp(-1, 1)
        return x


@lru_cache(maxsize=1)
def draw(seed: int, epoch: int, n: int) -> Float32[ndarray, "n 6"]:
    """Random numbers in [0, 1) for `n` items in one epoch: one to choose an image, five to augment it."""
    return np.random.default_rng([seed, epoch, 1]).random((n, 6), dtype=np.float32)
