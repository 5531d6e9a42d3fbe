"""Accuracies and their intervals by hand, and classifiers on images that are told apart at a glance."""

import numpy as np
import pytest
import torch

from vaegan_pl.evaluation.classifier import balanced_accuracy, fit, predict
from vaegan_pl.evaluation.usefulness import Labelled, Trial, classifiers, gain, judge, ratio


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
    trial = Trial(np.array([[True, True, False, False], [True, False, True, True]]), np.array([0, 0, 1, 1]))
    assert trial.value == pytest.approx((0.5 + 0.75) / 2)
    assert trial.per_class == [0.75, 0.5]
    assert trial.accuracy.low <= trial.value <= trial.accuracy.high


def test_the_interval_is_about_that_of_a_proportion() -> None:
    """One seed and 400 images of one class, 80 % right: a standard error of sqrt(0.8 * 0.2 / 400) = 0.02."""
    trial = Trial(np.array([[i % 5 > 0 for i in range(400)]]), np.zeros(400, dtype=np.int64))
    assert trial.accuracy.high - trial.accuracy.low == pytest.approx(2 * 1.96 * 0.02, rel=0.1)


def test_ratio_and_gain_compare_on_the_same_images() -> None:
    labels = np.repeat([0, 1], 50)
    good = Trial(np.array([np.arange(100) % 10 > 0] * 3), labels)
    bad = Trial(np.array([(np.arange(100) % 10 > 0) & (np.arange(100) % 2 == 0)] * 3), labels)
    assert gain(good, good).value == 0
    assert (gain(good, good).low, gain(good, good).high) == (0, 0)
    assert ratio(bad, good).value == pytest.approx(0.4 / 0.9)
    assert gain(bad, good).high < 0 < gain(good, bad).low


def test_classifiers_learn_what_is_plain_and_repeat_themselves() -> None:
    train, test = bars(64, 0), bars(40, 1)
    first, second = (fit(train.x, train.labels, 2, seed=3, description="", steps=20) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert balanced_accuracy((predict(first, test.x) == test.labels).numpy(), test.labels.numpy()) > 0.9


def test_each_seed_gives_a_row() -> None:
    train = bars(8, 0)
    models = classifiers(train, 2, seeds=[0, 1], name="", steps=1)
    trial = judge(models, bars(6, 1))
    assert trial.right.shape == (2, 6)
    assert trial.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_features_of_an_image_do_not_depend_on_its_batch() -> None:
    train = bars(64, 0)
    model = fit(train.x, train.labels, 2, seed=0, description="", steps=3)
    with torch.no_grad():
        together, alone = model.features(train.x), torch.cat([model.features(x[None]) for x in train.x])
    assert together.shape == (64, 256)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
