"""A model file meant for sharing: the decoder and the density of z, in half precision, without the other networks.

Drawing samples needs neither encoder nor discriminator, and both can reveal more about the training images.
"""

from dataclasses import replace
from pathlib import Path

from vaegan_pl.errors import UserError
from vaegan_pl.model import weights
from vaegan_pl.model.mixtures import Mixture
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.saved_model import SavedModel

NAME = "vae_gan_decoder.pth"
"""Name of the file in its folder."""

DRAWN = 256
"""Samples by which full and half precision are compared."""

GREY_LEVEL = 2 / 255
"""Of images in [-1, 1]."""


def decoder_only(model: SavedModel) -> SavedModel:
    """The model without encoder and discriminator, rounded to half precision; it computes in single precision."""
    networks = Networks(**{**model.networks.arguments, "encoder_channels": None, "discriminator_channels": None})
    networks.decoder.load_state_dict(model.networks.decoder.state_dict())
    mixtures = model.mixtures and {
        name: Mixture(mixture.weights, mixture.means.half().float(), mixture.factors.half().float())
        for name, mixture in model.mixtures.items()
    }
    return replace(model, networks=networks.half().float().eval(), mixtures=mixtures)


def save_decoder(path: Path, model: SavedModel) -> float:
    """Write the decoder and the density of z in half precision.

    Args:
        path: the file to write.
        model: the model, on the CPU.

    Returns:
        The root mean square difference that rounding makes in the sample where it is largest, in grey levels of 255.

    Raises:
        OSError: if the file cannot be written.
        UserError: if that is more than one grey level, or a number is too large; nothing is written.
    """
    rounded = decoder_only(model)
    difference = rounded.sample(DRAWN) - model.sample(DRAWN)
    levels = float(difference.square().flatten(1).mean(1).max().sqrt() / GREY_LEVEL)
    finite = all(tensor.isfinite().all() for tensor in rounded.networks.state_dict().values())
    if not (finite and levels <= 1):
        raise UserError(
            f"{path}: the decoder does not survive half precision, in which it is shared; export with "
            "format=safetensors, onnx or pt2 keeps single precision"
        )
    weights.save(
        path,
        rounded.networks,
        rounded.preprocessing,
        rounded.trained_on,
        rounded.training,
        rounded.mixtures,
        half=True,
    )
    return levels
