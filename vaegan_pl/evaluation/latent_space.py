"""How the encoder fills the latent space that samples are drawn from."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions import kl_divergence as kl

from vaegan_pl.evaluation.estimate import Estimate
from vaegan_pl.model.losses import kl_divergence
from vaegan_pl.model.mixtures import Latents

LEAST_VARIANCE = 1e-9
"""Added along every axis, for encoders whose posteriors are points."""


@dataclass(frozen=True)
class AggregatePosterior:
    """The posteriors of many images taken together, as the Gaussian that has their mean and covariance.

    Their mean divergence from the prior, L_prior, holds what z says of an image and how far all posteriors together
    are from N(0, I) (Hoffman and Johnson 2016, "ELBO surgery"). Where the second is large, draws of the prior come to
    lie where no image does, and the decoder is not at its best.

    Attributes:
        nats: mean divergence of the posteriors from the prior.
        mean: of all of them.
        covariance: of all of them: of their means, and their own variances.
    """

    nats: float
    mean: Float[Tensor, " latent"]
    covariance: Float[Tensor, "latent latent"]

    @cached_property
    def variances(self) -> Float[Tensor, " latent"]:
        """Along the principal axes, ascending; the prior has 1 along every axis."""
        ascending: Tensor = torch.linalg.eigvalsh(self.covariance)
        return ascending

    @cached_property
    def nats_from_prior(self) -> float:
        """Divergence of the Gaussian from the prior."""
        prior = MultivariateNormal(torch.zeros_like(self.mean), torch.eye(len(self.mean), dtype=self.mean.dtype))
        return float(kl(MultivariateNormal(self.mean, self.covariance), prior))

    def sample(self, n: int, generator: torch.Generator) -> Latents:
        """Draw `n` latents from the Gaussian."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        z: Tensor = self.mean + noise @ torch.linalg.cholesky(self.covariance).T
        return z.float()


def aggregate(mean: Latents, log_variance: Latents) -> AggregatePosterior:
    """The posteriors of a number of images, each a Gaussian of independent dimensions, taken together."""
    own = log_variance.double().exp().mean(0)
    of_means = torch.cov(mean.double().T, correction=0)
    nats = float(kl_divergence(mean.double(), log_variance.double()))
    return AggregatePosterior(nats, mean.double().mean(0), of_means + torch.diag(own + LEAST_VARIANCE))


@dataclass(frozen=True)
class LatentSpace:
    """What was measured of a model's latent space.

    Attributes:
        posterior: of its training images.
        kid: of images decoded from that one Gaussian, where samples of the prior are decoded from N(0, I).
    """

    posterior: AggregatePosterior
    kid: Estimate
