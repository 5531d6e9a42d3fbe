import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.model.networks import Encoder, Networks, for_image_size

from ..conftest import SMALL_NETWORKS, networks_with


def from_table(model: str, image_size: int = 64) -> Networks:
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        config = compose("train", [f"model={model}", f"data.image_size={image_size}"])
    networks: Networks = instantiate(config.model.networks, _convert_="all")
    return networks


@pytest.fixture(scope="module")
def larsen() -> Networks:
    return from_table("larsen")


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


@pytest.mark.parametrize(("size", "nearest"), [(36, "32 or 40"), (100, "96 or 104"), (250, "240 or 256"), (5, "8")])
def test_sizes_that_networks_cannot_take_are_refused_with_the_nearest_that_work(size: int, nearest: str) -> None:
    sizes = {**SMALL_NETWORKS, "encoder_channels": [2, 2, 2], "decoder_channels": [2, 2, 2, 2], "latent_dim": 2}
    sizes |= {"discriminator_channels": [2, 2, 2, 2], "discriminator_first_stride": 1, "image_channels": 1}
    with pytest.raises(ValueError, match=f"data.image_size={size}: .* times; use {nearest}$"):
        for_image_size(size, **sizes)
    for works in map(int, nearest.split(" or ")):
        assert for_image_size(works, **sizes).image_size == works


def test_an_image_that_cannot_be_halved_often_enough_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size=36 cannot be halved 3 times; use a multiple of 8"):
        Encoder(36, 1, [4, 4, 4], 8, 2, "batch", 0)


def test_the_papers_networks_have_the_parameters_of_its_table() -> None:
    paper = from_table("larsen2015")
    ups = 25 * (256 * 256 + 256 * 128 + 128 * 32)
    norms = 2 * (8 * 8 * 256 + 256 + 128 + 32)
    assert parameters(paper.decoder) == 128 * 8 * 8 * 256 + ups + norms + 25 * 32 + 1
    convolutions = 25 * (1 * 32 + 32 * 128 + 128 * 256 + 256 * 256) + 32  # the first has a bias, and no norm
    norms = 2 * (128 + 256 + 256 + 512)
    assert parameters(paper.discriminator) == convolutions + norms + 8 * 8 * 256 * 512 + 512 + 1
    image = paper.decoder(torch.randn(2, 128))
    _, maps = paper.discriminator(image)
    assert image.shape == (2, 1, 64, 64)
    assert [tuple(maps[f"conv{i}"].shape[1:]) for i in (1, 2, 3, 4)] == [
        (32, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
        (256, 8, 8),
    ]


@pytest.mark.parametrize("model", ["larsen", "larsen2015"])
def test_larger_images_get_one_stage_more(model: str) -> None:
    networks = from_table(model, 128)
    assert networks.arguments["encoder_channels"] == [64, 128, 256, 256]
    assert networks.arguments["decoder_channels"] == [256, 256, 256, 128, 32]
    assert networks.arguments["discriminator_channels"] == [32, 128, 256, 256, 256]
    x = torch.rand(2, 1, 128, 128) * 2 - 1
    assert networks.encoder.convolutions(x).shape == (2, 256, 8, 8)
    assert networks.decoder.hidden(torch.randn(2, 128)).shape == (2, 256, 8, 8)
    assert networks.decoder(networks.encoder(x)[0]).shape == x.shape
    last = networks.discriminator(x)[1]["conv5"]
    assert last.shape[1:] == ((256, 4, 4) if model == "larsen" else (256, 8, 8))


@pytest.mark.parametrize(("image_size", "stages"), [(32, 3), (64, 3), (128, 4), (256, 5)])
def test_the_smallest_map_keeps_its_side_from_64_pixels_on(image_size: int, stages: int) -> None:
    channels = from_table("larsen", image_size).arguments["encoder_channels"]
    assert len(channels) == stages


def test_group_norm_treats_every_image_alone() -> None:
    networks = networks_with(norm="group", discriminator_norm="group").train()
    x, z = torch.randn(4, 1, 16, 16), torch.randn(4, 5)
    torch.testing.assert_close(networks.encoder(x)[0][:1], networks.encoder(x[:1])[0])
    torch.testing.assert_close(networks.decoder(z)[:1], networks.decoder(z[:1]))
    torch.testing.assert_close(networks.discriminator(x)[0][:1], networks.discriminator(x[:1])[0])
    assert not [name for name, _ in networks.named_buffers()]


def test_group_norm_takes_sixteen_channels_together_where_they_divide() -> None:
    channels = {"encoder_channels": [16, 32, 48], "decoder_channels": [48, 32, 16, 10]}
    networks = networks_with(norm="group", **channels)
    found = {m.num_channels: m.num_groups for m in networks.modules() if isinstance(m, torch.nn.GroupNorm)}
    assert found == {16: 1, 32: 2, 48: 3, 10: 5}


def test_spectral_norm_gives_every_weight_a_largest_singular_value_of_one() -> None:
    dis = networks_with(discriminator_norm="spectral").discriminator.train()
    for _ in range(200):
        dis(torch.randn(2, 1, 16, 16))
    weights = [module.weight for module in dis.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weights) == 5
    for weight in weights:
        matrix = weight.detach().flatten(1).numpy()
        assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1, rel=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d) for module in dis.modules())


def test_a_conditional_discriminator_adds_the_projection_on_the_class() -> None:
    dis = networks_with(classes=3).discriminator.eval()
    x, y = torch.randn(4, 1, 16, 16), torch.tensor([0, 2, 1, 2])
    features = dis.hidden(dis(x, y)[1]["relu3"]).detach().numpy()
    weights = dis.projection.weight.detach().numpy()
    expected = features @ dis.logit.weight.detach().numpy()[0] + dis.logit.bias.item()
    expected += np.array([weights[label] @ row for label, row in zip(y.tolist(), features, strict=True)])
    np.testing.assert_allclose(dis(x, y)[0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_conditional_encoder_and_decoder_add_the_column_of_the_class() -> None:
    networks = networks_with(classes=3).eval()
    z, y = torch.randn(4, 5), torch.tensor([0, 2, 1, 2])
    linear = networks.decoder.hidden[0]
    assert isinstance(linear, torch.nn.Linear)
    inner = z @ linear.weight[:, :5].T + linear.weight[:, 5:].T[y]
    expected = networks.decoder.image(networks.decoder.convolutions(networks.decoder.hidden[1:](inner)))
    torch.testing.assert_close(networks.decoder(z, y), expected)
    x = torch.randn(4, 1, 16, 16)
    means = [networks.encoder(x, torch.full((4,), label))[0] for label in (0, 1)]
    assert not torch.allclose(*means)


@pytest.mark.parametrize("name", ["encoder", "decoder", "discriminator"])
def test_conditional_networks_ask_for_the_class(name: str) -> None:
    networks = networks_with(classes=3).eval()
    inputs = torch.randn(2, 5) if name == "decoder" else torch.randn(2, 1, 16, 16)
    with pytest.raises(ValueError, match="needs the class of every image"):
        getattr(networks, name)(inputs)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("decoder_kernel", 4, "model.networks.decoder_kernel=4: must be one of 5, 6"),
        ("norm", "spectral", "model.networks.norm=spectral: must be one of batch, group"),
        ("discriminator_norm", "none", "must be one of batch, group, spectral"),
        ("discriminator_first_stride", 3, "must be one of 1, 2"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        networks_with(**{option: value})
