import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Bernoulli, Independent, Normal
from torch.distributions import kl_divergence as kl

from vaegan_pl.model.losses import (
    Prior,
    fake_cost,
    feature_likelihood,
    kl_divergence,
    pixel_likelihood,
    real_cost,
    standardise_features,
)


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


def test_the_priors_weight_multiplies_the_divergence() -> None:
    mean, log_variance = torch.randn(2, 7, 5)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    expected = 2 * kl(posterior, Normal(torch.zeros(5), torch.ones(5))).sum(1).mean()
    torch.testing.assert_close(Prior(2.0, 0.0)(mean, log_variance), expected)


def test_free_bits_leave_dimensions_below_them_alone() -> None:
    mean, log_variance = torch.randn(7, 5), torch.randn(7, 5)
    mean[:, 0] = log_variance[:, 0] = 0.01
    mean.requires_grad_()
    posterior = Normal(mean, (0.5 * log_variance).exp())
    by_dimension = kl(posterior, Normal(torch.zeros(5), torch.ones(5))).mean(0)
    assert by_dimension[0] < 0.2 < by_dimension[1:].min()
    cost = Prior(1.0, 0.2)(mean, log_variance)
    torch.testing.assert_close(cost, 0.2 + by_dimension[1:].sum())
    (gradient,) = torch.autograd.grad(cost, mean)
    assert (gradient[:, 0] == 0).all()
    assert (gradient[:, 1:] != 0).all()
    torch.testing.assert_close(Prior(4.0, 0.2)(mean, log_variance), 4 * cost)


@pytest.mark.parametrize(
    ("name", "value"), [("weight", -1.0), ("free_bits", float("nan")), ("free_bits", float("inf"))]
)
def test_a_prior_out_of_range_is_refused(name: str, value: float) -> None:
    options = {"weight": 1.0, "free_bits": 0.0, name: value}
    with pytest.raises(ValueError, match=f"model.prior.{name}={value}: must be a finite number of at least 0"):
        Prior(**options)


def test_standardised_features_neither_scale_nor_number_of_channels_matters() -> None:
    x, x_tilde = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    scaled, scaled_tilde = standardise_features(x, x_tilde, 100)
    deviations = x.numpy().std(axis=(0, 2, 3))[None, :, None, None]
    np.testing.assert_allclose(scaled.numpy(), x.numpy() / deviations * np.sqrt(100 / 48), rtol=1e-6)
    np.testing.assert_allclose(scaled_tilde.numpy(), x_tilde.numpy() / deviations * np.sqrt(100 / 48), rtol=1e-6)
    assert scaled.var((0, 2, 3), correction=0).sum() * 4 * 4 == pytest.approx(100)
    by = torch.tensor([0.1, 3.0, 5.0], dtype=torch.float64)[None, :, None, None]
    torch.testing.assert_close(standardise_features(by * x, by * x_tilde, 100)[1], scaled_tilde, rtol=1e-5, atol=1e-5)
    twice = standardise_features(x.repeat(1, 2, 1, 1), x_tilde.repeat(1, 2, 1, 1), 100)
    torch.testing.assert_close(feature_likelihood(*twice), feature_likelihood(scaled, scaled_tilde))


def test_a_dead_channel_does_not_outweigh_the_others() -> None:
    x, x_tilde = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    x[:, 0] = 0.0
    mean = float(np.mean([0.0, x[:, 1].numpy().std(), x[:, 2].numpy().std()]))
    torch.testing.assert_close(standardise_features(x, x_tilde, 48)[1][:, 0], x_tilde[:, 0] / (0.01 * mean))


def test_pixel_likelihood_is_the_gaussian_log_density_without_its_constant() -> None:
    x, x_tilde = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    constant = 16 * 0.5 * np.log(2 * np.pi)
    for sigma in (0.25, 2.0):
        density = norm.logpdf(x.numpy(), x_tilde.numpy(), sigma).reshape(3, -1).sum(1).mean()
        assert pixel_likelihood(x, x_tilde, sigma).item() == pytest.approx(-density - constant, rel=1e-9)


def test_a_learned_deviation_is_the_likeliest_one() -> None:
    x, x_tilde = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    x_tilde.requires_grad_()
    learned = pixel_likelihood(x, x_tilde, "learned")
    others = [pixel_likelihood(x, x_tilde, sigma).item() for sigma in np.linspace(0.5, 3, 2501)]
    assert learned.item() <= min(others)
    assert learned.item() == pytest.approx(min(others), rel=1e-5)
    best = float((x - x_tilde).detach().square().mean().sqrt())
    expected = torch.autograd.grad(pixel_likelihood(x, x_tilde, best), x_tilde)
    torch.testing.assert_close(torch.autograd.grad(learned, x_tilde), expected)
