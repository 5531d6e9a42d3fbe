"""How much fine detail images have, and whether they show the grid that transposed convolutions can leave."""

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.evaluation.classifier import Images

_NEIGHBOURS = 2
"""Frequencies on each side with which a line of the spectrum is compared, leaving out the nearest."""


def fine_detail(images: Images) -> float:
    """The share of spectral power above half the Nyquist frequency, without the mean; in [0, 1].

    Frequencies are radial: those along a diagonal reach beyond the Nyquist frequency of rows and columns.

    Args:
        images: square images.
    """
    power = _power(images)
    along = torch.fft.fftfreq(images.shape[-1], dtype=torch.float64)
    radius = torch.hypot(along[:, None], along)
    return float(power[radius > 0.25].sum() / power[radius > 0].sum().clamp_min(1e-30))


def grid_strength(images: Images, pixels: int) -> float:
    """Power at a period of `pixels` along rows and columns, relative to that of neighbouring frequencies; 1: no grid.

    Args:
        images: square images, whose side is a multiple of `pixels`.
        pixels: period of the grid, at least 2.
    """
    side = images.shape[-1]
    rows = _power(images) + _power(images.mT)
    line = rows.sum(0)[: side // 2 + 1]  # power by frequency along one axis
    at = side // pixels
    near = [at + sign * step for sign in (-1, 1) for step in range(2, 2 + _NEIGHBOURS)]
    compared = line[[k for k in near if 0 < k <= side // 2]]
    return float(line[at] / compared.mean().clamp_min(1e-30))


def _power(images: Images) -> Float[Tensor, "side side"]:
    """Mean power spectrum of images less their means."""
    centred = (images - images.mean((2, 3), keepdim=True)).double()
    power: Tensor = torch.fft.fft2(centred).abs().square().mean((0, 1))
    return power
