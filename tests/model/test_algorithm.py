"""Algorithm 1 against naive autograd in float64, and its directions by small steps."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vaegan_pl.model.adversary import DiffAugment
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.generative import EquilibriumGate
from vaegan_pl.model.losses import Prior
from vaegan_pl.model.networks import Networks

from ..conftest import adversary_with, given, networks_with, vaegan


def build(networks: Networks, **options: Any) -> VAEGAN:
    return vaegan(networks.double(), **options)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(6, 1, 16, 16, generator=generator, dtype=torch.float64) * 2 - 1
    epsilon, z_p = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return x, epsilon, z_p


def naive_losses(model: VAEGAN, x: Tensor, epsilon: Tensor, z_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L_prior, L_llike and L_GAN (as a cost), straight from their definitions."""
    networks = model.networks
    mean, log_variance = networks.encoder(x)
    sigma = log_variance.exp().sqrt()
    l_prior = kl_divergence(Normal(mean, sigma), Normal(torch.zeros_like(mean), torch.ones_like(sigma))).sum(1).mean()
    z = mean + sigma * epsilon
    has_prior = model.fakes != "reconstruction"
    real_in_game = None
    if model.batch_norm == "separate":
        x_tilde, x_p = networks.decoder(z), networks.decoder(z_p)
        real, reconstructed, sampled = (networks.discriminator(images) for images in (x, x_tilde, x_p))
    elif model.batch_norm == "paired":
        x_tilde, sampled = networks.decoder(z), networks.discriminator(networks.decoder(z_p))
        logits, maps = networks.discriminator(torch.cat([x, x_tilde]))
        feature = maps[model.similarity_layer]
        real = (logits[: len(x)], {model.similarity_layer: feature[: len(x)]})
        if model.fakes == "prior":  # x_tilde is no player, though it is in the batch
            real_in_game = networks.discriminator(torch.cat([x, x_tilde.detach()]))[0][: len(x)]
        reconstructed = (logits[len(x) :], {model.similarity_layer: feature[len(x) :]})
    elif model.batch_norm == "authors":
        x_tilde, x_p = networks.decoder(z), networks.decoder(z_p)
        reconstructed, real = (
            (logits, {model.similarity_layer: maps})
            for both in [networks.discriminator(torch.cat([x_tilde, x]))]
            for logits, maps in zip(both[0].split(len(x)), both[1][model.similarity_layer].split(len(x)), strict=True)
        )
        in_game = {"both": [x_tilde, x_p], "reconstruction": [x_tilde], "prior": [x_p]}[model.fakes]
        real_in_game, *others = networks.discriminator(torch.cat([x, *in_game]))[0].split(len(x))
        reconstructed = (others[0], reconstructed[1])
        sampled = (others[-1], {})
    else:
        decoded = networks.decoder(torch.cat([z, z_p] if has_prior else [z])).split(len(x))
        logits, maps = networks.discriminator(torch.cat([x, *decoded]))
        features = maps[model.similarity_layer].split(len(x))
        parts = [
            (part, {model.similarity_layer: feature})
            for part, feature in zip(logits.split(len(x)), features, strict=True)
        ]
        real, reconstructed, sampled = parts if has_prior else (*parts, parts[0])
        if model.fakes == "prior":
            all_logits = networks.discriminator(torch.cat([x, decoded[0].detach(), decoded[1]]))[0].split(len(x))
            real_in_game, sampled = all_logits[0], (all_logits[2], {})
    difference = real[1][model.similarity_layer].detach() - reconstructed[1][model.similarity_layer]
    l_llike = (difference**2).sum() / 2 / len(x)
    l_gan = -torch.sigmoid(real[0] if real_in_game is None else real_in_game).log().mean()
    if model.fakes in ("both", "reconstruction"):
        l_gan = l_gan - (1 - torch.sigmoid(reconstructed[0])).log().mean()
    if model.fakes in ("both", "prior"):
        l_gan = l_gan - (1 - torch.sigmoid(sampled[0])).log().mean()
    return l_prior, l_llike, l_gan


