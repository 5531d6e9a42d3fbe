"""A Gaussian of the latents of each class, released through one Gaussian mechanism.

Private images enter only through `contribution`, whose sums over the images of each class are released with noise. All
else is computed from public numbers and from these sums.

Latents are expressed in public coordinates, in which the public density as a whole has mean 0 and covariance I. Its
leading principal axes come first. Of these, only the first few are released; along the others, each class has the
public mean and variance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from torch import Tensor

from vaegan_pl.model import mechanism
from vaegan_pl.model.mixtures import ClassMixtures, Mixture

Vector = Float[Tensor, " latent"]

SHARES = (0.1, 0.3, 0.6)
"""Shares of count, mean and second moment in the squared sensitivity.

Chosen on public images (docs/release.md): results hardly depend on the last two. But with a smaller share for the
count, the counts of small classes are so noisy that the moments, which are divided by them, go astray.
"""

FLOOR = 0.01
"""Least variance along an axis, relative to that of the public density."""

QUANTILE = 0.95
"""Quantile of public norms that is the default clip norm; chosen on public images (docs/release.md)."""

DRAWN = 2**14
"""Draws of the public density from which the default clip norm is computed."""


@dataclass(frozen=True)
class Coordinates:
    """Coordinates u of latents z = centre + axes u, from a public density.

    Attributes:
        centre: the mean of the public density.
        axes: its principal axes as columns, strongest first; each has the length of the standard deviation along it.
        leading: the matrix that maps deviations from the centre to the first k coordinates.
        within: the mean covariance of the public classes, in these coordinates.
        k: number of axes whose moments are released.
    """

    centre: Vector
    axes: Float[Tensor, "latent latent"]
    leading: Float[Tensor, "k latent"]
    within: Float[Tensor, "latent latent"]
    k: int


def coordinates(mixtures: ClassMixtures, counts: Mapping[str, int], k: int) -> Coordinates:
    """The coordinates of a public density.

    Args:
        mixtures: the mixture of each public class.
        counts: number of images of each public class.
        k: number of axes to release, at most the number of dimensions.
    """
    total = sum(counts[name] for name in mixtures)
    shares = torch.tensor([counts[name] / total for name in mixtures]).double()
    of_classes = [_moments(mixture) for mixture in mixtures.values()]
    means, covariances = (torch.stack(parts) for parts in zip(*of_classes, strict=True))
    centre = shares @ means
    within = (shares[:, None, None] * covariances).sum(0)
    between = (shares[:, None] * (means - centre)).T @ (means - centre)
    variances, directions = torch.linalg.eigh(within + between)
    axes = (directions * variances.sqrt()).flip(1)
    inverse = torch.linalg.inv(axes)
    return Coordinates(centre, axes, inverse[:k], inverse @ within @ inverse.T, k)


def _moments(mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a mixture, in double precision."""
    weights, means, factors = (part.double() for part in vars(mixture).values())
    mean = weights @ means
    deviations = means - mean
    covariances = factors @ factors.mT + deviations[:, :, None] * deviations[:, None]
    return mean, (weights[:, None, None] * covariances).sum(0)


