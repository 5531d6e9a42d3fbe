"""Simulate the intervals of figures of sets of images: `python -m tests.intervals [POINTS] [PAIRS]`.

Draws pairs of sets of features from two Gaussians in 256 dimensions whose variances decay, as those of the evaluation's
features do, and prints how often the 95 % interval of each figure contains its true value, the mean over other pairs.
"""

import sys

import numpy as np
import torch
from torch import Tensor

from vaegan_pl.evaluation.metrics import DIVISIONS, ImageSet, Metrics, metrics
from vaegan_pl.progress import track

SCALES = torch.arange(1, 257) ** -0.5
OF_FEATURES = ("KID", "Fréchet distance", "precision", "recall", "density", "coverage", "Vendi score")


def drawn(points: int, scale: float, shift: float, generator: torch.Generator) -> ImageSet:
    """Features of a set, with images that do not matter."""
    features: Tensor = SCALES * (scale * torch.randn(points, 256, generator=generator) + shift)
    return ImageSet(torch.rand(points, 1, 16, 16, generator=generator), features[None])


def main(points: int, pairs: int) -> None:
    """Simulate and print."""
    generator = torch.Generator().manual_seed(0)

    def measured(divisions: int) -> Metrics:
        both = drawn(points, 1, 0, generator), drawn(points, 0.9, 0.2, generator)
        return metrics(*both, points, 0, divisions)

    truth = [measured(0) for _ in track(range(2 * pairs), "drawing", "pair")]
    found = [measured(DIVISIONS) for _ in track(range(pairs), "dividing", "pair")]
    for name in OF_FEATURES:
        expected = float(np.mean([one[name].value for one in truth]))
        inside = np.mean([one[name].low <= expected <= one[name].high for one in found])
        sys.stdout.write(f"{name:20}{inside:.1%}, mean {expected:.3f}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:] or ("340", "200")))
