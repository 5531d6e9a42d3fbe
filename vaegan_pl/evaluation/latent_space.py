"""How the encoder's posteriors fill the latent space, compared with the prior."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions import kl_divergence as kl

from vaegan_pl.model.losses import kl_divergence
from vaegan_pl.model.mixtures import Latents

LEAST_VARIANCE = 1e-9
"""Added along every axis, since the posteriors of some encoders collapse to points."""


@dataclass(frozen=True)
class AggregatePosterior:
    """The Gaussian with the mean and covariance of the posteriors of many images taken together.

    The mean divergence of the posteriors from the prior, L_prior, has two parts: the information that z gives about the
    image, and the divergence of all posteriors together from N(0, I) (Hoffman and Johnson 2016, "ELBO surgery"). If
    the second part is large, draws from the prior lie where no image does, and the decoder has not learned to decode
    them.

    Attributes:
        nats: mean KL divergence of the posteriors from the prior, in nats.
        mean: mean of all posteriors.
        covariance: covariance of their means plus the mean of their variances.
    """

    nats: float
    mean: Float[Tensor, " latent"]
    covariance: Float[Tensor, "latent latent"]

    @cached_property
    def variances(self) -> Float[Tensor, " latent"]:
        """Variances along the principal axes, ascending; those of the prior are 1."""
        ascending: Tensor = torch.linalg.eigvalsh(self.covariance)
        return ascending

    @cached_property
    def nats_from_prior(self) -> float:
        """KL divergence of the Gaussian from the prior, in nats."""
        prior = MultivariateNormal(torch.zeros_like(self.mean), torch.eye(len(self.mean), dtype=self.mean.dtype))
        return float(kl(MultivariateNormal(self.mean, self.covariance), prior))

    def sample(self, n: int, generator: torch.Generator) -> Latents:
        """Draw `n` latents from the Gaussian."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        z: Tensor = self.mean + noise @ torch.linalg.cholesky(self.covariance).T
        return z.float()


def aggregate(mean: Latents, log_variance: Latents) -> AggregatePosterior:
    """The aggregate of the posteriors of several images, each a Gaussian with independent dimensions."""
    own = log_variance.double().exp().mean(0)
    of_means = torch.cov(mean.double().T, correction=0)
    nats = float(kl_divergence(mean.double(), log_variance.double()))
    return AggregatePosterior(nats, mean.double().mean(0), of_means + torch.diag(own + LEAST_VARIANCE))


@dataclass(frozen=True)
class LatentSpace:
    """Measurements of a model's latent space.

    Attributes:
        posterior: aggregate posterior of the training images.
        kid: KID of images decoded from draws of that Gaussian, instead of N(0, I).
    """

    posterior: AggregatePosterior
    kid: float
