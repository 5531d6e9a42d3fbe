"""The three networks of the report's table: encoder, decoder and discriminator.

Every network is a plain function of tensors; none of them knows configuration, training or Lightning.
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

INNER_KERNEL = 5
UP_KERNEL = 6


def _down(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, INNER_KERNEL, stride=2, padding=2, bias=False)


def _up(channels_in: int, channels_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels_out, UP_KERNEL, stride=2, padding=2, bias=False)


def _side_after(image_size: int, stages: int) -> int:
    if image_size < 2**stages or image_size % 2**stages:
        raise ValueError(f"image_size={image_size} cannot be halved {stages} times; use a multiple of {2**stages}")
    return int(image_size // 2**stages)


class Encoder(nn.Module):
    """q(z|x): strided 5x5 convolutions, one hidden layer, two linear heads (report, Table of networks).

    Args:
        image_size: side of the square input, a multiple of `2 ** len(channels)`.
        image_channels: colour channels of the input (1 for MRI).
        channels: output channels of the strided convolutions, input side first.
        features: width of the hidden layer.
        latent_dim: dimension of z.

    Raises:
        ValueError: if `image_size` cannot be halved once per convolution.
    """

    def __init__(
        self, image_size: int, image_channels: int, channels: Sequence[int], features: int, latent_dim: int
    ) -> None:
        super().__init__()
        side = _side_after(image_size, len(channels))
        stages: list[nn.Module] = []
        for channels_in, channels_out in zip([image_channels, *channels], channels, strict=False):
            stages += [_down(channels_in, channels_out), nn.BatchNorm2d(channels_out), nn.ReLU()]
        self.convolutions = nn.Sequential(*stages)
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * side**2, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(),
        )
        self.mean = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)

    def forward(
        self, x: Float[Tensor, "batch channel side side"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean mu and log-variance log sigma^2 of q(z|x), for images in [-1, 1]."""
        features = self.hidden(self.convolutions(x))
        return self.mean(features), self.log_variance(features)


class Decoder(nn.Module):
    """p(x|z): one linear layer, stride-2 6x6 transposed convolutions, a 5x5 convolution and tanh (report, Table).

    A 6x6 kernel with padding 2 doubles the side exactly.

    Args:
        image_size: side of the square output, a multiple of `2 ** (len(channels) - 1)`.
        image_channels: colour channels of the output.
        channels: channels of the linear layer's map, then of each transposed convolution's output.
        latent_dim: dimension of z.

    Raises:
        ValueError: if `image_size` cannot be halved once per transposed convolution.
    """

    def __init__(self, image_size: int, image_channels: int, channels: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        side = _side_after(image_size, len(channels) - 1)
        first = channels[0] * side**2
        self.hidden = nn.Sequential(
            nn.Linear(latent_dim, first, bias=False),
            nn.BatchNorm1d(first),
            nn.ReLU(),
            nn.Unflatten(1, (channels[0], side, side)),
        )
        stages: list[nn.Module] = []
        for channels_in, channels_out in pairwise(channels):
            stages += [_up(channels_in, channels_out), nn.BatchNorm2d(channels_out), nn.ReLU()]
        self.convolutions = nn.Sequential(*stages)
        self.image = nn.Sequential(nn.Conv2d(channels[-1], image_channels, INNER_KERNEL, padding=2), nn.Tanh())

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channel side side"]:
        """Images in [-1, 1]."""
        images: Tensor = self.image(self.convolutions(self.hidden(z)))
        return images


class Discriminator(nn.Module):
    """Dis: strided 5x5 convolutions, one hidden layer, one logit (report, Table; the sigmoid is in the losses).

    Args:
        image_size: side of the square input, a multiple of `2 ** len(channels)`.
        image_channels: colour channels of the input.
        channels: output channels of the strided convolutions, input side first.
        features: width of the hidden layer.

    Raises:
        ValueError: if `image_size` cannot be halved once per convolution.
    """

    def __init__(self, image_size: int, image_channels: int, channels: Sequence[int], features: int) -> None:
        super().__init__()
        side = _side_after(image_size, len(channels))
        self.convolutions = nn.ModuleList(
            nn.ModuleDict(
                {"conv": _down(channels_in, channels_out), "norm": nn.BatchNorm2d(channels_out), "relu": nn.ReLU()}
            )
            for channels_in, channels_out in zip([image_channels, *channels], channels, strict=False)
        )
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * side**2, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(),
        )
        self.logit = nn.Linear(features, 1)

    @property
    def layers(self) -> list[str]:
        """Names of the feature maps that `forward` returns, input side first: conv1, norm1, relu1, conv2, ..."""
        return [f"{kind}{i}" for i in range(1, len(self.convolutions) + 1) for kind in ("conv", "norm", "relu")]

    def forward(
        self, x: Float[Tensor, "batch channel side side"]
    ) -> tuple[Float[Tensor, " batch"], dict[str, Float[Tensor, "batch feature height width"]]]:
        """Logit of Dis(x) = p(x is real), and every Dis_l(x) by layer name, for images in [-1, 1]."""
        maps: dict[str, Tensor] = {}
        for i, stage in enumerate(self.convolutions, start=1):
            assert isinstance(stage, nn.ModuleDict)
            for kind, module in stage.items():
                x = maps[f"{kind}{i}"] = module(x)
        return self.logit(self.hidden(x)).squeeze(1), maps


class Networks(nn.Module):
    """Encoder, decoder and discriminator of one VAE/GAN, built from plain numbers.

    Args:
        image_size: side of the square images.
        image_channels: colour channels of the images.
        latent_dim: dimension of z.
        encoder_channels: see `Encoder`.
        encoder_features: see `Encoder`.
        decoder_channels: see `Decoder`.
        discriminator_channels: see `Discriminator`.
        discriminator_features: see `Discriminator`.

    Raises:
        ValueError: if `image_size` does not fit the number of stages of a network.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        latent_dim: int,
        encoder_channels: Sequence[int],
        encoder_features: int,
        decoder_channels: Sequence[int],
        discriminator_channels: Sequence[int],
        discriminator_features: int,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.image_channels = image_channels
        self.latent_dim = latent_dim
        self.encoder = Encoder(image_size, image_channels, encoder_channels, encoder_features, latent_dim)
        self.decoder = Decoder(image_size, image_channels, decoder_channels, latent_dim)
        self.discriminator = Discriminator(image_size, image_channels, discriminator_channels, discriminator_features)
        self.arguments: dict[str, int | list[int]] = {
            "image_size": image_size,
            "image_channels": image_channels,
            "latent_dim": latent_dim,
            "encoder_channels": list(encoder_channels),
            "encoder_features": encoder_features,
            "decoder_channels": list(decoder_channels),
            "discriminator_channels": list(discriminator_channels),
            "discriminator_features": discriminator_features,
        }
