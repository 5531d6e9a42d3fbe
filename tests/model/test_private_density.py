"""The statistic behind a release: its sensitivity, by force, and what comes out without noise and with much of it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from vaegan_pl.model import mechanism
from vaegan_pl.model.mechanism import noisy
from vaegan_pl.model.mixtures import REGULARISATION, Mixture, gaussian
from vaegan_pl.model.private_density import (
    Coordinates,
    contribution,
    coordinates,
    density,
    entries,
    moments,
    public_clip,
    shrunk,
)

D = 6
COUNTS = {"a": 30, "b": 10}


def public(seed: int = 0) -> dict[str, Mixture]:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(2, 2, D, D, generator=generator).tril() + 2 * torch.eye(D)
    means = torch.randn(2, 2, D, generator=generator)
    return {name: Mixture(torch.tensor([0.25, 0.75]), means[i], factors[i]) for i, name in enumerate(COUNTS)}


def posteriors(n: int, scale: float = 1.0, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, D, generator=generator) + 0.3, torch.randn(n, D, generator=generator) - 1


def total(mean: Tensor, log_variance: Tensor, where: Coordinates, clip: float) -> np.ndarray:
    each = [contribution(m, v, where, clip) for m, v in zip(mean, log_variance, strict=True)]
    found: np.ndarray = np.stack(each).sum(0)
    return found


def test_in_public_coordinates_the_public_density_is_standard() -> None:
    where, generator = coordinates(public(), COUNTS, D), torch.Generator().manual_seed(0)
    drawn = torch.cat([each.sample(COUNTS[name] * 2000, generator) for name, each in public().items()]).double()
    u = (drawn - where.centre) @ where.leading.T
    torch.testing.assert_close(u.mean(0), torch.zeros(D).double(), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(u.T), torch.eye(D).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(where.axes @ where.leading, torch.eye(D).double(), atol=1e-10, rtol=0)
    lengths = where.axes.norm(dim=0)
    assert (lengths.diff() <= 0).all()
    norms = u[:, :3].norm(dim=1)
    assert public_clip(public(), COUNTS, coordinates(public(), COUNTS, 3)) == pytest.approx(
        float(norms.quantile(0.95)), rel=0.05
    )


def extremes(where: Coordinates) -> Iterator[tuple[Tensor, Tensor]]:
    """Posteriors that try to add as much as possible: far, near, narrow, wide, along single axes."""
    for size in (0.0, 1e-30, 1e-3, 1.0, 2.5, 1e6, 1e15):
        for log_variance in (-80.0, -3.0, 0.0, 30.0):
            for direction in (where.axes[:, 0], where.axes[:, -1], where.axes.sum(1), torch.ones(D).double()):
                yield where.centre + size * direction, torch.full((D,), log_variance)
    yield from zip(*posteriors(200, 3.0), strict=True)


@pytest.mark.parametrize("k", [1, 3, D])
def test_no_image_adds_more_than_the_sensitivity_and_some_add_nearly_as_much(k: int) -> None:
    """Neighbours differ by one image, so their sums, with all other images, differ by its contribution."""
    where = coordinates(public(), COUNTS, k)
    norms = []
    for mean, log_variance in extremes(where):
        for clip in (0.5, 2.5, 100.0):
            added = contribution(mean, log_variance, where, clip)
            assert added.shape == (entries(k),)
            norms.append(sum(x**2 for x in added.tolist()) ** 0.5 / mechanism.SCALE)
    assert 0.99999 < max(norms) <= 1


def test_a_patient_adds_no_more_than_one_image() -> None:
    where = coordinates(public(), COUNTS, D)
    for seed, n in enumerate((1, 2, 3, 7, 50)):
        for mean, log_variance in (posteriors(n, 4.0, seed), (torch.full((n, D), 1e6), torch.zeros(n, D))):
            added = [contribution(m, v, where, 1.5, of=n) for m, v in zip(mean, log_variance, strict=True)]
            whole = np.sum(added, axis=0).tolist()
            assert sum(x**2 for x in whole) <= mechanism.SCALE**2


def test_sums_of_neighbours_in_a_class_differ_by_one_contribution() -> None:
    where = coordinates(public(), COUNTS, 4)
    mean, log_variance = posteriors(40, 2.0)
    whole = total(mean, log_variance, where, 2.0)
    for left_out in range(40):
        kept = torch.arange(40) != left_out
        difference = (whole - total(mean[kept], log_variance[kept], where, 2.0)).tolist()
        assert sum(x**2 for x in difference) <= mechanism.SCALE**2


def test_without_noise_and_clipping_each_class_gets_the_gaussian_of_its_posteriors() -> None:
    where = coordinates(public(), COUNTS, D)
    images = {"x": posteriors(50), "y": posteriors(30, 0.5, seed=2)}
    sums = {name: total(*each, where, 1e3).astype(float) for name, each in images.items()}
    found, counts = density(sums, where, 1e3, 0.0)
    assert counts == {"x": 50, "y": 30}
    for name, (mean, log_variance) in images.items():
        expected = gaussian(mean, log_variance)
        torch.testing.assert_close(found[name].means, expected.means, atol=1e-3, rtol=0)
        covariance, wanted = (each.factors[0] @ each.factors[0].T for each in (found[name], expected))
        torch.testing.assert_close(covariance, wanted - REGULARISATION * torch.eye(D), atol=2e-2, rtol=0)


def test_with_an_enormous_epsilon_the_mechanism_gives_the_moments_of_the_clipped_latents() -> None:
    k, clip = 3, 1.2
    where = coordinates(public(), COUNTS, k)
    mean, log_variance = posteriors(4000, 2.0)
    deviation = mechanism.deviation_for(20, 1e-5)
    sums = noisy(total(mean, log_variance, where, clip), deviation)
    found = moments(sums, k, clip, deviation)
    u = (mean.double() - where.centre) @ where.leading.T
    spread = (where.leading * log_variance.double().exp()[:, None]) @ where.leading.T
    second = u[:, :, None] * u[:, None] + spread
    scale = (clip / second.flatten(1).norm(dim=1).sqrt()).clamp_max(1)
    clipped = scale[:, None] * u
    assert 0.2 < (scale < 1).double().mean() < 1
    assert found.count == pytest.approx(4000, abs=6)
    torch.testing.assert_close(found.mean, clipped.mean(0), atol=3e-3, rtol=0)
    expected = (scale.square()[:, None, None] * second).mean(0) - torch.outer(clipped.mean(0), clipped.mean(0))
    torch.testing.assert_close(found.covariance, expected, atol=6e-3, rtol=0)


def test_expected_errors_are_those_of_the_noise() -> None:
    k, clip, deviation, n = 3, 2.0, 4.0, 10_000
    where = coordinates(public(), COUNTS, k)
    mean, log_variance = posteriors(1)
    sums = n * contribution(mean[0], log_variance[0], where, clip)
    exact, generator = moments(sums.astype(float), k, clip, 0.0), np.random.default_rng(0)
    errors = []
    for _ in range(300):
        drawn = moments(sums + deviation * mechanism.SCALE * generator.standard_normal(len(sums)), k, clip, deviation)
        errors.append(
            [
                float((drawn.mean - exact.mean).square().sum()),
                float((drawn.covariance - exact.covariance).square().sum()),
            ]
        )
    np.testing.assert_allclose(np.mean(errors, axis=0), drawn.errors, rtol=0.3)


def test_values_are_drawn_to_the_target_by_the_share_of_noise() -> None:
    value, target = torch.tensor([3.0, 4.0]), torch.zeros(2)
    assert shrunk(value, target, 0).tolist() == [3, 4]
    assert shrunk(value, target, 12.5).tolist() == [1.5, 2]
    assert shrunk(value, target, 30).tolist() == [0, 0]
    assert shrunk(target, target, 0).tolist() == [0, 0]


def test_a_class_without_images_gets_about_the_public_density() -> None:
    where = coordinates(public(), COUNTS, D)
    sums = {name: noisy(np.zeros(entries(D), dtype=np.int64), 4.0) for name in "xyz"}
    found, counts = density(sums, where, 3.0, 4.0)
    assert min(counts.values()) >= 1
    for mixture in found.values():
        covariance = mixture.factors[0].double() @ mixture.factors[0].double().T
        assert mixture.means.isfinite().all()
        assert torch.linalg.eigvalsh(where.leading @ covariance @ where.leading.T).min() > 0.009
