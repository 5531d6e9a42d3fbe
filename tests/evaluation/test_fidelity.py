"""Distances between sets of features, against scipy, numpy and cases with known answers."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from vaegan_pl.evaluation.fidelity import frechet_distance, kernel_distance


def normal(n: int, dimensions: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed)) + mean


def test_frechet_distance_against_scipy() -> None:
    a, b = normal(50, 4, 0), normal(60, 4, 1, 0.5) * torch.tensor([1.0, 2.0, 0.5, 1.0])
    x, y = a.double().numpy(), b.double().numpy()
    c, d = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_a_shift_is_its_square() -> None:
    a = normal(40, 3, 0)
    assert frechet_distance(a, a + torch.tensor([1.0, 2.0, 0.0])) == pytest.approx(5.0, rel=1e-4)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def by_hand(a: Tensor, b: Tensor) -> float:
    """The definition, pair by pair."""
    x, y = a.double().numpy(), b.double().numpy()

    def k(u: np.ndarray, v: np.ndarray) -> float:
        return float((u @ v / len(u) + 1) ** 3)

    n, m = len(x), len(y)
    within = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within += sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within - 2 * sum(k(u, v) for u in x for v in y) / (n * m)


def test_kernel_distance_against_its_definition() -> None:
    a, b = normal(12, 5, 0), normal(12, 5, 1, 0.3)
    assert kernel_distance(a, b) == pytest.approx(by_hand(a, b), rel=1e-4)


def test_the_global_seed_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    kernel_distance(normal(20, 3, 0), normal(20, 3, 1))
    assert torch.equal(torch.rand(1), expected)
