"""The three networks of the report's table: encoder, decoder and discriminator.

Every network is a plain function of tensors, independent of configuration, training and Lightning. With `classes` they
also take the images' class indices `y`: encoder and decoder append them to the hidden layer's input (Sohn et al. 2015,
"Learning structured output representation using deep conditional generative models"); the discriminator uses projection
(arXiv 1802.05637).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

INNER_KERNEL = 5
REPORT_SIZE = 64
"""Side of the images in the report's and the paper's tables."""

GROUP = 16
"""Channels per group of group norm (arXiv 1803.08494, Table 3); fewer if a layer's channels are not a multiple."""

Norm = Literal["batch", "group"]
DiscriminatorNorm = Literal["batch", "group", "spectral"]
Labels = Int64[Tensor, " batch"]


def _norm2d(kind: str, channels: int) -> nn.Module:
    return (
        nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(channels // math.gcd(GROUP, channels), channels)
    )


def _norm1d(kind: str, features: int) -> nn.Module:
    return nn.BatchNorm1d(features) if kind == "batch" else nn.LayerNorm(features)


def _down(channels_in: int, channels_out: int, stride: int = 2, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, INNER_KERNEL, stride=stride, padding=2, bias=bias)


def _up(channels_in: int, channels_out: int, kernel: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels_out, kernel, 2, padding=2, output_padding=kernel % 2, bias=False)


def _with_class(features: Float[Tensor, "batch feature"], y: Labels | None, classes: int) -> Tensor:
    """The features, followed by the one-hot class in a conditional network."""
    if not classes:
        return features
    if y is None:
        raise ValueError("a conditional network needs the class of every image")
    return torch.cat([features, F.one_hot(y, classes).to(features.dtype)], 1)


def _check_size(image_size: int, stages: int) -> None:
    """Check that images can be halved so many times.

    Raises:
        ValueError: names the nearest sizes that can.
    """
    step = 2**stages
    if image_size < step or image_size % step:
        below = image_size // step * step
        nearest = f"{below} or {below + step}" if below else str(step)
        raise ValueError(
            f"data.image_size={image_size}: the model's networks halve images {stages} times; use {nearest}"
        )


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
        norm: normalisation after each layer: `batch`, or `group` (layer norm in the hidden layer).
        classes: number of classes; 0 for a network that takes no labels.

    Raises:
        ValueError: if `image_size` cannot be halved once per convolution.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        channels: Sequence[int],
        features: int,
        latent_dim: int,
        norm: Norm,
        classes: int,
    ) -> None:
        super().__init__()
        self.classes = classes
        side = _side_after(image_size, len(channels))
        stages: list[nn.Module] = []
        for channels_in, channels_out in zip([image_channels, *channels], channels, strict=False):
            stages += [_down(channels_in, channels_out), _norm2d(norm, channels_out), nn.ReLU()]
        self.convolutions = nn.Sequential(*stages)
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * side**2 + classes, features, bias=False),
            _norm1d(norm, features),
            nn.ReLU(),
        )
        self.mean = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)

    def forward(
        self, x: Float[Tensor, "batch channel side side"], y: Labels | None = None
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean mu and log-variance log sigma^2 of q(z|x), for images in [-1, 1]."""
        features = self.hidden(_with_class(self.convolutions(x).flatten(1), y, self.classes))
        return self.mean(features), self.log_variance(features)


class Decoder(nn.Module):
    """p(x|z): one linear layer, stride-2 transposed convolutions, a 5x5 convolution and tanh (report, Table).

    A kernel of 6 with padding 2 doubles the side exactly; the paper's kernel of 5 needs one row and column of output
    padding.

    Args:
        image_size: side of the square output, a multiple of `2 ** (len(channels) - 1)`.
        image_channels: colour channels of the output.
        channels: channels of the linear layer's output map, then of the output of each transposed convolution.
        latent_dim: dimension of z.
        kernel: side of the transposed convolutions' kernels, 5 or 6.
        norm: see `Encoder`.
        classes: see `Encoder`.

    Raises:
        ValueError: if `image_size` cannot be halved once per transposed convolution.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        channels: Sequence[int],
        latent_dim: int,
        kernel: int,
        norm: Norm,
        classes: int,
    ) -> None:
        super().__init__()
        self.classes = classes
        side = _side_after(image_size, len(channels) - 1)
        first = channels[0] * side**2
        self.hidden = nn.Sequential(
            nn.Linear(latent_dim + classes, first, bias=False),
            _norm1d(norm, first),
            nn.ReLU(),
            nn.Unflatten(1, (channels[0], side, side)),
        )
        stages: list[nn.Module] = []
        for channels_in, channels_out in pairwise(channels):
            stages += [_up(channels_in, channels_out, kernel), _norm2d(norm, channels_out), nn.ReLU()]
        self.convolutions = nn.Sequential(*stages)
        self.image = nn.Sequential(nn.Conv2d(channels[-1], image_channels, INNER_KERNEL, padding=2), nn.Tanh())

    def forward(
        self, z: Float[Tensor, "batch latent"], y: Labels | None = None
    ) -> Float[Tensor, "batch channel side side"]:
        """Images in [-1, 1]."""
        images: Tensor = self.image(self.convolutions(self.hidden(_with_class(z, y, self.classes))))
        return images


