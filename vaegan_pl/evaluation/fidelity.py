"""Distances between two sets of images, as distributions of features."""

import warnings

import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from vaegan_pl.evaluation.features import Points


class _AsTheyAre(nn.Identity):
    """A feature extractor for torchmetrics that passes on features computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def kernel_distance(real: Points, other: Points) -> float:
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


def frechet_distance(real: Points, other: Points) -> float:
    """The squared 2-Wasserstein distance of Gaussians fitted to both sets (arXiv 1706.08500, eq. 6).

    Its bias depends on the number of images: compare only values for the same number. With covariances R^T R and S^T S,
    the trace of the square root of their product is the sum of the singular values of R S^T.
    """
    means = [points.double().mean(0) for points in (real, other)]
    centred = [(points - mean) / (len(points) - 1) ** 0.5 for points, mean in zip((real, other), means, strict=True)]
    r, s = (torch.linalg.qr(points, mode="r").R for points in centred)
    spread = r.square().sum() + s.square().sum() - 2 * torch.linalg.svdvals(r @ s.T).sum()
    return float((means[0] - means[1]).square().sum() + spread)
