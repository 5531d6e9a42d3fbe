"""How much fine detail images have, and whether they show the grid that transposed convolutions can leave."""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vaegan_pl.evaluation.classifier import Images

Power = Float64[Tensor, "side side"]

_NEIGHBOURS = 5
"""How far frequencies on each side may be, with which a line of the spectrum is compared, leaving out the nearest."""


def power_spectra(images: Images) -> Float64[Tensor, "image side side"]:
    """The power spectrum of each image less its mean, averaged over channels.

    Args:
        images: square images.
    """
    centred = (images - images.mean((2, 3), keepdim=True)).double()
    power: Tensor = torch.fft.fft2(centred).abs().square().mean(1)
    return power


def fine_detail(power: Power) -> float:
    """The share of spectral power above half the Nyquist frequency, without the mean; in [0, 1].

    Frequencies are radial: those along a diagonal reach beyond the Nyquist frequency of rows and columns.

    Args:
        power: the mean power spectrum of images.
    """
    along = torch.fft.fftfreq(len(power), dtype=torch.float64)
    radius = torch.hypot(along[:, None], along)
    return float(power[radius > 0.25].sum() / power[radius > 0].sum().clamp_min(1e-30))


def grid_strength(power: Power, pixels: int) -> float:
    """Power at a period of `pixels` along rows and columns, relative to what neighbouring frequencies let expect.

    1 means that there is no grid. The logarithm of the expected power is a parabola through that at neighbouring
    frequencies, so that a blur, which makes power fall with frequency, is no grid.

    Args:
        power: the mean power spectrum of images, whose side is a multiple of `pixels`.
        pixels: period of the grid, at least 2.
    """
    side = len(power)
    along = power.sum(0) + power.sum(1)  # by frequency along one axis; symmetric about side / 2
    logarithms = along.clamp_min(1e-30).log().numpy()
    at = side // pixels
    away = np.array([k for k in range(-_NEIGHBOURS, _NEIGHBOURS + 1) if abs(k) > 1 and at + k > 0])
    expected = np.polyval(np.polyfit(away, logarithms[at + away], 2), 0)
    return float(np.exp(logarithms[at] - expected))