def public_clip(mixtures: ClassMixtures, counts: Mapping[str, int], where: Coordinates) -> float:
    """The `QUANTILE` of the norms of the first k coordinates under the public density."""
    generator = torch.Generator().manual_seed(0)
    total = sum(counts[name] for name in mixtures)
    drawn = [each.sample(max(1, DRAWN * counts[name] // total), generator) for name, each in mixtures.items()]
    u = (torch.cat(drawn).double() - where.centre) @ where.leading.T
    return float(u.norm(dim=1).quantile(QUANTILE))


def contribution(
    mean: Vector, log_variance: Vector, where: Coordinates, clip: float, of: int = 1
) -> Int64[ndarray, " entry"]:
    """What one image adds to the sums of its class: 1, E[u] and E[u u^T] in one vector of integers.

    The posterior N(m, S) of the image, in the first k coordinates, is scaled about 0 by min(1, clip / r), with
    r = |m m^T + S|_F^(1/2), so that |m m^T + S|_F <= clip^2; and |m| <= clip, because S is positive. The three parts
    are divided by their bounds (1, clip and clip^2) and multiplied by the roots of `SHARES`, so that the vector has a
    norm of 1 at most. Of the matrix, which is symmetric, the upper triangle is kept, with the elements off the diagonal
    times the root of 2: this preserves the Frobenius norm. Rounding towards 0 cannot increase the norm.

    Args:
        mean: mean of the posterior.
        log_variance: logarithms of its variances.
        where: the public coordinates.
        clip: the clip norm.
        of: number of images of the patient. Each adds 1 / `of` as much, so that a patient adds no more than one image.

    Returns:
        1 + k + k (k + 1) / 2 entries, of a norm of `mechanism.SCALE` / `of` at most.
    """
    leading = where.leading
    m = leading @ (mean.double() - where.centre)
    second = torch.outer(m, m) + (leading * log_variance.double().exp()) @ leading.T
    scale = min(1.0, clip / math.sqrt(float(second.norm())))
    upper = _isometric(where.k) * second
    parts = (torch.ones(1).double(), m * (scale / clip), upper[_upper(where.k)] * (scale / clip) ** 2)
    vector = torch.cat([math.sqrt(share) * part for share, part in zip(SHARES, parts, strict=True)])
    whole: Int64[ndarray, " entry"] = (vector * ((mechanism.SCALE - 1) / of)).trunc().long().numpy()
    if sum(entry**2 for entry in whole.tolist()) * of**2 > mechanism.SCALE**2:
        raise ArithmeticError("a contribution exceeds its bound")
    return whole


def entries(k: int) -> int:
    """Number of entries of a contribution."""
    return 1 + k + k * (k + 1) // 2


def _upper(k: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the elements of an upper triangle."""
    row, column = torch.triu_indices(k, k)
    return row, column


def _isometric(k: int) -> Tensor:
    """Factors with which the upper triangle of a symmetric matrix has the norm of the matrix."""
    return torch.full((k, k), math.sqrt(2)).double().fill_diagonal_(1)


@dataclass(frozen=True)
class Moments:
    """Moments of one class, or of several, from noisy sums, in the first k coordinates.

    Attributes:
        count: number of images (or patients).
        mean: their mean.
        covariance: their covariance.
        errors: expected squared errors, by the noise alone, of the mean and, in Frobenius norm, of the covariance.
    """

    count: float
    mean: Float[Tensor, " k"]
    covariance: Float[Tensor, "k k"]
    errors: tuple[float, float]


def moments(sums: Float64[ndarray, " entry"], k: int, clip: float, deviation: float) -> Moments:
    """Moments of a class from the noisy sums of its contributions; post-processing.

    A count below the standard deviation of its noise is replaced by the latter.

    Args:
        sums: the sums.
        k: number of axes.
        clip: the clip norm.
        deviation: standard deviation of the noise, in units of `mechanism.SCALE`.
    """
    scaled = torch.from_numpy(sums) / (mechanism.SCALE - 1)
    units = [1 / math.sqrt(share) * bound for share, bound in zip(SHARES, (1, clip, clip**2), strict=True)]
    count = max(1.0, float(scaled[0]) * units[0], deviation * units[0])
    mean = scaled[1 : k + 1] * (units[1] / count)
    upper = torch.zeros(k, k).double()
    upper[_upper(k)] = scaled[k + 1 :] * (units[2] / count)
    upper = upper / _isometric(k)
    second = upper + upper.triu(1).T
    errors = k * (deviation * units[1] / count) ** 2, k * (k + 1) / 2 * (deviation * units[2] / count) ** 2
    return Moments(count, mean, second - torch.outer(mean, mean), errors)


def shrunk(value: Tensor, target: Tensor, error: float) -> Tensor:
    """A noisy value, pulled towards a target by the share of their squared distance that noise explains.

    This is James and Stein's estimator, with its positive part.

    Args:
        value: the noisy value.
        target: the target.
        error: the expected squared norm of the noise.
    """
    distance = float((value - target).square().sum())
    return target + (value - target) * (1 - error / distance if distance > error else 0.0)


def density(
    sums: Mapping[str, Float64[ndarray, " entry"]], where: Coordinates, clip: float, deviation: float
) -> tuple[ClassMixtures, dict[str, int]]:
    """A Gaussian of each class, and the noisy counts (at least 1); post-processing.

    The moments of all classes together are pulled towards those of the public density, and those of each class towards
    these; see `shrunk`. Variances are raised to at least `FLOOR`.

    Args:
        sums: noisy sums of the contributions of each class.
        where: the public coordinates.
        clip: the clip norm.
        deviation: standard deviation of the noise, in units of `mechanism.SCALE`.
    """
    k = where.k
    found = {name: moments(own, k, clip, deviation) for name, own in sums.items()}
    together = _pooled(list(found.values()))
    mean = shrunk(together.mean, torch.zeros(k).double(), together.errors[0])
    covariance = shrunk(together.covariance, where.within[:k, :k], together.errors[1])
    mixtures = {
        name: _gaussian(
            shrunk(each.mean, mean, each.errors[0]), shrunk(each.covariance, covariance, each.errors[1]), where
        )
        for name, each in found.items()
    }
    return mixtures, {name: max(1, round(each.count)) for name, each in found.items()}


def _pooled(classes: Sequence[Moments]) -> Moments:
    """The mean over all images, and the mean covariance within classes."""
    count = sum(each.count for each in classes)
    shares = [each.count / count for each in classes]
    return Moments(
        count,
        torch.stack([share * each.mean for share, each in zip(shares, classes, strict=True)]).sum(0),
        torch.stack([share * each.covariance for share, each in zip(shares, classes, strict=True)]).sum(0),
        (
            sum(share**2 * each.errors[0] for share, each in zip(shares, classes, strict=True)),
            sum(share**2 * each.errors[1] for share, each in zip(shares, classes, strict=True)),
        ),
    )


def _gaussian(mean: Float[Tensor, " k"], covariance: Float[Tensor, "k k"], where: Coordinates) -> Mixture:
    """The Gaussian of latents with these moments along the first axes, and the public ones along the others."""
    values, vectors = torch.linalg.eigh(covariance)
    whole = torch.eye(len(where.axes)).double()
    whole[: where.k, : where.k] = vectors * values.clamp_min(FLOOR) @ vectors.T
    factor = torch.linalg.cholesky(where.axes @ whole @ where.axes.T)
    z = where.centre + where.axes[:, : where.k] @ mean
    return Mixture(torch.ones(1), z.float()[None], factor.float()[None])
