"""Fidelity and diversity of a set of images against held-out ones, with intervals that allow paired comparisons."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray
from torch import Tensor

from vaegan_pl.evaluation.classifier import Images
from vaegan_pl.evaluation.diversity import NEIGHBOURS, Pairs, mean_manifold, vendi_score
from vaegan_pl.evaluation.estimate import Halved, halved, wilson_ci
from vaegan_pl.evaluation.features import Features, mean_over_networks
from vaegan_pl.evaluation.fidelity import frechet_distance, kernel_distance
from vaegan_pl.evaluation.spectrum import Power, fine_detail, grid_strength, power_spectra
from vaegan_pl.progress import track

DIVISIONS = 10
"""How often images are divided into halves for an interval."""

PAIRS = 600
"""Pairs of images whose similarity is computed. The first half of them gives the figure of the whole set. About a
quarter of all pairs lie within each half of the set, so that a half is judged by half as many pairs as the set."""

SHARES = ("precision", "recall", "coverage")
ON_LOG_SCALE = ("density", "Vendi score")
"""Figures whose variation is proportional to their value, which differs between halves and wholes."""

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
    of_real, of_other = _generators(seed)
    real, other = _chosen(held_out, n, of_real), _chosen(other, n, of_other)
    spectra, pairs = power_spectra(other.x), Pairs.of(other.x, PAIRS, seed)
    whole = _figures(real, other, spectra.mean(0), float(pairs.similarity[: PAIRS // 2].mean()))
    if n // 2 <= NEIGHBOURS:
        divisions = 0
    halves = []
    for _ in track(range(divisions), "comparing", "division"):
        orders = [torch.randperm(n, generator=generator) for generator in (of_real, of_other)]
        parts = zip(*(order[: n - n % 2].chunk(2) for order in orders), strict=True)
        halves.append(
            [_figures(real.take(a), other.take(b), spectra[b].mean(0), float(pairs.within(b).mean())) for a, b in parts]
        )
    return {
        name: _with_interval(
            name, value, np.array([[half[name] for half in pair] for pair in halves]).reshape(-1, 2), n
        )
        for name, value in whole.items()
    }


def kid_by_network(held_out: ImageSet, other: ImageSet, n: int, seed: int) -> list[float]:
    """KID in the features of each network, of the images that `metrics` compares; their mean is its KID."""
    chosen = (_chosen(images, n, of_set) for images, of_set in zip((held_out, other), _generators(seed), strict=True))
    real, samples = (images.features for images in chosen)
    return [kernel_distance(*points) for points in zip(real, samples, strict=True)]


def _generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)


def _chosen(images: ImageSet, n: int, generator: torch.Generator) -> ImageSet:
    return images.take(torch.randperm(len(images.x), generator=generator)[:n])


def _with_interval(name: str, value: float, halves: Float64[ndarray, "division 2"], n: int) -> Halved:
    """A figure with its interval. That of a share lies in [0, 1], and is never empty."""
    found = halved(value, halves, on_log_scale=name in ON_LOG_SCALE)
    if name not in SHARES or len(halves) == 0:
        return found
    least = wilson_ci(round(value * n), n)
    if halves.std() == 0:
        return replace(found, low=min(value, least.low), high=max(value, least.high))
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _figures(real: ImageSet, other: ImageSet, power: Power, similarity: float) -> dict[str, float]:
    both = real.features, other.features
    return {
        "KID": mean_over_networks(kernel_distance, *both),
        "Fréchet distance": mean_over_networks(frechet_distance, *both),
        **vars(mean_manifold(*both)),
        "Vendi score": mean_over_networks(vendi_score, other.features),
        "MS-SSIM of pairs": similarity,
        "fine detail": fine_detail(power),
        **{f"grid of {pixels} pixels": grid_strength(power, pixels) for pixels in (2, 4)},
    }
