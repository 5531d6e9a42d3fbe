"""Reconstruction quality against their definitions, worked in numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vaegan_pl.evaluation.reconstruction import quality, squared_error


def images(n: int, seed: int) -> Tensor:
    return torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_is_that_of_the_whole_set() -> None:
    x = images(6, 0)
    x_tilde = (x + 0.2 * images(6, 1)).clamp(-1, 1)
    error = np.square(x.double().numpy() - x_tilde.double().numpy())
    found = quality(x, x_tilde, seed=0)["PSNR"]
    assert found.value == pytest.approx(10 * np.log10(2**2 / error.mean()), rel=1e-5)
    assert found.low < found.value < found.high
    np.testing.assert_allclose(squared_error(x, x_tilde).numpy(), error.mean((1, 2, 3)), rtol=1e-4)


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of Wang et al. 2004: Gaussian windows of 1.5 pixels, 11 wide, the image mirrored beyond its border."""

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(values, 1.5, truncate=3.5, mode="mirror"))

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    full = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return float(full.mean())


def test_ssim_is_the_mean_over_images() -> None:
    x = images(5, 0)
    x_tilde = (x + 0.5 * images(5, 1)).clamp(-1, 1)
    pairs = zip(x[:, 0].double().numpy(), x_tilde[:, 0].double().numpy(), strict=True)
    expected = np.mean([by_hand(a, b) for a, b in pairs])
    assert quality(x, x_tilde, seed=0)["SSIM"].value == pytest.approx(expected, abs=2e-3)


def test_the_same_images_are_perfect() -> None:
    found = quality(images(4, 0), images(4, 0) + 1e-6, seed=0)
    assert found["SSIM"].value == pytest.approx(1, abs=1e-4)
    assert found["MS-SSIM"].value == pytest.approx(1, abs=1e-4)
    assert found["PSNR"].value > 100
