"""The three losses of the VAE/GAN, each the mean over images of a sum over everything else."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def kl_divergence(
    mean: Float[Tensor, "batch latent"], log_variance: Float[Tensor, "batch latent"]
) -> Float[Tensor, ""]:
    """L_prior = D_KL(q(z|x) || N(0, I)) in nats: summed over the latent, mean over images (paper, eq. 2)."""
    mean, log_variance = _at_least_float32(mean), _at_least_float32(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def feature_likelihood(
    features_x: Float[Tensor, "batch *feature"], features_x_tilde: Float[Tensor, "batch *feature"]
) -> Float[Tensor, ""]:
    """L_llike = -E_q[log p(Dis_l(x)|z)] without its constant (paper, eqs. 7 and 8).

    Dis_l(x) is Gaussian around Dis_l(x_tilde) with unit variance, so this is half the squared distance, summed
    over features, mean over images.
    """
    difference = _at_least_float32(features_x_tilde) - _at_least_float32(features_x)
    return 0.5 * difference.square().flatten(1).sum(1).mean()


def real_cost(logits: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """-log Dis(x) in nats, mean over images: what the discriminator pays for real images."""
    return F.softplus(-_at_least_float32(logits)).mean()


def fake_cost(logits: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """-log(1 - Dis(x)) in nats, mean over images: what the discriminator pays for decoded images."""
    return F.softplus(_at_least_float32(logits)).mean()
