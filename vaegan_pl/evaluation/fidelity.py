"""Distances between two sets of images, as distributions of features."""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, poly_kernel

from vaegan_pl.evaluation.estimate import Estimate, bootstrap_ci
from vaegan_pl.evaluation.features import Features

RESAMPLES = 1000


class _AsTheyAre(nn.Identity):
    """A feature extractor for torchmetrics that passes on features computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def kernel_distance(real: Features, other: Features) -> float:
    """KID, the unbiased squared maximum mean discrepancy of all features (arXiv 1801.01401, eq. 4); may be negative.

    The kernel is (x.y / d + 1)^3. Both sets must have the same size.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it warns that features take memory
        torch.manual_seed(0)  # it shuffles features, which changes the last digits
        metric = KernelInceptionDistance(_AsTheyAre(real.shape[1]), 1, len(real), sync_on_compute=False)
        metric.update(real, real=True)
        metric.update(other, real=False)
        return float(metric.compute()[0])


def kernel_distance_interval(real: Features, other: Features, seed: int) -> Estimate:
    """`kernel_distance` with its 95 % bootstrap interval over images of both sets.

    Pairs of an image with itself are left out, which keeps the resamples unbiased.
    """
    random = np.random.default_rng(seed)
    kernels = [poly_kernel(a.double(), b.double()) for a, b in ((real, real), (other, other), (real, other))]
    n, m = len(real), len(other)
    draws = []
    for _ in range(RESAMPLES):
        w, v = (torch.from_numpy(random.multinomial(k, [1 / k] * k)).double() for k in (n, m))
        draws.append(float(_within(kernels[0], w) + _within(kernels[1], v) - 2 * (w @ kernels[2] @ v) / (n * m)))
    return bootstrap_ci(kernel_distance(real, other), draws)


def _within(kernel: Float[Tensor, "n n"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The weighted mean of the kernel over pairs of different images."""
    own = weights.square()
    return (weights @ kernel @ weights - own @ kernel.diagonal()) / (weights.sum().square() - own.sum())


def frechet_distance(real: Features, other: Features) -> float:
    """The squared 2-Wasserstein distance of Gaussians fitted to both sets (arXiv 1706.08500, eq. 6).

    Its bias depends on the number of images: compare only values for the same number.
    """
    metric = FrechetInceptionDistance(_AsTheyAre(real.shape[1]), sync_on_compute=False).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(other.double(), real=False)
    return float(metric.compute())
