"""VAE and GAN against naive autograd in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vaegan_pl.model.baselines import GAN, VAE
from vaegan_pl.model.losses import Prior

from ..conftest import adversary_with, given, networks_with


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 16, 16, generator=generator, dtype=torch.float64) * 2 - 1
    epsilon, z_p = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return x, epsilon, z_p


def vae(sigma: Any = 0.5) -> VAE:
    return VAE(networks_with(discriminator_channels=None).double(), sigma, Prior(1.0, 0.0), None)


def test_a_vaes_encoder_descends_the_weighed_prior() -> None:
    networks, (x, epsilon, z_p) = networks_with(discriminator_channels=None).double(), batch()
    without, quarter, full = (
        VAE(networks, 0.5, Prior(weight, 0.0), None).gradients(*given(x, epsilon, z_p)).encoder
        for weight in (0.0, 0.25, 1.0)
    )
    for a, b, c in zip(without, quarter, full, strict=True):
        torch.testing.assert_close(b - a, 0.25 * (c - a), rtol=1e-6, atol=1e-10)


def gan(**options: Any) -> GAN:
    return GAN(networks_with(encoder_channels=None).double(), adversary_with(**options), None)


def test_a_vae_descends_its_evidence_lower_bound() -> None:
    model, (x, epsilon, z_p) = vae(), batch()
    step = model.gradients(*given(x, epsilon, z_p))
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
    step = model.gradients(*given(x, epsilon, z_p))
    dec, dis = model.networks.decoder, model.networks.discriminator
    p, p_fake = torch.sigmoid(dis(x)[0]), torch.sigmoid(dis(dec(z_p))[0])
    value = p.log().mean() + (1 - p_fake).log().mean()
    decoder_cost = value if game == "saturating" else -p_fake.log().mean()
    expected = torch.autograd.grad(decoder_cost, tuple(dec.parameters()), retain_graph=True)
    torch.testing.assert_close(step.decoder, expected)
    torch.testing.assert_close(step.discriminator, torch.autograd.grad(-value, tuple(dis.parameters())))
    assert step.encoder == ()


def test_a_gans_discriminator_sees_changed_images_and_refuses_r1_with_batch_norm() -> None:
    model, (x, epsilon, z_p) = gan(diffaugment=["brightness"], lecam=0.5), batch()
    assert model.uniform == 6
    uniform = torch.full((6, 6), 0.5, dtype=torch.float64)
    uniform[:, 0] = 0.7  # 0.2 brighter
    step = model.gradients(*given(x, epsilon, z_p, uniform=uniform))
    dec, dis = model.networks.decoder, model.networks.discriminator
    logits, fakes = dis(x + 0.2)[0], dis(dec(z_p) + 0.2)[0]
    value = torch.sigmoid(logits).log().mean() + torch.sigmoid(-fakes).log().mean()
    torch.testing.assert_close(step.metrics["loss/gan"], -value.detach())
    expected = torch.autograd.grad(value, tuple(dec.parameters()), retain_graph=True)
    torch.testing.assert_close(step.decoder, expected, rtol=1e-9, atol=1e-12)
    lecam = (logits - 0.9 * fakes.mean().item()).square().mean() + (fakes - 0.9 * logits.mean().item()).square().mean()
    expected = torch.autograd.grad(0.5 * lecam - value, tuple(dis.parameters()))
    torch.testing.assert_close(step.discriminator, expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match=r"model.adversary.r1: .*use model.networks.discriminator_norm=group"):
        gan(r1=1.0)


def test_a_non_saturating_gan_of_a_class_with_a_penalty() -> None:
    networks = networks_with(encoder_channels=None, discriminator_norm="group", classes=2).double()
    model, (x, epsilon, z_p), y = (
        GAN(networks, adversary_with(game="non_saturating", r1=2.0), None),
        batch(),
        torch.tensor([0, 1] * 3),
    )
    step, later = model.gradients(*given(x, epsilon, z_p, y)), model.gradients(*given(x, epsilon, z_p, y, step=1))
    dec, dis = networks.decoder, networks.discriminator
    logits, fakes = dis(x, y)[0], dis(dec(z_p, y), y)[0]
    expected = torch.autograd.grad(-torch.sigmoid(fakes).log().mean(), tuple(dec.parameters()), retain_graph=True)
    torch.testing.assert_close(step.decoder, expected)
    cost = -torch.sigmoid(logits).log().mean() - torch.sigmoid(-fakes).log().mean()
    torch.testing.assert_close(
        later.discriminator, torch.autograd.grad(cost, tuple(dis.parameters()), retain_graph=True)
    )
    at = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(dis(at, y)[0].sum(), at, create_graph=True)
    penalty = 16 * 2.0 / 2 * slopes.square().sum() / 6
    total = torch.autograd.grad(cost + penalty, tuple(dis.parameters()))
    torch.testing.assert_close(step.discriminator, total)


def test_a_vae_refuses_deviations_that_are_none() -> None:
    for sigma in (0.0, -1.0, "wide", None, float("inf")):
        with pytest.raises(ValueError, match=f"model.sigma={sigma}: must be a positive number or learned"):
            vae(sigma)
