import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Bernoulli, Independent, Normal
from torch.distributions import kl_divergence as kl

from vaegan_pl.model.losses import fake_cost, feature_likelihood, kl_divergence, real_cost


def test_kl_divergence_against_torch_distributions() -> None:
    mean, log_variance = torch.randn(7, 5), torch.randn(7, 5)
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros(5), torch.ones(5)), 1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), kl(posterior, prior).mean())


def test_kl_divergence_by_hand() -> None:
    # One latent at mu = 3 costs 9/2; one at log sigma^2 = 2 costs (e^2 - 1 - 2)/2; the other image is the prior.
    mean = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    log_variance = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    expected = (4.5 + (np.e**2 - 3) / 2) / 2
    assert kl_divergence(mean, log_variance).item() == pytest.approx(expected, rel=1e-6)


def test_feature_likelihood_is_the_gaussian_log_density_without_its_constant() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 3, 4, 2, 2))
    density = norm.logpdf(a, loc=b).reshape(3, -1).sum(1).mean()
    constant = -0.5 * np.log(2 * np.pi) * 16
    loss = feature_likelihood(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert loss == pytest.approx(constant - density, rel=1e-12)


def test_costs_against_bernoulli_log_likelihood() -> None:
    logits = torch.randn(9) * 4
    torch.testing.assert_close(real_cost(logits), -Bernoulli(logits=logits).log_prob(torch.ones(9)).mean())
    torch.testing.assert_close(fake_cost(logits), -Bernoulli(logits=logits).log_prob(torch.zeros(9)).mean())


def test_costs_stay_finite_where_a_sigmoid_saturates() -> None:
    assert real_cost(torch.tensor([-200.0])).item() == pytest.approx(200)
    assert fake_cost(torch.tensor([200.0])).item() == pytest.approx(200)


def test_half_precision_inputs_are_summed_in_float32() -> None:
    features = torch.full((1, 70_000), 0.1, dtype=torch.bfloat16)
    exact = 0.5 * 70_000 * float(features[0, 0]) ** 2
    assert feature_likelihood(torch.zeros_like(features), features).dtype == torch.float32
    assert feature_likelihood(torch.zeros_like(features), features).item() == pytest.approx(exact, rel=1e-4)
