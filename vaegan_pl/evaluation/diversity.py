"""Variety of a set of images, and how it covers the real images."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from vaegan_pl.evaluation.classifier import AT_ONCE, Images
from vaegan_pl.evaluation.features import Features, Points

NEIGHBOURS = 5
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of multi-scale SSIM (Wang et al. 2003), the finest scale first."""

_WINDOW = 11  # pixels, of SSIM's Gaussian of 1.5


@dataclass(frozen=True)
class Manifold:
    """How two sets of features cover each other, using balls around each point up to its fifth nearest neighbour.

    Attributes:
        precision: share of the other set inside a ball of real points (arXiv 1904.06991).
        recall: share of the real set inside a ball of the others (arXiv 1904.06991).
        density: mean number of real balls that a point of the other set is in, divided by five (arXiv 2002.09797); may
            exceed 1.
        coverage: share of real balls that contain a point of the other set (arXiv 2002.09797).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Points, other: Points, neighbours: int = NEIGHBOURS) -> Manifold:
    """Precision, recall, density and coverage. All depend on the number of points, so both sets must be equally large.

    Raises:
        ValueError: if the sets differ in size, or are no larger than `neighbours`.
    """
    if len(real) != len(other) or len(real) <= neighbours:
        raise ValueError(f"{len(real)} and {len(other)} images: must be equal in number and more than {neighbours}")
    across = torch.cdist(real.double(), other.double())
    real_reach, other_reach = (_reach(features, neighbours) for features in (real, other))
    inside_real = across < real_reach[:, None]
    return Manifold(
        precision=float(inside_real.any(0).double().mean()),
        recall=float((across < other_reach).any(1).double().mean()),
        density=float(inside_real.double().sum(0).mean() / neighbours),
        coverage=float(inside_real.any(1).double().mean()),
    )


def mean_manifold(real: Features, other: Features) -> Manifold:
    """`manifold`, each figure averaged over the networks."""
    found = [vars(manifold(*points)) for points in zip(real, other, strict=True)]
    return Manifold(**{name: sum(one[name] for one in found) / len(found) for name in found[0]})


def _reach(features: Points, neighbours: int) -> Tensor:
    """Distance of each point to its k-th nearest other point."""
    distances = torch.cdist(features.double(), features.double())
    distances.fill_diagonal_(torch.inf)
    return distances.kthvalue(neighbours, 1).values


def vendi_score(features: Points) -> float:
    """The effective number of different images: exp of the entropy of the similarities' spectrum (arXiv 2210.02410).

    Similarity is the cosine of features. The score lies between 1 (all alike) and the number of images or of features,
    whichever is less.
    """
    unit = torch.nn.functional.normalize(features.double())
    gram = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit  # their spectra differ only by zeros
    spectrum = torch.linalg.eigvalsh(gram / len(unit)).clamp_min(0)
    return float(torch.special.entr(spectrum).sum().exp())


def ms_ssim(x: Images, y: Images) -> Float[Tensor, " pair"]:
    """Multi-scale SSIM of pairs of images in [-1, 1]; in [0, 1], and 1 for identical images.

    Uses as many of the five scales as have room for the window (three at 64 pixels), with exponents scaled to sum to 1.
    """
    exponents = [exponent for scale, exponent in enumerate(SCALES) if x.shape[-1] // max(1, scale) ** 2 >= _WINDOW]
    scales = tuple(exponent / sum(exponents) for exponent in exponents)
    values = [
        multiscale_structural_similarity_index_measure(
            a, b, data_range=2.0, betas=scales, normalize="relu", reduction="none"
        )
        for a, b in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True)
    ]
    return torch.cat([value.reshape(-1) for value in values])


@dataclass(frozen=True)
class Pairs:
    """Random pairs of different images of a set.

    Attributes:
        first: index of one image.
        second: index of the other.
        similarity: their multi-scale SSIM, in [0, 1]; higher means more alike.
    """

    first: Int64[Tensor, " pair"]
    second: Int64[Tensor, " pair"]
    similarity: Float[Tensor, " pair"]

    @classmethod
    def of(cls, images: Images, n: int, seed: int) -> Self:
        """`n` random pairs of images in [-1, 1]."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.randint(len(images), (n,), generator=generator)
        second = (first + torch.randint(1, len(images), (n,), generator=generator)) % len(images)
        return cls(first, second, ms_ssim(images[first], images[second]))

    def within(self, chosen: Int64[Tensor, " some"]) -> Float[Tensor, " inside"]:
        """The similarities of the pairs of which both images are among some."""
        return self.similarity[torch.isin(self.first, chosen) & torch.isin(self.second, chosen)]