class Discriminator(nn.Module):
    """Dis: strided 5x5 convolutions, one hidden layer, one logit (report, Table; the sigmoid is in the losses).

    Args:
        image_size: side of the square input, a multiple of 2 to the power of the number of strided convolutions.
        image_channels: colour channels of the input.
        channels: output channels of the convolutions, input side first.
        features: width of the hidden layer.
        first_stride: 2 as in the report's table, or 1 as in the paper's, which also has no batch norm after the first
            convolution.
        norm: `batch` or `group` as in `Encoder`, or `spectral`: spectral norm of all weights, and no normalisation
            after the layers (arXiv 1802.05957).
        classes: see `Encoder`.

    Raises:
        ValueError: if `image_size` cannot be halved once per strided convolution.
    """

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        channels: Sequence[int],
        features: int,
        first_stride: int,
        norm: DiscriminatorNorm,
        classes: int,
    ) -> None:
        super().__init__()
        self.classes = classes
        side = _side_after(image_size, len(channels) - (first_stride == 1))
        strides = [first_stride] + [2] * (len(channels) - 1)
        stages = []
        for i, (stride, sizes) in enumerate(zip(strides, pairwise([image_channels, *channels]), strict=True)):
            bare = norm == "spectral" or (i == 0 and stride == 1)
            after = nn.Identity() if bare else _norm2d(norm, sizes[1])
            stages.append(nn.ModuleDict({"conv": _down(*sizes, stride, bias=bare), "norm": after, "relu": nn.ReLU()}))
        self.convolutions = nn.ModuleList(stages)
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * side**2, features, bias=norm == "spectral"),
            nn.Identity() if norm == "spectral" else _norm1d(norm, features),
            nn.ReLU(),
        )
        self.logit = nn.Linear(features, 1)
        if classes:
            self.projection = nn.Embedding(classes, features)
            nn.init.normal_(self.projection.weight, std=features**-0.5)
        if norm == "spectral":
            for module in [*self.modules()]:
                if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                    spectral_norm(module)

    @property
    def layers(self) -> list[str]:
        """Names of the feature maps that `forward` returns, input side first: conv1, norm1, relu1, conv2, ..."""
        return [f"{kind}{i}" for i in range(1, len(self.convolutions) + 1) for kind in ("conv", "norm", "relu")]

    def forward(
        self, x: Float[Tensor, "batch channel side side"], y: Labels | None = None
    ) -> tuple[Float[Tensor, " batch"], dict[str, Float[Tensor, "batch feature height width"]]]:
        """Logit of Dis(x) = p(x is real), and every Dis_l(x) by layer name, for images in [-1, 1]."""
        maps: dict[str, Tensor] = {}
        for i, stage in enumerate(self.convolutions, start=1):
            assert isinstance(stage, nn.ModuleDict)
            for kind, module in stage.items():
                x = maps[f"{kind}{i}"] = module(x)
        features = self.hidden(x)
        logits = self.logit(features).squeeze(1)
        if self.classes:
            if y is None:
                raise ValueError("a conditional network needs the class of every image")
            logits = logits + (self.projection(y) * features).sum(1)
        return logits, maps


