"""The two steps that the benchmark times: that they do what they are said to do."""

import copy
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from vaegan_pl.benchmark.lean import LeanStep
from vaegan_pl.benchmark.naive import NaiveStep
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.baselines import GAN
from vaegan_pl.model.networks import Networks
from vaegan_pl.training.lightning_module import VAEGANModule

from ..conftest import adversary_with, networks_with, vaegan

NETWORKS = VAEGAN.NETWORKS

X = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rmsprop(networks: Networks) -> list[torch.optim.Optimizer]:
    return [torch.optim.RMSprop(getattr(networks, name).parameters(), lr=1e-3) for name in NETWORKS]


def lean(networks: Networks, bfloat16: bool = False) -> LeanStep:
    model = vaegan(networks, batch_norm="paired")
    factories = {name: partial(torch.optim.RMSprop, lr=1e-3) for name in NETWORKS}
    return LeanStep(VAEGANModule(model, factories, None, seed=0), bfloat16)


def passes(networks: Networks, step: Any) -> Counter[str]:
    count: Counter[str] = Counter()
    for name in NETWORKS:
        getattr(networks, name).register_forward_hook(lambda *_, name=name: count.update([name]))
    step(X)
    return count


def test_the_naive_loop_makes_the_passes_of_the_ports(small_networks: Networks) -> None:
    count = passes(small_networks, NaiveStep(small_networks, rmsprop(small_networks), 0.3, "conv3"))
    assert count == {"encoder": 2, "decoder": 3, "discriminator": 10}


def test_the_lean_step_passes_each_image_once(small_networks: Networks) -> None:
    images: Counter[str] = Counter()
    for name in NETWORKS:
        network = getattr(small_networks, name)
        network.register_forward_hook(lambda _, inputs, __, name=name: images.update({name: len(inputs[0])}))
    lean(small_networks)(X)
    assert images == {"encoder": 6, "decoder": 12, "discriminator": 18}


@pytest.mark.parametrize("kind", ["naive", "lean"])
def test_a_step_moves_every_network(small_networks: Networks, kind: str) -> None:
    naive = NaiveStep(small_networks, rmsprop(small_networks), 0.3, "conv3")
    step: Any = naive if kind == "naive" else lean(small_networks)
    before = {name: parameter.clone() for name, parameter in small_networks.named_parameters()}
    step(X)
    assert all(not torch.equal(before[name], parameter) for name, parameter in small_networks.named_parameters())


def test_flops_by_hand(small_networks: Networks) -> None:
    """Multiply-adds of one image and pass, from the sizes in `small_networks`, times the passes that a step needs."""
    encoder = [8 * 8 * 25 * 3, 4 * 4 * 25 * 3 * 4, 64 * 7, 7 * 5, 7 * 5]
    decoder = [5 * 96, 4 * 4 * 36 * 6 * 4, 8 * 8 * 36 * 4 * 3, 16 * 16 * 25 * 3]
    discriminator = [8 * 8 * 25 * 3, 4 * 4 * 25 * 3 * 4, 2 * 2 * 25 * 4 * 5, 20 * 6, 6]
    to_similarity_layer = sum(discriminator[:3])
    per_image = (
        # x: forward, weights, and data but for the first layer
        sum(encoder) * 3 - encoder[0]
        # x_tilde and x_p: forward; x_tilde: L_llike's data gradient; both: weights, and data but for the first layer
        + sum(decoder) * 2 + sum(decoder) + sum(decoder) * 4 - 2 * decoder[0]
        # three: forward; x and x_tilde, one batch: L_llike's data gradient; three: weights and data
        + sum(discriminator) * 3 + 2 * to_similarity_layer + sum(discriminator) * 6
    )  # fmt: skip
    assert lean(small_networks).flops(X) == pytest.approx(2 * len(X) * per_image, rel=0.02)


def test_parts_are_those_of_the_step_and_take_it_once(small_networks: Networks) -> None:
    other = copy.deepcopy(small_networks)
    torch.manual_seed(0)
    lean(other)(X)
    torch.manual_seed(0)
    parts = lean(small_networks).parts(X)
    assert set(parts) == {*NETWORKS, "optimizers", "losses and norms"}
    assert all(seconds > 0 for seconds in parts.values())
    for ours, plain in zip(small_networks.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, plain)
    assert not any("forward" in vars(getattr(small_networks, name)) for name in NETWORKS)


def test_a_gan_has_no_encoder_to_time() -> None:
    model = GAN(networks_with(encoder_channels=None), adversary_with(), None)
    factories = {name: partial(torch.optim.RMSprop, lr=1e-3) for name in GAN.NETWORKS}
    step = LeanStep(VAEGANModule(model, factories, None, seed=0), bfloat16=False)
    assert set(step.parts(X)) == {"decoder", "discriminator", "optimizers", "losses and norms"}
    assert 0 < step.flops(X) < lean(networks_with()).flops(X)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(small_networks: Networks) -> None:
    seen: list[torch.dtype] = []
    small_networks.decoder.convolutions.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    step = lean(small_networks, bfloat16=True)
    step(X)
    assert set(seen) == {torch.bfloat16}
    kept = [*small_networks.state_dict().values()]
    kept += [value for o in step.optimizers for state in o.state.values() for value in state.values()]
    floats = [value for value in kept if isinstance(value, Tensor) and value.is_floating_point()]
    assert floats
    assert {value.dtype for value in floats} == {torch.float32}


def test_sampling_leaves_the_network_in_training_mode(small_networks: Networks) -> None:
    step = lean(small_networks)
    step.sample(4)
    assert small_networks.decoder.training
