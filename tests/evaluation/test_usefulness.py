"""Accuracies and their intervals by hand, and classifiers on images that are told apart at a glance."""

import numpy as np
import pytest
import torch

from vaegan_pl.evaluation.classifier import Labelled, Training, balanced_accuracy, fit, predict
from vaegan_pl.evaluation.usefulness import Trial, gain, judge, ratio


def bars(n: int, seed: int) -> Labelled:
    """A bright bar at the left or at the top, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    x = 0.2 * torch.randn(n, 1, 32, 32, generator=generator) - 0.5
    x[labels == 0, :, :, 10:14] += 1
    x[labels == 1, :, 10:14] += 1
    return Labelled(x.clamp(-1, 1), labels)


def test_balanced_accuracy_weighs_classes_alike() -> None:
    assert balanced_accuracy(np.array([True, True, True, False]), np.array([0, 0, 0, 1])) == 0.5


def test_accuracy_is_the_mean_over_seeds_and_classes() -> None:
    trial = Trial(np.array([[True, True, False, False], [True, False, True, True]]), np.array([0, 0, 1, 1]), 0.0)
    assert trial.value == pytest.approx((0.5 + 0.75) / 2)
    assert trial.per_class == [0.75, 0.5]
    assert trial.accuracy.low <= trial.value <= trial.accuracy.high


def test_the_interval_is_about_that_of_a_proportion() -> None:
    """One seed and 400 images of one class, 80 % right: a standard error of sqrt(0.8 * 0.2 / 400) = 0.02."""
    trial = Trial(np.array([[i % 5 > 0 for i in range(400)]]), np.zeros(400, dtype=np.int64), 0.0)
    assert trial.accuracy.high - trial.accuracy.low == pytest.approx(2 * 1.96 * 0.02, rel=0.1)


def test_ratio_and_gain_compare_on_the_same_images() -> None:
    labels = np.repeat([0, 1], 50)
    good = Trial(np.array([np.arange(100) % 10 > 0] * 3), labels, 0.0)
    bad = Trial(np.array([(np.arange(100) % 10 > 0) & (np.arange(100) % 2 == 0)] * 3), labels, 0.0)
    assert gain(good, good).value == 0
    assert (gain(good, good).low, gain(good, good).high) == (0, 0)
    assert ratio(bad, good).value == pytest.approx(0.4 / 0.9)
    assert gain(bad, good).high < 0 < gain(good, bad).low


def test_classifiers_learn_what_is_plain_and_the_threads_change_nothing() -> None:
    train, test = bars(64, 0), bars(40, 1)
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(fit([Training(train, 2, seed, 20) for seed in (3, 4, 3)], ""))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    (first, other, again), others = found
    for model in (again, others[0]):
        assert all(
            torch.equal(a, b) for a, b in zip(first.state_dict().values(), model.state_dict().values(), strict=True)
        )
    assert not torch.equal(first.head.weight, other.head.weight)
    right = predict(first, test.x).argmax(1) == test.labels
    assert balanced_accuracy(right.numpy(), test.labels.numpy()) > 0.9


def test_training_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit([Training(bars(8, 0), 2, 0, 1)], "")
    assert torch.equal(torch.rand(1), expected)


def test_a_mistake_in_a_thread_ends_the_training() -> None:
    wrong = Labelled(torch.zeros(8, 1, 32, 32), torch.full((8,), 7))
    with pytest.raises(IndexError, match="out of bounds"):
        fit([Training(wrong, 2, 0, 2), Training(bars(8, 0), 2, 0, 1)], "")


def test_each_seed_gives_a_row() -> None:
    train = bars(8, 0)
    trial = judge(fit([Training(train, 2, seed, 1) for seed in (0, 1)], ""), bars(6, 1))
    assert trial.right.shape == (2, 6)
    assert trial.labels.tolist() == [0, 1, 0, 1, 0, 1]


class Sure(torch.nn.Module):
    """Says class 1 with a probability of 0.8 for every image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.2, 0.8]]).log().expand(len(x), -1)


def test_the_calibration_error_is_the_gap_between_probability_and_accuracy() -> None:
    """Sure of 0.8 and right in half of the cases."""
    assert judge([Sure()], bars(10, 0)).calibration_error == pytest.approx(0.3, abs=1e-6)  # type: ignore[list-item]


def test_features_of_an_image_do_not_depend_on_its_batch() -> None:
    train = bars(64, 0)
    (model,) = fit([Training(train, 2, 0, 3)], "")
    with torch.no_grad():
        together, alone = model.features(train.x), torch.cat([model.features(x[None]) for x in train.x])
    assert together.shape == (64, 256)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
