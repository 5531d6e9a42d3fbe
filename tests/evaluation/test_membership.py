"""How well attacks do, against scikit-learn, by hand, and in simulations with patients."""

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from vaegan_pl.evaluation import membership
from vaegan_pl.evaluation.membership import Attack, Scored, area, measure, true_positives

Values = np.ndarray


def of_patients(random: np.random.Generator, patients: int, shift: float = 0.0, each: int = 6) -> Scored:
    """Scores of patients with `each` images, half of whose variance is between patients."""
    groups = np.repeat(np.arange(patients), each)
    values = random.normal(size=patients)[groups] + random.normal(size=len(groups)) + shift
    return Scored(values, [str(group) for group in groups])


def alone(scored: Scored) -> Scored:
    """The same scores, each image a patient of its own."""
    return Scored(scored.values, [str(i) for i in range(len(scored.values))])


def p_value(attack: Attack) -> float:
    """One-sided, by the width of the interval of the AUC."""
    deviation = (attack.auc.high - attack.auc.low) / (2 * norm.ppf(0.975))
    return float(norm.sf((attack.auc.value - 0.5) / deviation))


@pytest.mark.parametrize("decimals", [8, 0])
def test_the_figures_are_those_of_scikit_learn(decimals: int) -> None:
    """With and without equal scores."""
    random = np.random.default_rng(0)
    members, others = random.normal(0.7, 1, 640).round(decimals), random.normal(size=730).round(decimals)
    others.sort()
    truth, scores = np.r_[np.ones(640), np.zeros(730)], np.r_[members, others]
    assert area(members, others) == pytest.approx(roc_auc_score(truth, scores))
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert true_positives(members, others) == pytest.approx(true[false <= 0.01].max())


def test_figures_by_hand() -> None:
    """Of the six pairs, the member scores higher in five; one of two members lies above all others."""
    members, others = np.array([3.0, 1.5]), np.array([0.0, 1.0, 2.0])
    assert area(members, others) == pytest.approx(5 / 6)
    assert true_positives(members, others) == 0.5
    hundred = np.arange(100.0)  # one of a hundred may lie above the threshold
    assert true_positives(np.array([97.5, 98.5, 99.5, 98.0]), hundred) == 0.5


def test_the_most_exposed_tenth_shows_what_the_average_hides() -> None:
    """One member in ten is given away: the AUC is 0.55, but all of the highest scores are members'."""
    random = np.random.default_rng(0)
    members, others = random.normal(size=500), random.normal(size=500)
    members[:50] += 10
    found = measure(alone(Scored(members, [])), alone(Scored(others, [])), 0)
    assert found.auc.value == pytest.approx(0.55, abs=0.03)
    assert found.highest.value == 1.0
    assert found.tpr.value == pytest.approx(0.1, abs=0.02)


def test_p_values_of_attacks_that_know_nothing_are_uniform_over_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking images for independent would give far too many small p-values."""
    monkeypatch.setattr(membership, "RESAMPLES", 200)
    random = np.random.default_rng(0)
    pairs = [(of_patients(random, 40), of_patients(random, 40)) for _ in range(100)]
    found = [measure(*pair, seed) for seed, pair in enumerate(pairs)]
    assert kstest([p_value(one) for one in found], "uniform").pvalue > 0.05
    assert np.mean([one.auc.low <= 0.5 <= one.auc.high for one in found]) >= 0.9
    as_independent = [p_value(measure(alone(one), alone(other), seed)) for seed, (one, other) in enumerate(pairs)]
    assert kstest(as_independent, "uniform").pvalue < 1e-3


def test_the_detectable_auc_is_detected_four_times_in_five(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores whose AUC is the detectable one: the difference of two scores has a variance of 4."""
    monkeypatch.setattr(membership, "RESAMPLES", 200)
    random = np.random.default_rng(1)
    null = [measure(of_patients(random, 40), of_patients(random, 40), 0).detectable for _ in range(20)]
    shift = 2 * norm.ppf(np.mean(null))
    found = [measure(of_patients(random, 40, shift), of_patients(random, 40), 0).conclusion for _ in range(100)]
    assert found.count("found") == pytest.approx(80, abs=12)


@pytest.mark.parametrize(
    ("patients", "shift", "conclusion"),
    [(40, 2.0, "found"), (40, -2.0, "reversed"), (40, 0.0, "no power"), (2000, 0.0, "nothing found")],
)
def test_conclusions(patients: int, shift: float, conclusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "RESAMPLES", 100)
    random = np.random.default_rng(3)
    found = measure(of_patients(random, patients, shift), of_patients(random, patients), 0)
    assert found.conclusion == conclusion
    assert (found.detectable <= 0.55) == (patients == 2000)
    assert found.groups == (patients, patients)


def test_a_single_patient_shows_nothing() -> None:
    random = np.random.default_rng(0)
    found = measure(of_patients(random, 1, 9.0), of_patients(random, 30), 0)
    assert (found.auc.low, found.auc.high, found.detectable, found.conclusion) == (0.0, 1.0, 1.0, "no power")
