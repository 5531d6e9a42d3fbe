"""Precision, recall, density, coverage, Vendi score and MS-SSIM: another implementation, and cases worked by hand."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy.ndimage import correlate
from scipy.signal.windows import gaussian
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vaegan_pl.evaluation.diversity import Manifold, Pairs, manifold, ms_ssim, vendi_score


def normal(n: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) + mean


@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_manifold_against_the_authors_package(mean: float, capsys: pytest.CaptureFixture[str]) -> None:
    real, other = normal(80, 0), normal(80, 1, mean)
    expected = compute_prdc(real.double().numpy(), other.double().numpy(), nearest_k=5)
    assert asdict(manifold(real, other)) == pytest.approx(expected)
    assert 0 < expected["coverage"] < 1


def test_points_on_a_line() -> None:
    """With one neighbour, real balls reach 1 far; those of the others 0.1 and 10, to no real point."""
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    other = torch.tensor([[0.5], [0.6], [20.0], [30.0]])
    found = manifold(real, other, neighbours=1)
    assert found == Manifold(precision=0.5, recall=0.0, density=1.0, coverage=0.5)


def test_the_same_set_is_covered_and_a_far_one_is_not() -> None:
    real = normal(50, 0)
    same, far = manifold(real, real), manifold(real, real + 100)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_a_dropped_mode_costs_coverage_and_recall_alone() -> None:
    real = torch.cat([normal(100, 0), normal(100, 1, 50)])
    other = torch.cat([normal(100, 2), normal(100, 3)])
    found = manifold(real, other)
    assert found.precision > 0.9
    assert found.recall < 0.5
    assert found.coverage < 0.52


def test_one_image_over_and_over_covers_next_to_nothing() -> None:
    real = normal(100, 0)
    found = manifold(real, real[:1].expand(100, -1) + 1e-6 * normal(100, 1))
    assert found.coverage < 0.2
    assert vendi_score(real[:1].expand(100, -1)) == pytest.approx(1, abs=1e-6)


def test_sets_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="50 and 60 images: must be equal in number"):
        manifold(normal(50, 0), normal(60, 0))


def test_vendi_score_counts_different_images() -> None:
    assert vendi_score(torch.eye(7)) == pytest.approx(7)
    assert vendi_score(torch.eye(2).repeat(5, 1)) == pytest.approx(2)
    uneven = torch.cat([torch.eye(2)[:1].expand(3, -1), torch.eye(2)[1:]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert vendi_score(uneven) == pytest.approx(math.exp(entropy))


def test_ms_ssim_by_its_definition() -> None:
    """Wang et al. 2003, eq. 7, by scipy: contrast and structure at each scale, luminance at the coarsest.

    torchmetrics leaves out the border, where windows reach beyond the image, at all scales but the coarsest.
    """
    generator = torch.Generator().manual_seed(0)
    x = gaussian_blur(torch.rand(1, 1, 64, 64, generator=generator), [5, 5], [1.0, 1.0]) * 2 - 1
    y = (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
    window = gaussian(11, 1.5)
    window = np.outer(window, window) / np.outer(window, window).sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    a, b = (image[0, 0].double().numpy() for image in (x, y))
    expected, exponents = 1.0, np.array([0.0448, 0.2856, 0.3001]) / (0.0448 + 0.2856 + 0.3001)
    for scale, exponent in enumerate(exponents):

        def mean(image: np.ndarray) -> np.ndarray:
            return np.asarray(correlate(image, window, mode="mirror"))

        covariance = mean(a * b) - mean(a) * mean(b)
        contrast = (2 * covariance + c2) / (mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2 + c2)
        luminance = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
        expected *= (contrast * luminance if scale == 2 else contrast[5:-5, 5:-5]).mean() ** exponent
        a, b = (image.reshape(len(image) // 2, 2, -1, 2).mean((1, 3)) for image in (a, b))
    assert ms_ssim(x, y).item() == pytest.approx(expected, abs=1e-4)
    assert 0.3 < expected < 0.99


@pytest.mark.parametrize("side", [16, 32, 64])
def test_ms_ssim_of_the_same_image_is_1_and_falls_with_noise(side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, side, side, generator=generator) * 2 - 1
    assert ms_ssim(x, x).tolist() == pytest.approx([1] * 3)
    little, much = (ms_ssim(x, (x + s * torch.randn(x.shape, generator=generator)).clamp(-1, 1)) for s in (0.1, 1.0))
    assert bool((much < little).all())
    assert bool((little < 1).all())


def test_ms_ssim_of_one_image_does_not_depend_on_its_batch() -> None:
    x, y = (torch.rand(300, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(ms_ssim(x, y)[280:], ms_ssim(x[280:], y[280:]))


def test_random_pairs_are_never_of_one_image() -> None:
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert Pairs.of(x, 20, 0).similarity.tolist() == pytest.approx([float(ms_ssim(x[:1], x[1:]))] * 20, abs=1e-4)
    assert Pairs.of(x[:1].expand(5, -1, -1, -1), 20, 0).similarity.tolist() == pytest.approx([1] * 20)


def test_pairs_within_a_part_have_both_images_in_it() -> None:
    pairs = Pairs(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 3, 0]), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert pairs.within(torch.tensor([3, 2, 0])).tolist() == pytest.approx([0.3, 0.4])
    assert len(pairs.within(torch.tensor([1, 3]))) == 0
