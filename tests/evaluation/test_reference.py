"""How many samples an evaluation draws."""

from types import SimpleNamespace

import pytest
import torch

from vaegan_pl.evaluation.reference import Reference

RANDOM = torch.Generator().manual_seed(0)
CASES = [
    (torch.randint(1, 60, (4,), generator=RANDOM).tolist(), torch.randint(1, 30, (4,), generator=RANDOM).tolist(), n)
    for n in (6, 50, 100, 1000)
    for _ in range(20)
]


def drawn(trained: list[int], held_out: list[int], n: int, seeds: int) -> list[int]:
    of = [SimpleNamespace(labels=torch.arange(4).repeat_interleave(torch.tensor(k))) for k in (trained, held_out)]
    for one in of:
        one.x = one.labels
    stub = SimpleNamespace(train=of[0], held_out=of[1], classes=list("abcd"), n=n, seeds=seeds)
    found: list[int] = vars(Reference)["drawn_by_class"].func(stub)
    return found


def test_classifiers_get_as_many_samples_as_there_are_training_images() -> None:
    assert drawn([5, 6, 7, 8], [1, 1, 1, 1], 6, seeds=1) == [5, 6, 7, 8]


@pytest.mark.parametrize(("trained", "held_out", "n"), CASES)
def test_without_classifiers_enough_samples_are_drawn_to_compare(
    trained: list[int], held_out: list[int], n: int
) -> None:
    found = drawn(trained, held_out, n, seeds=0)
    assert sum(found) >= min(n, sum(trained))
    assert all(min(k, most) <= own <= most for own, k, most in zip(found, held_out, trained, strict=True))
    shares = [((own - 1) / most, own / most) for own, most in zip(found, trained, strict=True)]
    assert max(low for low, _ in shares) < min(high for _, high in shares)  # the same share of each class, rounded up


def test_without_classifiers_no_more_samples_are_drawn_than_needed() -> None:
    assert drawn([100, 200, 300, 400], [10, 20, 30, 40], 100, seeds=0) == [10, 20, 30, 40]
    assert drawn([100, 200, 300, 400], [20, 20, 30, 40], 100, seeds=0) == [20, 40, 60, 80]
