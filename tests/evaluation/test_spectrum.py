"""Fine detail and grids, on images whose spectrum is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vaegan_pl.evaluation import spectrum

SIDE = 32


def fine_detail(x: Tensor) -> float:
    return spectrum.fine_detail(spectrum.power_spectra(x).mean(0))


def grid_strength(x: Tensor, pixels: int) -> float:
    return spectrum.grid_strength(spectrum.power_spectra(x).mean(0), pixels)


def wave(cycles: float, across: float = 0.0) -> Tensor:
    y, x = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float64)] * 2, indexing="ij")
    return (2 * math.pi * (cycles * x + across * y) / SIDE).cos()[None, None]


def noise(n: int) -> Tensor:
    return torch.randn(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_waves_count_by_their_frequency_and_the_mean_does_not() -> None:
    slow, fast = wave(4), wave(12)
    assert fine_detail(slow + 5) == pytest.approx(0, abs=1e-12)
    assert fine_detail(fast + 5) == pytest.approx(1)
    assert fine_detail(slow + 2 * fast) == pytest.approx(4 / 5)
    assert fine_detail(wave(6, 6)) == pytest.approx(1)  # along the diagonal: 8.5 cycles


def test_white_noise_has_the_share_of_the_frequencies() -> None:
    along = np.fft.fftfreq(SIDE)
    share = np.mean(np.hypot(along[:, None], along).ravel()[1:] > 0.25)
    assert fine_detail(noise(400)) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("pixels", [2, 4])
@pytest.mark.parametrize("blur", [0.6, 0.8])
def test_a_blur_is_no_grid(pixels: int, blur: float) -> None:
    smooth = gaussian_blur(noise(400), [9, 9], [blur, blur])
    assert grid_strength(smooth, pixels) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("pixels", [2, 4])
def test_noise_has_no_grid_and_stripes_have(pixels: int) -> None:
    x = noise(200)
    assert grid_strength(x, pixels) == pytest.approx(1, abs=0.1)
    for grid in (wave(SIDE / pixels), wave(0, SIDE / pixels)):
        assert grid_strength(x + 0.4 * grid, pixels) > 1.3
        assert grid_strength(x + 0.4 * grid, 6 - pixels) == pytest.approx(grid_strength(x, 6 - pixels), rel=0.05)
