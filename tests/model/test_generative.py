"""Averages of networks, against the recursion by hand."""

import pytest
import torch

from ..conftest import networks_with, vaegan


def test_averages_follow_their_recursion_running_statistics_included() -> None:
    model = vaegan(networks_with(), ema=0.3)
    decoder = model.networks.decoder
    expected = {name: value.clone() for name, value in decoder.state_dict().items()}
    for step in range(4):
        with torch.no_grad():
            for parameter in model.networks.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
            decoder(torch.randn(6, 5, generator=torch.Generator().manual_seed(step)))
        model.update_averages(step)
        decay = min(0.3, (1 + step) / (10 + step))  # 0.1, 2/11, 0.25 and then 0.3
        for name, value in decoder.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    found = model.inference_networks.decoder.state_dict()
    for name, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[name], value)
        else:
            assert torch.equal(found[name], decoder.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in model.averages.parameters())
    assert not torch.allclose(found["image.0.weight"], decoder.state_dict()["image.0.weight"])


def test_encoder_and_decoder_are_averaged_the_discriminator_is_not() -> None:
    model = vaegan(networks_with(), ema=0.9)
    used = model.inference_networks
    assert used.decoder is not model.networks.decoder
    assert used.encoder is not model.networks.encoder
    assert used.discriminator is model.networks.discriminator
    assert used.names == ["encoder", "decoder", "discriminator"]
    assert used.arguments == model.networks.arguments
    assert model.networks.decoder is not used.decoder


def test_without_averages_the_networks_themselves_are_used() -> None:
    model = vaegan(networks_with())
    assert model.inference_networks is model.networks
    assert not any("averages" in name for name in model.state_dict())


@pytest.mark.parametrize("ema", [1.0, -0.1, float("nan"), "yes", False])
def test_decays_out_of_range_are_refused(ema: object) -> None:
    with pytest.raises(ValueError, match=f"model.ema={ema}: must be null or a number"):
        vaegan(networks_with(), ema=ema)


def test_a_model_refuses_networks_that_it_is_not_made_of() -> None:
    with pytest.raises(ValueError, match="has decoder, discriminator; this model needs encoder, decoder, discr"):
        vaegan(networks_with(encoder_channels=None))