class Networks(nn.Module):
    """Encoder, decoder and discriminator of one model, built from plain numbers.

    Args:
        image_size: side of the square images.
        image_channels: colour channels of the images.
        latent_dim: dimension of z.
        encoder_channels: see `Encoder`; None for no encoder, as in a GAN.
        encoder_features: see `Encoder`.
        decoder_channels: see `Decoder`.
        decoder_kernel: see `Decoder`.
        discriminator_channels: see `Discriminator`; None for no discriminator, as in a VAE.
        discriminator_features: see `Discriminator`.
        discriminator_first_stride: see `Discriminator`.
        norm: the norm of encoder and decoder; see `Encoder`.
        discriminator_norm: see `Discriminator`.
        classes: see `Encoder`.

    Raises:
        ValueError: if `image_size` does not fit the number of stages of a network, or an option is out of its range.
    """

    encoder: Encoder
    """Missing where `encoder_channels` is None."""

    decoder: Decoder
    discriminator: Discriminator
    """Missing where `discriminator_channels` is None."""

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        latent_dim: int,
        encoder_channels: Sequence[int] | None,
        encoder_features: int,
        decoder_channels: Sequence[int],
        decoder_kernel: int,
        discriminator_channels: Sequence[int] | None,
        discriminator_features: int,
        discriminator_first_stride: int,
        norm: Norm,
        discriminator_norm: DiscriminatorNorm,
        classes: int,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("decoder_kernel", decoder_kernel, (5, 6)),
            ("discriminator_first_stride", discriminator_first_stride, (1, 2)),
            ("norm", norm, get_args(Norm)),
            ("discriminator_norm", discriminator_norm, get_args(DiscriminatorNorm)),
        ):
            if value not in known:
                raise ValueError(f"model.networks.{name}={value}: must be one of {', '.join(map(str, known))}")
        for name, size in (
            ("latent_dim", latent_dim),
            ("encoder_channels", encoder_channels),
            ("encoder_features", encoder_features),
            ("decoder_channels", decoder_channels),
            ("discriminator_channels", discriminator_channels),
            ("discriminator_features", discriminator_features),
        ):
            sizes = [size] if isinstance(size, int) else size
            if sizes is not None and min(sizes, default=0) < 1:
                shown = size if isinstance(size, int) else list(sizes)
                raise ValueError(f"model.networks.{name}={shown}: must be at least 1")
        self.arguments: dict[str, Any] = {
            "image_size": image_size,
            "image_channels": image_channels,
            "latent_dim": latent_dim,
            "encoder_channels": None if encoder_channels is None else list(encoder_channels),
            "encoder_features": encoder_features,
            "decoder_channels": list(decoder_channels),
            "decoder_kernel": decoder_kernel,
            "discriminator_channels": None if discriminator_channels is None else list(discriminator_channels),
            "discriminator_features": discriminator_features,
            "discriminator_first_stride": discriminator_first_stride,
            "norm": norm,
            "discriminator_norm": discriminator_norm,
            "classes": classes,
        }
        strided = [len(decoder_channels) - 1, len(encoder_channels or ())]
        if discriminator_channels is not None:
            strided.append(len(discriminator_channels) - (discriminator_first_stride == 1))
        _check_size(image_size, max(strided))
        self.image_size = image_size
        self.image_channels = image_channels
        self.latent_dim = latent_dim
        self.classes = classes
        self.discriminator_norm = discriminator_norm
        size = image_size, image_channels
        if encoder_channels is not None:
            self.encoder = Encoder(*size, encoder_channels, encoder_features, latent_dim, norm, classes)
        self.decoder = Decoder(*size, decoder_channels, latent_dim, decoder_kernel, norm, classes)
        if discriminator_channels is not None:
            self.discriminator = Discriminator(
                *size,
                discriminator_channels,
                discriminator_features,
                discriminator_first_stride,
                discriminator_norm,
                classes,
            )

    @property
    def names(self) -> list[str]:
        """The names of the networks that exist, in this order: encoder, decoder, discriminator."""
        return [name for name, _ in self.named_children()]


def for_image_size(image_size: int, **sizes: Any) -> Networks:
    """Networks whose channels are given for images of 64 pixels, with one more stage for each doubling of the side.

    The added stages are farthest from the image and copy the number of channels there, so that the smallest map stays
    8x8 in encoder and decoder, and 4x4 (8x8 in the paper's table) in the discriminator.

    Args:
        image_size: side of the square images.
        **sizes: see `Networks`.

    Raises:
        ValueError: see `Networks`.
    """
    deeper = max(0, (image_size // REPORT_SIZE).bit_length() - 1)
    for name, end in (("encoder_channels", -1), ("decoder_channels", 0), ("discriminator_channels", -1)):
        if sizes[name] is not None:
            channels = list(cast("Sequence[int]", sizes[name]))
            more = [channels[end]] * deeper
            sizes[name] = more + channels if end == 0 else channels + more
    return Networks(image_size=image_size, **sizes)
