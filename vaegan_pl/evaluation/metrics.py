"""Fidelity and diversity of a set of images against held-out ones, with intervals that allow paired comparisons."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from vaegan_pl.evaluation.classifier import Images
from vaegan_pl.evaluation.diversity import NEIGHBOURS, mean_manifold, pairwise_ms_ssim, vendi_score
from vaegan_pl.evaluation.estimate import Halved, halved
from vaegan_pl.evaluation.features import Features, mean_over_networks
from vaegan_pl.evaluation.fidelity import frechet_distance, kernel_distance
from vaegan_pl.evaluation.spectrum import fine_detail, grid_strength
from vaegan_pl.progress import track

DIVISIONS = 10
"""How often images are divided into halves for an interval."""

PAIRS = 300

Metrics = dict[str, Halved]


@dataclass(frozen=True)
class ImageSet:
    """Images with their features.

    Attributes:
        x: images in [-1, 1].
        features: their features.
    """

    x: Images
    features: Features

    def take(self, chosen: Int64[Tensor, " some"]) -> "ImageSet":
        """Some of the images."""
        return ImageSet(self.x[chosen], self.features[:, chosen])


def metrics(held_out: ImageSet, other: ImageSet, n: int, seed: int, divisions: int = DIVISIONS) -> Metrics:
    """Fidelity and diversity of a set of images against held-out ones, from `n` of each.

    The intervals come from halves of both sets; see `estimate.halved`. The halves of the held-out images depend only on
    `n` and `seed`, so the figures of two sets can be compared in pairs.

    Args:
        held_out: the images to compare with, at least `n`.
        other: the images to measure, at least `n`.
        n: number of images, more than `NEIGHBOURS`.
        seed: seed of the choice of images and of the divisions.
        divisions: how often both sets are divided; 0 gives no intervals.
    """
    of_real, of_other = (torch.Generator().manual_seed(s) for s in (seed, seed + 1))
    real = held_out.take(torch.randperm(len(held_out.x), generator=of_real)[:n])
    other = other.take(torch.randperm(len(other.x), generator=of_other)[:n])
    whole = _figures(real, other, PAIRS, seed)
    if n // 2 <= NEIGHBOURS:
        divisions = 0
    halves = []
    for _ in track(range(divisions), "comparing", "division"):
        orders = [torch.randperm(n, generator=generator) for generator in (of_real, of_other)]
        parts = zip(*(order[: n - n % 2].chunk(2) for order in orders), strict=True)
        halves.append([_figures(real.take(a), other.take(b), PAIRS // 2, seed) for a, b in parts])
    return {
        name: halved(value, np.array([[half[name] for half in pair] for pair in halves]).reshape(-1, 2))
        for name, value in whole.items()
    }


def _figures(real: ImageSet, other: ImageSet, pairs: int, seed: int) -> dict[str, float]:
    both = real.features, other.features
    return {
        "KID": mean_over_networks(kernel_distance, *both),
        "Fréchet distance": mean_over_networks(frechet_distance, *both),
        **vars(mean_manifold(*both)),
        "Vendi score": mean_over_networks(vendi_score, other.features),
        "MS-SSIM of pairs": pairwise_ms_ssim(other.x, pairs, seed),
        "fine detail": fine_detail(other.x),
        **{f"grid of {pixels} pixels": grid_strength(other.x, pixels) for pixels in (2, 4)},
    }
