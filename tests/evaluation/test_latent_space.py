import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as kl

from vaegan_pl.evaluation.latent_space import aggregate


def test_aggregate_has_the_moments_of_draws_from_all_posteriors() -> None:
    random = np.random.default_rng(0)
    mean = random.standard_normal((5, 3)) @ random.standard_normal((3, 3)) + 0.5
    log_variance = random.standard_normal((5, 3))
    draws = mean[:, None] + np.exp(0.5 * log_variance)[:, None] * random.standard_normal((5, 200_000, 3))
    found = aggregate(torch.from_numpy(mean), torch.from_numpy(log_variance))
    np.testing.assert_allclose(found.mean.numpy(), draws.reshape(-1, 3).mean(0), atol=0.02)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(draws.reshape(-1, 3).T), atol=0.05)
    posteriors = Independent(Normal(torch.from_numpy(mean), torch.from_numpy(np.exp(0.5 * log_variance))), 1)
    prior = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1)
    assert found.nats == pytest.approx(kl(posteriors, prior).mean().item())


def test_its_divergence_and_variances_by_hand() -> None:
    # Means (2, 0) and (-2, 0) with variances 1 and 1/4: along the first axis 4 + 1 = 5, along the second 1/4.
    found = aggregate(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.log(torch.tensor([[1.0, 0.25], [1.0, 0.25]])))
    np.testing.assert_allclose(found.variances.numpy(), [0.25, 5.0], rtol=1e-6)
    assert found.nats_from_prior == pytest.approx(0.5 * (4 - np.log(5)) + 0.5 * (0.25 - 1 - np.log(0.25)), rel=1e-6)


def test_posteriors_that_are_the_prior_are_nothing_from_it() -> None:
    found = aggregate(torch.zeros(4, 3), torch.zeros(4, 3))
    assert found.nats == 0
    assert found.nats_from_prior == pytest.approx(0, abs=1e-7)


def test_draws_have_its_moments_and_repeat_with_their_seed() -> None:
    mean = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -0.5, 3.0]])
    found = aggregate(mean, torch.full((2, 3), -1.0))
    z = found.sample(100_000, torch.Generator().manual_seed(3))
    np.testing.assert_allclose(z.mean(0).numpy(), found.mean.numpy(), atol=0.02)
    np.testing.assert_allclose(np.cov(z.numpy().T), found.covariance.numpy(), atol=0.05)
    assert torch.equal(z[:5], found.sample(100_000, torch.Generator().manual_seed(3))[:5])


def test_posteriors_that_are_one_point_can_still_be_drawn_from() -> None:
    z = aggregate(torch.ones(4, 3), torch.full((4, 3), -1e3)).sample(5, torch.Generator())
    torch.testing.assert_close(z, torch.ones(5, 3), atol=1e-3, rtol=0)
