"""Mixtures of Gaussians over the latent space, against what they were made from."""

import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaegan_pl.model.mixtures import (
    DRAWS,
    REGULARISATION,
    STEPS,
    Mixture,
    draw_posteriors,
    fit,
    from_plain,
    gaussian,
    log_likelihood,
    to_plain,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_clusters(n: int, seed: int) -> Tensor:
    z = 0.3 * torch.randn(n, 3, generator=generator(seed))
    z[::4] += torch.tensor([5.0, 0.0, 0.0])
    return z


def test_samples_have_the_mixtures_moments() -> None:
    factors = torch.tensor([[[1.0, 0.0], [0.8, 0.6]], [[0.5, 0.0], [0.0, 0.5]]])
    mixture = Mixture(torch.tensor([0.25, 0.75]), torch.tensor([[4.0, 0.0], [-4.0, 0.0]]), factors)
    z = mixture.sample(40_000, generator())
    first = z[z[:, 0] > 0]
    assert len(first) / len(z) == pytest.approx(0.25, abs=0.01)
    expected = MultivariateNormal(torch.tensor([4.0, 0.0]), scale_tril=factors[0])
    torch.testing.assert_close(first.mean(0), expected.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(first.T), expected.covariance_matrix, atol=0.05, rtol=0)


def test_a_fit_finds_what_the_draws_came_from() -> None:
    mixture = fit(two_clusters(4000, 0), 2)
    assert mixture is not None
    z = mixture.sample(20_000, generator())
    far = z[:, 0] > 2.5
    assert float(far.double().mean()) == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(z[far].mean(0), torch.tensor([5.0, 0.0, 0.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(z[~far].std(0), torch.full((3,), 0.3), atol=0.02, rtol=0)


def test_few_images_get_few_components() -> None:
    for images, components in ((7, 1), (8, 2), (40, 10), (200, 16)):
        mixture = fit(torch.randn(DRAWS * images, 3, generator=generator()), 16)
        assert mixture is not None
        assert len(mixture.weights) == components
    assert fit(torch.randn(1, 3), 1) is None
    assert fit(torch.full((40, 3), torch.nan), 1) is None


def test_the_likelihood_is_that_of_scikit_learn() -> None:
    z = two_clusters(4000, 0)
    mixture = fit(z, 2)
    assert mixture is not None
    model = GaussianMixture(2, random_state=0, max_iter=STEPS, reg_covar=REGULARISATION).fit(z.double().numpy())
    others = two_clusters(500, 1)
    assert log_likelihood(mixture, others) == pytest.approx(model.score(others.double().numpy()), rel=1e-4)


def test_a_gaussian_has_the_moments_of_draws_from_the_posteriors() -> None:
    mean = torch.randn(500, 3, generator=generator(1)) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0, 0, 2.0]])
    log_variance = torch.randn(500, 3, generator=generator(2))
    mixture = gaussian(mean, log_variance)
    draws = torch.cat([draw_posteriors(mean, log_variance, generator(seed)) for seed in range(100)]).double()
    torch.testing.assert_close(mixture.means[0].double(), draws.mean(0), atol=0.02, rtol=0)
    covariance = (mixture.factors[0] @ mixture.factors[0].T).double()
    torch.testing.assert_close(covariance, torch.cov(draws.T), atol=0.06, rtol=0)


def test_posteriors_are_drawn_with_their_own_means_and_variances() -> None:
    mean, log_variance = torch.tensor([[0.0, 10.0]]).expand(20_000, -1), torch.tensor([[0.0, -2.0]]).expand(20_000, -1)
    z = draw_posteriors(mean, log_variance, generator())
    assert len(z) == DRAWS * 20_000
    torch.testing.assert_close(z.mean(0), torch.tensor([0.0, 10.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), torch.tensor([1.0, 0.1353]), atol=0.02, rtol=0)


def test_plain_containers_and_back() -> None:
    mixture = fit(two_clusters(40, 0), 2)
    assert mixture is not None
    mixtures = {"a": mixture}
    back = from_plain(to_plain(mixtures), 3)
    assert torch.equal(back["a"].sample(5, generator()), mixtures["a"].sample(5, generator()))
    with pytest.raises(ValueError, match="the mixture of a does not fit a latent space of 4 dimensions"):
        from_plain(to_plain(mixtures), 4)
