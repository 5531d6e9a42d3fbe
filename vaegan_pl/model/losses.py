"""The losses of all models; each is a mean over images of a sum over everything else."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Scalar = Float[Tensor, ""]
Logits = Float[Tensor, " batch"]


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers in float32, or in a higher precision if they already have one, for accurate sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def kl_divergence(mean: Float[Tensor, "batch latent"], log_variance: Float[Tensor, "batch latent"]) -> Scalar:
    """L_prior = D_KL(q(z|x) || N(0, I)) in nats: summed over the latent, mean over images (paper, section 2.1)."""
    return 0.5 * _twice_kl_by_dimension(mean, log_variance).sum(1).mean()


def _twice_kl_by_dimension(mean: Tensor, log_variance: Tensor) -> Tensor:
    mean, log_variance = at_least_float32(mean), at_least_float32(log_variance)
    return mean.square() + log_variance.exp() - 1 - log_variance


@dataclass(frozen=True)
class Prior:
    """How L_prior enters the encoder's update.

    Args:
        weight: weight of L_prior, beta of arXiv 1804.03599; 1 gives the evidence lower bound.
        free_bits: KL divergence in nats that each dimension of z may have without penalty, lambda of arXiv 1606.04934,
            appendix C.8, with means over the batch.

    Raises:
        ValueError: if an option is negative or not finite.
    """

    weight: float
    free_bits: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"model.prior.{name}={value}: must be a finite number of at least 0")

    @property
    def description(self) -> dict[str, object]:
        """The options as plain values, for model files and records."""
        return {f"prior_{name}": value for name, value in vars(self).items()}

    def __call__(self, mean: Float[Tensor, "batch latent"], log_variance: Float[Tensor, "batch latent"]) -> Scalar:
        """The encoder's loss, in nats."""
        if not self.free_bits:
            return self.weight * kl_divergence(mean, log_variance)
        return self.weight * (0.5 * _twice_kl_by_dimension(mean, log_variance).mean(0)).clamp_min(self.free_bits).sum()


def feature_likelihood(
    features_x: Float[Tensor, "batch *feature"], features_x_tilde: Float[Tensor, "batch *feature"]
) -> Scalar:
    """L_llike = -E_q[log p(Dis_l(x)|z)] without its constant (paper, section 2.3).

    Dis_l(x) is Gaussian around Dis_l(x_tilde) with unit variance, so this is half the squared distance, summed
    over features and averaged over images.
    """
    difference = at_least_float32(features_x_tilde) - at_least_float32(features_x)
    return 0.5 * difference.square().flatten(1).sum(1).mean()


def standardise_features(
    features_x: Float[Tensor, "batch channel height width"],
    features_x_tilde: Float[Tensor, "batch channel height width"],
    size: int,
) -> tuple[Tensor, Tensor]:
    """Dis_l(x) and Dis_l(x_tilde), each channel in units of its standard deviation over the batch of real images.

    This makes the weight of L_llike independent of the scale and the number of the discriminator's features: the total
    variance of a feature map is that of `size` numbers of unit variance. The standard deviations are treated as
    constants in the gradient, and are at least a hundredth of their mean, since a channel may be dead.

    Args:
        features_x: Dis_l(x).
        features_x_tilde: Dis_l(x_tilde).
        size: the total variance of a map, e.g. the number of pixels of an image.
    """
    x, x_tilde = at_least_float32(features_x), at_least_float32(features_x_tilde)
    deviation = x.detach().var((0, 2, 3), correction=0, keepdim=True).sqrt()
    deviation = deviation.clamp_min(1e-8).maximum(0.01 * deviation.mean()) * math.sqrt(x[0].numel() / size)
    return x / deviation, x_tilde / deviation


Sigma = float | Literal["learned"]


def check_sigma(sigma: object) -> None:
    """Check the standard deviation for `pixel_likelihood`.

    Raises:
        ValueError: if it is neither a positive number nor `learned`.
    """
    if sigma == "learned":
        return
    if isinstance(sigma, bool) or not isinstance(sigma, float | int) or not 0 < sigma < math.inf:
        raise ValueError(f"model.sigma={sigma}: must be a positive number or learned")


def pixel_likelihood(
    x: Float[Tensor, "batch channel side side"],
    x_tilde: Float[Tensor, "batch channel side side"],
    sigma: Sigma,
) -> Scalar:
    """-E_q[log p(x|z)] in nats without n/2 log 2 pi, for a Gaussian with mean x_tilde and standard deviation sigma.

    A `learned` sigma is the optimal one for the batch, the square root of the mean squared error, which gives
    n/2 (log MSE + 1) (arXiv 2006.13202, section 3.3).
    """
    error = (at_least_float32(x_tilde) - at_least_float32(x)).square()
    if sigma == "learned":
        return 0.5 * x[0].numel() * (error.mean().log() + 1)
    return 0.5 * error.flatten(1).sum(1).mean() / sigma**2 + x[0].numel() * math.log(sigma)


def real_cost(logits: Logits) -> Scalar:
    """-log Dis(x) in nats, averaged over images: the discriminator's loss on real images."""
    return F.softplus(-at_least_float32(logits)).mean()


def fake_cost(logits: Logits) -> Scalar:
    """-log(1 - Dis(x)) in nats, averaged over images: the discriminator's loss on decoded images."""
    return F.softplus(at_least_float32(logits)).mean()


@dataclass(frozen=True)
class Game:
    """The losses of both players in the adversarial game, as functions of the logits of a batch.

    Attributes:
        real: the discriminator's loss on real images.
        fake: the discriminator's loss on decoded images.
        decoder: the decoder's loss on decoded images.
    """

    real: Callable[[Logits], Scalar]
    fake: Callable[[Logits], Scalar]
    decoder: Callable[[Logits], Scalar]


GAMES = {
    "saturating": Game(real_cost, fake_cost, lambda logits: -fake_cost(logits)),
    "non_saturating": Game(real_cost, fake_cost, real_cost),
}
"""Goodfellow et al.'s minimax game and its non-saturating form (arXiv 1406.2661, section 3)."""
