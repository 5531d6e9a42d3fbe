"""VAE and GAN against naive autograd in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vaegan_pl.model.baselines import GAN, VAE
from vaegan_pl.model.losses import Prior

from ..conftest import adversary_with, networks_with


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 16, 16, generator=generator, dtype=torch.float64) * 2 - 1
    epsilon, z_p = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return x, epsilon, z_p


def vae(sigma: Any = 0.5) -> VAE:
    return VAE(networks_with(discriminator_channels=None).double(), sigma, Prior(1.0, 0, 0.0), None)


def gan(**options: Any) -> GAN:
    return GAN(networks_with(encoder_channels=None).double(), adversary_with(**options), None)


def test_a_vae_descends_its_evidence_lower_bound() -> None:
    model, (x, epsilon, z_p) = vae(), batch()
    step = model.gradients(x, epsilon, z_p)
    mean, log_variance = model.networks.encoder(x)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    x_tilde = model.networks.decoder(mean + posterior.scale * epsilon)
    prior = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum() / 6
    evidence = Normal(x_tilde, 0.5).log_prob(x).sum() / 6
    for name in ("encoder", "decoder"):
        parameters = tuple(getattr(model.networks, name).parameters())
        expected = torch.autograd.grad(prior - evidence, parameters, retain_graph=True)
        torch.testing.assert_close(getattr(step, name), expected)
    torch.testing.assert_close(step.metrics["loss/prior"], prior.detach())
    constant = 256 * 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    torch.testing.assert_close(step.metrics["loss/pixel"] + constant, -evidence.detach())
    assert step.discriminator == ()


@pytest.mark.parametrize("game", ["saturating", "non_saturating"])
def test_a_gan_plays_goodfellows_game(game: str) -> None:
    model, (x, epsilon, z_p) = gan(game=game), batch()
    step = model.gradients(x, epsilon, z_p)
    dec, dis = model.networks.decoder, model.networks.discriminator
    p, p_fake = torch.sigmoid(dis(x)[0]), torch.sigmoid(dis(dec(z_p))[0])
    value = p.log().mean() + (1 - p_fake).log().mean()
    decoder_cost = value if game == "saturating" else -p_fake.log().mean()
    expected = torch.autograd.grad(decoder_cost, tuple(dec.parameters()), retain_graph=True)
    torch.testing.assert_close(step.decoder, expected)
    torch.testing.assert_close(step.discriminator, torch.autograd.grad(-value, tuple(dis.parameters())))
    assert step.encoder == ()


def test_a_vae_refuses_deviations_that_are_none() -> None:
    for sigma in (0.0, -1.0, "wide", None, float("inf")):
        with pytest.raises(ValueError, match=f"model.sigma={sigma}: must be a positive number or learned"):
            vae(sigma)
