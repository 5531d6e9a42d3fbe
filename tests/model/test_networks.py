import pytest
import torch

from vaegan_pl.model.networks import Encoder, Networks


@pytest.fixture(scope="module")
def larsen() -> Networks:
    return Networks(64, 1, 128, [64, 128, 256], 2048, [256, 256, 128, 32], [32, 128, 256, 256], 512)


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_encoder_has_the_parameters_of_the_reports_table(larsen: Networks) -> None:
    convolutions = 25 * (1 * 64 + 64 * 128 + 128 * 256)
    norms = 2 * (64 + 128 + 256 + 2048)
    hidden = 8 * 8 * 256 * 2048
    heads = 2 * (2048 * 128 + 128)
    assert parameters(larsen.encoder) == convolutions + norms + hidden + heads == 35_109_568


def test_decoder_has_the_parameters_of_the_reports_table(larsen: Networks) -> None:
    hidden = 128 * 8 * 8 * 256
    ups = 36 * (256 * 256 + 256 * 128 + 128 * 32)
    norms = 2 * (8 * 8 * 256 + 256 + 128 + 32)
    image = 25 * 32 + 1
    assert parameters(larsen.decoder) == hidden + ups + norms + image == 5_817_953


def test_discriminator_has_the_parameters_of_the_reports_table(larsen: Networks) -> None:
    convolutions = 25 * (1 * 32 + 32 * 128 + 128 * 256 + 256 * 256)
    norms = 2 * (32 + 128 + 256 + 256 + 512)
    hidden = 4 * 4 * 256 * 512
    logit = 512 + 1
    assert parameters(larsen.discriminator) == convolutions + norms + hidden + logit == 4_660_833


def test_shapes_follow_the_reports_table(larsen: Networks) -> None:
    x = torch.rand(2, 1, 64, 64) * 2 - 1
    shapes = {}
    for name, module in larsen.named_modules():
        module.register_forward_hook(lambda _m, _i, output, name=name: shapes.update({name: output}))
    mean, log_variance = larsen.encoder(x)
    image = larsen.decoder(mean)
    logits, maps = larsen.discriminator(image)
    assert mean.shape == log_variance.shape == (2, 128)
    assert [tuple(shapes[f"encoder.convolutions.{i}"].shape[1:]) for i in (0, 3, 6)] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
    ]
    assert shapes["encoder.hidden.1"].shape == (2, 2048)
    assert shapes["decoder.hidden"].shape == (2, 256, 8, 8)
    assert [tuple(shapes[f"decoder.convolutions.{i}"].shape[1:]) for i in (0, 3, 6)] == [
        (256, 16, 16),
        (128, 32, 32),
        (32, 64, 64),
    ]
    assert image.shape == (2, 1, 64, 64)
    assert image.abs().max() <= 1
    assert [tuple(maps[f"conv{i}"].shape[1:]) for i in (1, 2, 3, 4)] == [
        (32, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (256, 4, 4),
    ]
    assert logits.shape == (2,)


def test_feature_maps_are_the_convolution_its_norm_and_its_activation(small_networks: Networks) -> None:
    dis = small_networks.discriminator.eval()
    x = torch.rand(2, 1, 16, 16)
    _, maps = dis(x)
    assert list(maps) == dis.layers
    raw = torch.nn.functional.conv2d(x, dis.state_dict()["convolutions.0.conv.weight"], stride=2, padding=2)
    normed = raw / (1 + 1e-5) ** 0.5  # fresh running statistics: mean 0, variance 1
    torch.testing.assert_close(maps["conv1"], raw)
    torch.testing.assert_close(maps["norm1"], normed)
    torch.testing.assert_close(maps["relu1"], normed.clamp(min=0))


def test_an_image_that_cannot_be_halved_often_enough_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size=36 cannot be halved 3 times; use a multiple of 8"):
        Encoder(36, 1, [4, 4, 4], 8, 2)
