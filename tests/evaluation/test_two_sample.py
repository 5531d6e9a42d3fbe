"""The two-sample test on sets that are of one kind, and of two."""

import pytest
import torch
from torch import Tensor

from vaegan_pl.evaluation import two_sample
from vaegan_pl.evaluation.classifier import fit
from vaegan_pl.evaluation.estimate import Estimate
from vaegan_pl.evaluation.two_sample import Grouped

CPU = torch.device("cpu")


def blobs(n: int, seed: int, size: float = 3.0) -> Tensor:
    """A bright spot at a random place."""
    places = 6 + 20 * torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))
    y, x = torch.meshgrid(*[torch.arange(32.0)] * 2, indexing="ij")
    squared = (y - places[:, :1, None]) ** 2 + (x - places[:, 1:, None]) ** 2
    return (2 * (-squared / (2 * size**2)).exp() - 1)[:, None]


def alone(x: Tensor) -> Grouped:
    return Grouped(x, [str(i) for i in range(len(x))])


def measured(real: Tensor, other: Tensor, steps: int, monkeypatch: pytest.MonkeyPatch) -> Estimate:
    monkeypatch.setattr(two_sample, "STEPS", steps)
    parts = two_sample.halves(alone(real), alone(other), 0)
    return two_sample.auc(fit(two_sample.trainings(parts, 0, CPU), ""), parts, 0)


def test_sets_of_one_kind_are_not_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(blobs(200, 0), blobs(200, 1), 40, monkeypatch)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.25


def test_sets_of_two_kinds_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(blobs(200, 0), blobs(200, 1, 5.0), 60, monkeypatch)
    assert found.low > 0.9


def test_halves_are_disjoint_and_equally_large() -> None:
    real, other = torch.arange(11.0).view(-1, 1, 1, 1), torch.arange(100.0, 107).view(-1, 1, 1, 1)
    first, second = two_sample.halves(alone(real), alone(other), 0)
    for part in (first, second):
        assert part.labels.tolist() == [0] * 3 + [1] * 3
        assert bool((part.x[:3] >= 100).all() and (part.x[3:] < 100).all())
    assert len({*first.x.flatten().tolist(), *second.x.flatten().tolist()}) == 12


def test_no_patient_is_in_both_halves() -> None:
    """Slices of one patient are alike, so a classifier that was trained on some would recognise the others."""
    patients = [f"p{i % 30}" for i in range(360)]
    real = Grouped(torch.arange(360.0).view(-1, 1, 1, 1), patients)
    parts = two_sample.halves(real, alone(torch.zeros(360, 1, 1, 1)), 3)
    of = [{patients[int(i)] for i in part.x[part.labels == 1].flatten().tolist()} for part in parts]
    assert not of[0] & of[1]
    assert [len(part.x) for part in parts] == [360, 360]
