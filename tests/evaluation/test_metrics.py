"""The figures of sets of images: their intervals by simulation, and what does not change them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vaegan_pl.evaluation import metrics as module
from vaegan_pl.evaluation.diversity import manifold, ms_ssim
from vaegan_pl.evaluation.metrics import ImageSet, metrics

IMAGES = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def normal(n: int, seed: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
    return scale * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + mean


def one_of(features: Tensor) -> ImageSet:
    return ImageSet(torch.zeros(len(features), 1, 16, 16), features[None])


def test_intervals_contain_the_truth_in_95_of_100_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth is the mean over other draws; `python -m tests.intervals` simulates more figures more often."""
    monkeypatch.setattr(module, "_figures", lambda real, other, *_: vars(manifold(real.features[0], other.features[0])))
    monkeypatch.setattr(module, "track", lambda items, *_: items)
    n, runs = 200, 200
    sets = [(normal(n, 2 * i), normal(n, 2 * i + 1, 0.8, 0.3)) for i in range(2 * runs)]
    truth = {
        name: np.mean([getattr(manifold(*both), name) for both in sets[:runs]]) for name in ("precision", "coverage")
    }
    found = [metrics(one_of(a), one_of(b), n, 0) for a, b in sets[runs:]]
    for name, value in truth.items():
        inside = np.mean([one[name].low <= value <= one[name].high for one in found])
        assert 0.92 <= inside <= 0.99


def test_figures_are_averaged_over_networks() -> None:
    a, b = (torch.stack([normal(60, seed), normal(60, seed + 1, 2.0)]) for seed in (0, 2))
    both, first, second = (
        metrics(ImageSet(IMAGES, a[some]), ImageSet(IMAGES, b[some]), 60, 0, 0) for some in ([0, 1], [0], [1])
    )
    for name, value in both.items():
        assert value.value == pytest.approx((first[name].value + second[name].value) / 2)
        assert value.low == value.high == value.value


def test_two_sets_are_compared_on_the_same_halves_of_the_held_out_images() -> None:
    """The distance to a set far away is that of the real half's mean, in all but the digits of the set's own halves."""
    real, far = one_of(normal(60, 0)), [one_of(normal(60, seed, 1e-3, 50)) for seed in (1, 2)]
    first, second = (metrics(real, one, 60, 5)["Fréchet distance"].halves for one in far)
    np.testing.assert_allclose(first, second, rtol=1e-4)
    assert first.std() > 100 * np.abs(first - second).max()


def test_few_images_give_no_intervals() -> None:
    found = metrics(one_of(normal(10, 0)), one_of(normal(10, 1)), 10, 0)
    assert all(one.low == one.high for one in found.values())


def test_figures_of_halves_are_those_of_their_images() -> None:
    """By NumPy, and by the definition of the pairs, for the one division that the seed draws."""
    found = metrics(ImageSet(IMAGES, normal(60, 0)[None]), ImageSet(IMAGES, normal(60, 1)[None]), 60, 3, 1)
    generator = torch.Generator().manual_seed(4)  # that of the set that is measured
    x = IMAGES[torch.randperm(60, generator=generator)]
    halves = torch.randperm(60, generator=generator).chunk(2)
    power = np.abs(np.fft.fft2(x[:, 0].double() - x[:, 0].double().mean((1, 2), keepdim=True))) ** 2
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(16)] * 2))
    details = [power[half].mean(0)[radius > 0.25].sum() / power[half].mean(0)[radius > 0].sum() for half in halves]
    assert found["fine detail"].halves[0].tolist() == pytest.approx(details)
    assert details[0] != pytest.approx(details[1])
    drawn = torch.Generator().manual_seed(3)
    first = torch.randint(60, (module.PAIRS,), generator=drawn)
    second = (first + torch.randint(1, 60, (module.PAIRS,), generator=drawn)) % 60
    similar = [
        [pair for pair in zip(first.tolist(), second.tolist(), strict=True) if {*pair} <= {*half.tolist()}]
        for half in halves
    ]
    expected = [float(ms_ssim(*(x[list(side)] for side in zip(*pairs, strict=True))).mean()) for pairs in similar]
    assert found["MS-SSIM of pairs"].halves[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert [len(pairs) for pairs in similar] == pytest.approx([module.PAIRS / 4] * 2, rel=0.2)
    half = module.PAIRS // 2
    assert found["MS-SSIM of pairs"].value == pytest.approx(float(ms_ssim(x[first[:half]], x[second[:half]]).mean()))
