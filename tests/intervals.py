"""Simulate the intervals of figures of sets of images: `python -m tests.intervals [POINTS] [PAIRS]`.

Draws pairs of sets from two Gaussians in eight dimensions, and prints how often the 95 % interval of each figure
contains its true value, the mean over other pairs.
"""

import sys

import numpy as np
import torch
from torch import Tensor

from vaegan_pl.evaluation.diversity import manifold, vendi_score
from vaegan_pl.evaluation.estimate import halved
from vaegan_pl.evaluation.fidelity import frechet_distance, kernel_distance
from vaegan_pl.evaluation.metrics import DIVISIONS
from vaegan_pl.progress import track


def figures(real: Tensor, other: Tensor) -> dict[str, float]:
    """The figures that depend on features."""
    return {
        "KID": kernel_distance(real, other),
        "Fréchet distance": frechet_distance(real, other),
        **vars(manifold(real, other)),
        "Vendi score": vendi_score(other),
    }


def main(points: int, pairs: int) -> None:
    """Simulate and print."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[Tensor, Tensor]:
        a, b = (torch.randn(points, 8, generator=generator) for _ in range(2))
        return a, 0.8 * b + 0.3

    truth = [figures(*draw()) for _ in track(range(pairs), "drawing", "pair")]
    inside: dict[str, list[bool]] = {}
    for _ in track(range(pairs), "dividing", "pair"):
        real, other = draw()
        halves = []
        for _ in range(DIVISIONS):
            a, b = (torch.randperm(points, generator=generator).chunk(2) for _ in range(2))
            halves.append([figures(real[a[k]], other[b[k]]) for k in (0, 1)])
        for name, value in figures(real, other).items():
            found = halved(value, np.array([[half[name] for half in pair] for pair in halves]))
            expected = float(np.mean([one[name] for one in truth]))
            inside.setdefault(name, []).append(found.low <= expected <= found.high)
    for name, values in inside.items():
        sys.stdout.write(f"{name:20}{np.mean(values):.1%}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:] or ("400", "1000")))
