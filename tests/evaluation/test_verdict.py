"""Decisions from figures set by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vaegan_pl.evaluation.estimate import Estimate, halved
from vaegan_pl.evaluation.verdict import Limits, audit_limits, compare, decide, effect, grade, order, privacy_verdict

NONE = Limits((), None)
CHANCE = Estimate(0.5, 0.4, 0.6)
FIGURES = object()


@pytest.mark.parametrize(
    ("audits", "membership", "limits", "expected"),
    [
        (["PASS", "PASS"], CHANCE, NONE, "PASS"),
        (["PASS", "WARN"], CHANCE, NONE, "WARN"),
        (["WARN", "FAIL"], CHANCE, NONE, "FAIL"),
        (["PASS"], Estimate(0.7, 0.61, 0.8), NONE, "WARN"),
        (["PASS"], Estimate(0.3, 0.2, 0.39), NONE, "WARN"),
        (["PASS"], Estimate(0.7, 0.59, 0.8), NONE, "PASS"),
        (["PASS"], Estimate(0.3, 0.2, 0.41), NONE, "PASS"),
        (["PASS"], CHANCE, Limits(("exact",), None), "WARN"),
        (["PASS"], CHANCE, Limits((), 99), "WARN"),
        (["FAIL"], CHANCE, Limits((), 99), "FAIL"),
        (["PASS", "NO POWER"], CHANCE, NONE, "NO POWER"),
        (["WARN", "NO POWER"], CHANCE, NONE, "WARN"),
    ],
)
def test_the_verdict_is_the_worst_of_all_signs(
    audits: list[str], membership: Estimate, limits: Limits, expected: str
) -> None:
    assert privacy_verdict(audits, [CHANCE, membership], limits) == expected


def test_an_audit_that_misses_plain_copies_or_has_few_images_is_limited() -> None:
    shares = {"exact": 1.0, "mirrored": 0.79, "shifted by 3 pixels": 0.8, "rotated by 5 degrees": 0.0}
    detection = {name: Estimate(share, share, share) for name, share in shares.items()}
    assert audit_limits(detection, 99) == Limits(("mirrored",), 99)
    assert audit_limits(detection, 100) == Limits(("mirrored",), None)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(-2, -1, "nearer"), (-1, 0, "as far"), (-1, 1, "as far"), (0.1, 5, "farther")]
)
def test_a_difference_whose_interval_contains_0_tells_no_distances_apart(
    low: float, high: float, expected: str
) -> None:
    assert compare(Estimate((low + high) / 2, low, high)) == expected


@pytest.mark.parametrize(
    ("share", "expected"), [(0.849, "poor"), (0.85, "good"), (0.949, "good"), (0.95, "excellent"), (1.1, "excellent")]
)
def test_grades_begin_at_their_thresholds(share: float, expected: str) -> None:
    assert grade(share) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.1, "helps"), (0.0, 0.1, "no difference"), (-0.1, 0.1, "no difference"), (-0.1, -0.01, "harms")],
)
def test_a_gain_counts_if_its_interval_leaves_out_zero(low: float, high: float, expected: str) -> None:
    assert effect(Estimate((low + high) / 2, low, high)) == expected


@pytest.mark.parametrize(("audit", "usefulness"), [("FAIL", None), ("WARN", FIGURES), ("PASS", FIGURES)])
def test_usefulness_is_withheld_only_if_the_copy_audit_failed(audit: str, usefulness: object) -> None:
    evaluation: Any = SimpleNamespace(
        default="prior",
        metrics={"prior": {"KID": halved(1, np.ones((2, 2))), "Vendi score": CHANCE}},
        audits={"prior": SimpleNamespace(verdict=audit)},
        membership={"score": CHANCE},
        usefulness=FIGURES,
    )
    reference: Any = SimpleNamespace(
        detection=dict.fromkeys(("exact", "mirrored", "shifted by 3 pixels"), Estimate(1, 1, 1)),
        calibration=SimpleNamespace(images=1000),
        pca_baseline={"KID": halved(3, np.full((2, 2), 3.0))},
        real={"Vendi score": CHANCE},
    )
    decided = decide(evaluation, reference)
    assert (decided.privacy, decided.distance, decided.limits) == (audit, "nearer", NONE)
    assert decided.usefulness is usefulness
    assert decided.withheld == (audit == "FAIL")
    assert decided.collapsed is None
    evaluation.usefulness = None
    assert not decide(evaluation, reference).withheld
    evaluation.metrics["prior"]["Vendi score"] = Estimate(0.2, 0.1, 0.3)
    assert decide(evaluation, reference).collapsed == 0.4


def test_models_differ_if_the_interval_of_their_difference_leaves_out_zero() -> None:
    random = np.random.default_rng(0)
    base = random.standard_normal((10, 2))
    models = [
        {"KID": halved(value, base + value + 0.01 * random.standard_normal((10, 2)))} for value in (1.0, 1.1, 1.1)
    ]
    assert order(models[1], models[0], "KID", higher_is_better=False) == "worse"
    assert order(models[1], models[0], "KID", higher_is_better=True) == "better"
    assert order(models[1], models[2], "KID", higher_is_better=False) == "no clear difference"
