"""Where each class lies in the latent space: Gaussian mixtures fitted to the posteriors of its training images.

Algorithm 1 does not use class labels. Draws from the mixture of a class decode to images of that class.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

DRAWS = 4
"""Draws from each image's posterior, to fit mixtures to."""

COMPONENTS = (1, 4, 16)
"""Numbers of components of a class's mixture that are tried."""

LEAST_IMAGES = 4
"""Training images for each component, at least; otherwise components would fit single images."""

STEPS = 10
"""Steps of expectation maximisation. More hardly change which images are drawn."""

REGULARISATION = 1e-3
"""Added to the variances; the prior has a variance of 1."""

STORED_AS = (torch.float32, torch.float16)
"""Precisions of numbers in files."""

Latents = Float[Tensor, "image latent"]


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians.

    Attributes:
        weights: weight of each component; they sum to 1.
        means: mean of each component.
        factors: lower-triangular Cholesky factor L of each covariance L L^T.
    """

    weights: Float[Tensor, " component"]
    means: Float[Tensor, "component latent"]
    factors: Float[Tensor, "component latent latent"]

    def sample(self, n: int, generator: torch.Generator, temperature: float = 1.0) -> Latents:
        """Draw `n` latents; `temperature` multiplies the deviations from each component's mean."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = temperature * torch.randn(n, self.means.shape[1], generator=generator)
        z = self.means[chosen]
        for component in chosen.unique().tolist():
            own = chosen == component
            z[own] += noise[own] @ self.factors[component].T
        return z


ClassMixtures = Mapping[str, Mixture]


def to_plain(mixtures: ClassMixtures, half: bool = False) -> dict[str, dict[str, Tensor]]:
    """The mixtures in plain containers, for a file.

    Args:
        mixtures: the mixtures.
        half: whether to store means and factors in half precision, and only the lower triangles of the factors.
    """
    if not half:
        return {name: dict(vars(mixture)) for name, mixture in mixtures.items()}
    return {
        name: {
            "weights": mixture.weights,
            "means": mixture.means.half(),
            "factors": mixture.factors.half()[(slice(None), *_triangle(mixture.means.shape[1]))],
        }
        for name, mixture in mixtures.items()
    }


def _triangle(side: int) -> Int64[Tensor, "2 element"]:
    """Rows and columns of the elements of a lower triangle."""
    return torch.tril_indices(side, side)


def from_plain(content: Mapping[str, Mapping[str, Any]], latent_dim: int) -> ClassMixtures:
    """The inverse of `to_plain`.

    Raises:
        TypeError: if a mixture lacks a part, or has an unknown one.
        ValueError: if shapes do not match, weights are negative or do not sum to 1, or a number is not finite.
    """
    mixtures = {name: Mixture(**values) for name, values in content.items()}
    for name, mixture in mixtures.items():
        if not all(isinstance(part, Tensor) and part.dtype in STORED_AS for part in vars(mixture).values()):
            raise TypeError(f"the mixture of {name} contains values that are not numbers")
        mixtures[name] = mixture = _unpacked(mixture, latent_dim)
        k = mixture.weights.numel()
        if mixture.weights.shape != (k,) or mixture.means.shape != (k, latent_dim):
            raise ValueError(f"the mixture of {name} does not fit a latent space of {latent_dim} dimensions")
        if mixture.factors.shape != (k, latent_dim, latent_dim):
            raise ValueError(f"the mixture of {name} does not fit a latent space of {latent_dim} dimensions")
        if not all(part.isfinite().all() for part in vars(mixture).values()):
            raise ValueError(f"the mixture of {name} contains numbers that are not finite")
        if (mixture.weights < 0).any() or not 0.99 < mixture.weights.sum() < 1.01:
            raise ValueError(f"the weights of the mixture of {name} do not sum to 1, or are negative")
    return mixtures


def _unpacked(mixture: Mixture, latent_dim: int) -> Mixture:
    """A mixture in single precision, with whole factors; factors of another shape stay as they are."""
    weights, means, factors = (part.float() for part in vars(mixture).values())
    if factors.shape == (len(weights), latent_dim * (latent_dim + 1) // 2):
        triangles, factors = factors, factors.new_zeros(len(factors), latent_dim, latent_dim)
        factors[(slice(None), *_triangle(latent_dim))] = triangles
    return Mixture(weights, means, factors)


def draw_posteriors(mean: Latents, log_variance: Latents, generator: torch.Generator) -> Latents:
    """`DRAWS` draws from the posterior of each image; draws of one image are consecutive."""
    mean, log_variance = (values.repeat_interleave(DRAWS, 0) for values in (mean, log_variance))
    return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)


def gaussian(mean: Latents, log_variance: Latents) -> Mixture:
    """The Gaussian with the mean and covariance of the posteriors of several images, as a mixture of one component.

    Args:
        mean: means of the posteriors.
        log_variance: logarithms of their variances.
    """
    mean, variance = mean.double(), log_variance.double().exp()
    covariance = torch.cov(mean.T, correction=0) + torch.diag(variance.mean(0) + REGULARISATION)
    return Mixture(torch.ones(1), mean.mean(0).float()[None], torch.linalg.cholesky(covariance).float()[None])


def at_most(components: int, train: Latents) -> int:
    """The number of components, or fewer if there are fewer than `LEAST_IMAGES` images for each.

    Args:
        components: the number, positive.
        train: draws from the posteriors of training images; see `draw_posteriors`.
    """
    return max(1, min(components, len(train) // (DRAWS * LEAST_IMAGES)))


def fit(train: Latents, components: int) -> Mixture | None:
    """Fit a mixture with full covariances by expectation maximisation (scikit-learn).

    Args:
        train: draws from the posteriors of a class's training images; see `draw_posteriors`.
        components: number of components; see `at_most`.

    Returns:
        The mixture; None if the draws are too few or too far apart.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(at_most(components, train), reg_covar=REGULARISATION, max_iter=STEPS, random_state=0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train.double().numpy())
        weights, means, covariances = map(torch.from_numpy, (model.weights_, model.means_, model.covariances_))
        return Mixture(weights.float(), means.float(), torch.linalg.cholesky(covariances).float())
    except (ValueError, RuntimeError):
        return None


def log_likelihood(mixture: Mixture, z: Latents) -> float:
    """Mean log-likelihood of latents under a mixture, in nats."""
    of_each = torch.distributions.MultivariateNormal(mixture.means, scale_tril=mixture.factors)
    chosen = torch.distributions.Categorical(mixture.weights)
    return float(torch.distributions.MixtureSameFamily(chosen, of_each).log_prob(z).mean())