@pytest.mark.parametrize("batch_norm", ["joint", "paired", "separate", "authors"])
@pytest.mark.parametrize("fakes", ["both", "reconstruction", "prior"])
@pytest.mark.parametrize("layer", ["conv3", "norm3", "relu3", "relu1"])
def test_every_gradient_of_every_network_is_that_of_naive_autograd(
    small_networks: Networks, batch_norm: str, fakes: str, layer: str
) -> None:
    model = build(small_networks, batch_norm=batch_norm, fakes=fakes, similarity_layer=layer)
    step = model.gradients(*given(*batch()))

    def naive(network: nn.Module, objective: str) -> tuple[Tensor, ...]:
        l_prior, l_llike, l_gan = naive_losses(model, *batch())
        loss = {
            "encoder": l_prior + l_llike,
            "decoder": model.gamma * l_llike - l_gan,
            "discriminator": l_gan,
        }[objective]
        return torch.autograd.grad(loss, list(network.parameters()))

    for name in ("encoder", "decoder", "discriminator"):
        expected = naive(getattr(small_networks, name), name)
        actual = getattr(step, name)
        assert len(actual) == len(expected)
        for ours, reference in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fakes", ["both", "reconstruction", "prior"])
def test_the_decoders_cost_in_the_non_saturating_game(small_networks: Networks, fakes: str) -> None:
    """Gradients of the non-saturating game against naive autograd."""
    model = build(small_networks, adversary=adversary_with(game="non_saturating"), fakes=fakes)
    x, epsilon, z_p = batch()
    step = model.gradients(*given(x, epsilon, z_p))
    _, l_llike, _ = naive_losses(model, x, epsilon, z_p)
    networks = model.networks
    mean, log_variance = networks.encoder(x)
    decoded = [networks.decoder(mean + (0.5 * log_variance).exp() * epsilon), networks.decoder(z_p)]
    playing = {"both": decoded, "reconstruction": decoded[:1], "prior": decoded[1:]}[fakes]
    logit, *logits = (networks.discriminator(images)[0] for images in (x, *playing))
    decoder = -sum(torch.sigmoid(each).log().mean() for each in logits)
    discriminator = -torch.sigmoid(logit).log().mean()
    discriminator = discriminator - sum(torch.sigmoid(-each).log().mean() for each in logits)
    expected = torch.autograd.grad(0.3 * l_llike + decoder, list(networks.decoder.parameters()), retain_graph=True)
    torch.testing.assert_close(list(step.decoder), list(expected), rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(discriminator, list(networks.discriminator.parameters()))
    torch.testing.assert_close(list(step.discriminator), list(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("game", ["saturating", "non_saturating"])
@pytest.mark.parametrize("batch_norm", ["joint", "paired", "separate", "authors"])
def test_lecam_is_the_discriminators_alone(small_networks: Networks, batch_norm: str, game: str) -> None:
    options = {"batch_norm": batch_norm, "adversary": adversary_with(game=game)}
    plain = build(small_networks, **options).gradients(*given(*batch()))
    options["adversary"] = adversary_with(game=game, lecam=0.3).double()
    step = build(small_networks, **options).gradients(*given(*batch()))
    torch.testing.assert_close(list(step.decoder), list(plain.decoder), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(step.encoder, plain.encoder)
    torch.testing.assert_close(step.metrics["loss/gan"], plain.metrics["loss/gan"])
    assert not torch.allclose(step.discriminator[0], plain.discriminator[0])


def test_lecam_adds_its_gradient(small_networks: Networks) -> None:
    plain = build(small_networks).gradients(*given(*batch()))
    model = build(small_networks, adversary=adversary_with(lecam=0.3).double())
    step = model.gradients(*given(*batch()))
    x, epsilon, z_p = batch()
    mean, log_variance = small_networks.encoder(x)
    fakes = [small_networks.decoder(mean + (0.5 * log_variance).exp() * epsilon), small_networks.decoder(z_p)]
    real, *logits = (small_networks.discriminator(images)[0] for images in (x, *fakes))
    fake = torch.cat(logits)
    anchors = 0.9 * real.mean().item(), 0.9 * fake.mean().item()
    lecam = (real - anchors[1]).square().mean() + (fake - anchors[0]).square().mean()
    added = torch.autograd.grad(0.3 * lecam, list(small_networks.discriminator.parameters()))
    expected = [a + b for a, b in zip(plain.discriminator, added, strict=True)]
    torch.testing.assert_close(list(step.discriminator), expected, rtol=1e-6, atol=1e-9)


def test_r1_is_taken_at_the_changed_real_images_every_sixteenth_batch() -> None:
    networks = networks_with(discriminator_norm="group")
    uniform = torch.full((6, DiffAugment.DRAWS), 0.5, dtype=torch.float64)
    uniform[:, 0] = 0.7  # 0.2 brighter
    model = build(networks, adversary=adversary_with(r1=3.0, diffaugment=["brightness"]))
    (x, epsilon, z_p), dis = batch(), networks.discriminator
    with_it, without = (
        model.gradients(*given(x, epsilon, z_p, uniform=uniform, step=n)).discriminator for n in (16, 1)
    )
    at = (x + 0.2).requires_grad_()
    (slopes,) = torch.autograd.grad(dis(at)[0].sum(), at, create_graph=True)
    penalty = torch.autograd.grad(
        16 * 3.0 / 2 * slopes.square().sum() / 6, list(dis.parameters()), materialize_grads=True
    )
    expected = [a + b for a, b in zip(without, penalty, strict=True)]
    torch.testing.assert_close(list(with_it), expected, rtol=1e-9, atol=1e-12)
    plain = build(networks, adversary=adversary_with(diffaugment=["brightness"]))
    torch.testing.assert_close(
        plain.gradients(*given(x, epsilon, z_p, uniform=uniform, step=16)).discriminator, without
    )


def test_one_power_iteration_a_step_and_the_same_weights_in_all_passes() -> None:
    networks = networks_with(discriminator_norm="spectral", classes=2)
    model, y = build(networks, batch_norm="separate"), torch.tensor([0, 0, 1, 1, 0, 1])
    layers = {
        name: module.parametrizations.weight
        for name, module in networks.discriminator.named_modules()
        if nn.utils.parametrize.is_parametrized(module)
    }
    assert {"projection", "logit"} < layers.keys()
    before = {name: (layer.original.detach().clone(), layer[0]._u.clone()) for name, layer in layers.items()}
    model.gradients(*given(*batch(), y))
    for name, (weight, u) in before.items():
        matrix = weight.flatten(1)
        v = nn.functional.normalize(matrix.mT @ u, dim=0)
        torch.testing.assert_close(layers[name][0]._u, nn.functional.normalize(matrix @ v, dim=0), msg=name)


def test_without_the_adversarial_term_the_decoder_descends_l_llike_alone(small_networks: Networks) -> None:
    model, reference = build(small_networks, adversarial=False), build(small_networks)
    step, full = model.gradients(*given(*batch())), reference.gradients(*given(*batch()))
    _, l_llike, _ = naive_losses(model, *batch())
    expected = torch.autograd.grad(0.3 * l_llike, list(small_networks.decoder.parameters()))
    torch.testing.assert_close(list(step.decoder), list(expected), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(step.encoder, full.encoder)
    torch.testing.assert_close(step.discriminator, full.discriminator)


def test_a_pixel_term_adds_to_l_llike_for_encoder_and_decoder(small_networks: Networks) -> None:
    step = build(small_networks, sigma=0.5).gradients(*given(*batch()))
    plain, model = build(small_networks).gradients(*given(*batch())), build(small_networks)
    x, epsilon, _ = batch()
    mean, log_variance = small_networks.encoder(x)
    x_tilde = small_networks.decoder(mean + (0.5 * log_variance).exp() * epsilon)
    pixel = -Normal(x_tilde, 0.5).log_prob(x).sum() / 6
    for name, weight in (("encoder", 1.0), ("decoder", model.gamma)):
        parameters = list(getattr(small_networks, name).parameters())
        added = torch.autograd.grad(pixel, parameters, retain_graph=True)
        expected = [a + weight * b for a, b in zip(getattr(plain, name), added, strict=True)]
        torch.testing.assert_close(list(getattr(step, name)), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(step.discriminator, plain.discriminator)
    darker = build(small_networks, sigma=0.5, adversary=adversary_with(diffaugment=["contrast"]))
    uniform = torch.zeros(6, DiffAugment.DRAWS, dtype=torch.float64)
    changed = darker.gradients(*given(x, epsilon, batch()[2], uniform=uniform))
    torch.testing.assert_close(changed.metrics["loss/pixel"], step.metrics["loss/pixel"])


def test_normalised_features_are_standardised_by_the_real_ones_and_weigh_as_pixels(small_networks: Networks) -> None:
    model = build(small_networks, normalised_similarity=True)
    x, epsilon, z_p = batch()
    found = model.gradients(*given(x, epsilon, z_p)).metrics["loss/llike"].item()
    mean, log_variance = small_networks.encoder(x)
    x_tilde = small_networks.decoder(mean + (0.5 * log_variance).exp() * epsilon)
    real, decoded = (small_networks.discriminator(images)[1]["conv3"].detach().numpy() for images in (x, x_tilde))
    deviation = real.std(axis=(0, 2, 3), keepdims=True)
    size = 16 * 16 / (real.shape[1] * real.shape[2] * real.shape[3])
    assert found == pytest.approx(size * 0.5 * (((real - decoded) / deviation) ** 2).sum() / 6, rel=1e-6)


def test_the_discriminator_cannot_scale_normalised_features(small_networks: Networks) -> None:
    def l_llike(normalised: bool, scale: float) -> float:
        model = build(copy.deepcopy(small_networks), normalised_similarity=normalised)
        last = model.networks.discriminator.convolutions[2]["conv"].weight  # type: ignore[index]
        with torch.no_grad():
            last *= scale
        return model.gradients(*given(*batch())).metrics["loss/llike"].item()

    assert l_llike(True, 10.0) == pytest.approx(l_llike(True, 1.0), rel=1e-6)
    assert l_llike(False, 10.0) == pytest.approx(100 * l_llike(False, 1.0), rel=1e-6)


def test_the_encoder_descends_the_weighed_prior(small_networks: Networks) -> None:
    without = build(small_networks, prior=Prior(0.0, 0.0)).gradients(*given(*batch())).encoder
    once = build(small_networks).gradients(*given(*batch())).encoder
    twice = build(small_networks, prior=Prior(2.0, 0.0)).gradients(*given(*batch())).encoder
    for a, b, c in zip(without, once, twice, strict=True):
        torch.testing.assert_close(c - a, 2 * (b - a), rtol=1e-6, atol=1e-10)


def test_augmented_views_reach_the_discriminator_and_the_images_stay(small_networks: Networks) -> None:
    """The same draw for every image is a change of the data: gradients are those of naive autograd on it."""
    uniform = torch.full((6, DiffAugment.DRAWS), 0.5, dtype=torch.float64)
    uniform[:, 0] = 0.7  # 0.2 brighter
    model = build(small_networks, adversary=adversary_with(diffaugment=["brightness"]))
    x, epsilon, z_p = batch()
    step = model.gradients(*given(x, epsilon, z_p, uniform=uniform))
    mean, log_variance = small_networks.encoder(x)
    x_tilde = small_networks.decoder(mean + (0.5 * log_variance).exp() * epsilon)
    seen, seen_tilde = (small_networks.discriminator(images + 0.2)[1]["conv3"] for images in (x, x_tilde))
    l_llike = 0.5 * (seen.detach() - seen_tilde).square().sum() / 6
    torch.testing.assert_close(step.metrics["loss/llike"], l_llike.detach())
    prior = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 6
    expected = torch.autograd.grad(l_llike + prior, list(small_networks.encoder.parameters()))
    torch.testing.assert_close(list(step.encoder), list(expected), rtol=1e-9, atol=1e-12)


def test_classes_stay_with_their_images_where_batches_are_one() -> None:
    """With no batch statistics, how batches are put together changes nothing."""
    networks, y = networks_with(classes=2, norm="group", discriminator_norm="group"), torch.tensor([0, 0, 1, 1, 0, 1])
    one = build(networks, batch_norm="separate").gradients(*given(*batch(), y))
    for batch_norm in ("paired", "joint", "authors"):
        other = build(networks, batch_norm=batch_norm).gradients(*given(*batch(), y))
        for name in ("encoder", "decoder", "discriminator"):
            torch.testing.assert_close(getattr(other, name), getattr(one, name), rtol=1e-6, atol=1e-9)


def test_classes_reach_all_three_networks() -> None:
    networks = networks_with(classes=2)
    x, epsilon, z_p = batch()
    model, y = build(networks), torch.tensor([0, 0, 1, 1, 0, 1])
    step, other = model.gradients(*given(x, epsilon, z_p, y)), model.gradients(*given(x, epsilon, z_p, 1 - y))
    mean, log_variance = networks.encoder(x, y)
    decoded = networks.decoder(mean + (0.5 * log_variance).exp() * epsilon, y), networks.decoder(z_p, y)
    logit, *logits = (networks.discriminator(images, y)[0] for images in (x, *decoded))
    cost = -torch.sigmoid(logit).log().mean() - sum(torch.sigmoid(-each).log().mean() for each in logits)
    torch.testing.assert_close(step.metrics["loss/gan"], cost.detach())
    expected = torch.autograd.grad(cost, list(networks.discriminator.parameters()))
    torch.testing.assert_close(list(step.discriminator), list(expected), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(step.metrics["loss/gan"], other.metrics["loss/gan"])


@pytest.mark.parametrize("batch_norm", ["joint", "paired", "separate", "authors"])
def test_in_bfloat16_losses_stay_float32_and_gradients_keep_their_direction(
    small_networks: Networks, batch_norm: str
) -> None:
    exact = build(small_networks, batch_norm=batch_norm).gradients(*given(*batch()))
    model = build(copy.deepcopy(small_networks), batch_norm=batch_norm).float()
    with torch.autocast("cpu", torch.bfloat16):
        x, epsilon, z_p = (tensor.float() for tensor in batch())
        step = model.gradients(*given(x, epsilon, z_p))
    assert {value.dtype for value in step.metrics.values()} == {torch.float32}
    for name in ("loss/prior", "loss/llike", "loss/gan"):
        assert step.metrics[name].item() == pytest.approx(exact.metrics[name].item(), rel=0.02)
    for name in ("encoder", "decoder", "discriminator"):
        ours, reference = (torch.cat([g.flatten().double() for g in getattr(s, name)]) for s in (step, exact))
        assert {gradient.dtype for gradient in getattr(step, name)} == {torch.float32}
        # Rounding turns them by up to 30 degrees here, where batch norm has no more than six images.
        assert torch.cosine_similarity(ours, reference, dim=0) > 0.8


def test_losses_are_those_of_their_definitions(small_networks: Networks) -> None:
    model = build(small_networks)
    metrics = model.gradients(*given(*batch())).metrics
    l_prior, l_llike, l_gan = naive_losses(model, *batch())
    for name, expected in (("prior", l_prior), ("llike", l_llike), ("gan", l_gan)):
        torch.testing.assert_close(metrics[f"loss/{name}"], expected.detach())
    costs = [metrics[f"discriminator/cost_{name}"] for name in ("real", "reconstruction", "prior")]
    torch.testing.assert_close(torch.stack(costs).sum(), l_gan.detach())


def test_neither_parameters_nor_grad_fields_change(small_networks: Networks) -> None:
    model = build(small_networks)
    before = copy.deepcopy(list(model.parameters()))
    model.gradients(*given(*batch()))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def gradients(networks: Networks, **options: Any) -> dict[str, Tensor]:
    step = build(networks, **options).gradients(*given(*batch()))
    names = ("encoder", "decoder", "discriminator")
    return {name: torch.cat([g.flatten() for g in getattr(step, name)]) for name in names}


def test_gamma_weighs_the_decoder_only(small_networks: Networks) -> None:
    small, large = gradients(small_networks, gamma=0.1), gradients(small_networks, gamma=10.0)
    torch.testing.assert_close(small["encoder"], large["encoder"], rtol=0, atol=0)
    torch.testing.assert_close(small["discriminator"], large["discriminator"], rtol=0, atol=0)
    assert not torch.allclose(small["decoder"], large["decoder"])


def test_the_encoder_gets_no_adversarial_gradient(small_networks: Networks) -> None:
    with_both, without_x_tilde = gradients(small_networks), gradients(small_networks, fakes="prior")
    torch.testing.assert_close(with_both["encoder"], without_x_tilde["encoder"], rtol=0, atol=0)
    assert not torch.allclose(with_both["decoder"], without_x_tilde["decoder"])


def test_the_discriminator_gets_no_gradient_of_l_llike(small_networks: Networks) -> None:
    shallow, deep = gradients(small_networks, similarity_layer="conv1"), gradients(small_networks)
    torch.testing.assert_close(shallow["discriminator"], deep["discriminator"], rtol=0, atol=0)
    assert not torch.allclose(shallow["encoder"], deep["encoder"])


@pytest.mark.parametrize(
    ("network", "gamma", "objective", "sign"),
    [
        ("encoder", 0.3, lambda prior, llike, gan: prior + llike, -1),
        ("decoder", 0.0, lambda prior, llike, gan: gan, +1),
        ("decoder", 1e6, lambda prior, llike, gan: llike, -1),
        ("discriminator", 0.3, lambda prior, llike, gan: gan, -1),
    ],
    ids=[
        "encoder descends L_prior + L_llike",
        "decoder ascends the cost",
        "decoder descends L_llike",
        "dis descends it",
    ],
)
def test_a_step_of_one_network_moves_its_objective_the_right_way(
    small_networks: Networks, network: str, gamma: float, objective: Any, sign: int
) -> None:
    model = build(small_networks, gamma=gamma)
    before = objective(*naive_losses(model, *batch()))
    step = model.gradients(*given(*batch()))
    direction = getattr(step, network)
    scale = 1e-3 / torch.cat([g.flatten() for g in direction]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(getattr(model.networks, network).parameters(), direction, strict=True):
            parameter -= scale * gradient
    after = objective(*naive_losses(model, *batch()))
    assert sign * (after - before).item() > 0


def test_gradient_ratio_is_that_of_the_two_pulls_on_the_decoded_images(small_networks: Networks) -> None:
    model = build(small_networks)
    x, epsilon, z_p = batch()
    dec, dis = model.networks.decoder, model.networks.discriminator
    mean, log_variance = model.networks.encoder(x)
    x_tilde = dec(mean + (0.5 * log_variance).exp() * epsilon).detach().requires_grad_()
    x_p = dec(z_p).detach().requires_grad_()
    (logits, maps), target = dis(x_tilde), dis(x)[1]["conv3"].detach()
    llike = torch.autograd.grad(((target - maps["conv3"]) ** 2).sum() / 12, x_tilde, retain_graph=True)[0]
    gan = torch.autograd.grad(
        -(torch.sigmoid(-logits).log().mean() + torch.sigmoid(-dis(x_p)[0]).log().mean()), [x_tilde, x_p]
    )
    expected = 0.3 * llike.norm() / torch.sqrt(gan[0].square().sum() + gan[1].square().sum())
    ratio = model.gradients(*given(x, epsilon, z_p)).metrics["decoder/gradient_ratio"]
    assert ratio.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("cost_real", "cost_fake", "decoder", "discriminator"),
    [
        (0.68, 0.68, True, True),
        (0.32, 0.68, True, False),  # a cost under 0.33: the discriminator rests
        (0.68, 0.32, True, False),
        (1.04, 0.68, False, True),  # a cost over 1.03: the decoder rests
        (0.68, 1.04, False, True),
        (1.04, 0.32, True, True),  # both would rest: both go on
    ],
)
def test_gate_follows_the_authors_rule(cost_real: float, cost_fake: float, decoder: bool, discriminator: bool) -> None:
    assert EquilibriumGate(0.68, 0.35)(cost_real, cost_fake) == (decoder, discriminator)


@pytest.mark.parametrize(
    ("fakes", "entering"),
    [("both", ["reconstruction", "prior"]), ("prior", ["prior"]), ("reconstruction", ["reconstruction"])],
)
def test_the_gate_is_told_the_mean_cost_of_the_fakes_in_the_game(
    small_networks: Networks, fakes: str, entering: list[str]
) -> None:
    step = build(small_networks, fakes=fakes).gradients(*given(*batch()))
    costs = [step.metrics[f"discriminator/cost_{name}"].item() for name in entering]
    assert step.cost_real is not None
    assert step.cost_fake is not None
    assert step.cost_real.item() == step.metrics["discriminator/cost_real"].item()
    assert step.cost_fake.item() == pytest.approx(sum(costs) / len(costs))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("gamma", -1.0, "model.gamma=-1.0: must be a number of at least 0"),
        ("gamma", float("nan"), "model.gamma=nan"),
        ("similarity_layer", "conv9", "model.similarity_layer=conv9: must be one of conv1, norm1, relu1"),
        ("fakes", "none", "model.fakes=none: must be one of both, reconstruction, prior"),
        ("batch_norm", "both", "model.batch_norm=both: must be one of joint, paired, separate, authors"),
        ("gate", "equilibrium", r"model.gate=equilibrium: use model/gate=equilibrium \(with a slash\)"),
        ("sigma", 0.0, "model.sigma=0.0: must be a positive number or learned"),
    ],
)
def test_options_out_of_range_are_refused(small_networks: Networks, option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(small_networks, **{option: value})


def test_r1_needs_an_image_to_be_judged_alone(small_networks: Networks) -> None:
    with pytest.raises(ValueError, match=r"model.adversary.r1: .*use model.networks.discriminator_norm=group"):
        build(small_networks, adversary=adversary_with(r1=1.0))
    alone = networks_with(discriminator_norm="group")
    with pytest.raises(ValueError, match=r"model.gate: .*use model.adversary.r1=0"):
        build(alone, gate=EquilibriumGate(0.68, 0.35), adversary=adversary_with(r1=1.0))


def test_a_gate_needs_a_game_and_numbers(small_networks: Networks) -> None:
    with pytest.raises(ValueError, match=r"model.gate: .*use model.adversarial=true"):
        build(small_networks, gate=EquilibriumGate(0.68, 0.35), adversarial=False)
    for name, value in (("equilibrium", float("nan")), ("margin", -1.0), ("margin", float("inf"))):
        with pytest.raises(ValueError, match=f"model.gate.{name}={value}: must be a finite number of at least 0"):
            EquilibriumGate(**{"equilibrium": 0.68, "margin": 0.35, name: value})
