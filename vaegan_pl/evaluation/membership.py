"""How well an attack tells training images (members) from held-out images (others), with intervals over patients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from scipy.stats import norm

from vaegan_pl.evaluation import one_run
from vaegan_pl.evaluation.estimate import RESAMPLES, Estimate, bootstrap_ci, resampled_counts

FALSE_POSITIVES = 0.01
TENTH = 0.1
SMALL = 0.55
"""An attack that finds nothing has power if it would have detected an AUC of this size."""

POWER = 0.8
"""Probability with which an AUC of `Attack.detectable` is detected."""

Conclusion = Literal["found", "reversed", "nothing found", "no power"]
Values = Float[ndarray, " image"]
Codes = Int64[ndarray, " image"]


@dataclass(frozen=True)
class Scored:
    """The scores that an attack gives to images.

    Attributes:
        values: the scores; higher means more likely a member.
        groups: the patient, or what else belongs together, of each image.
    """

    values: Values
    groups: Sequence[str]


@dataclass(frozen=True)
class Attack:
    """What an attack finds. Intervals are bootstraps over patients.

    Attributes:
        members: number of training images.
        others: number of held-out images, which the model was not trained on.
        groups: number of groups (patients) of the members and of the others.
        auc: area under the ROC curve: how often a member scores higher than one of the others, in [0, 1]; 0.5 is
            chance.
        tpr: share of members above the score that at most a share of `FALSE_POSITIVES` of the others exceeds.
        highest: AUC of the most exposed tenth: members and others with the highest scores, a tenth of each. It shows
            whether a few images are given away, which the average over all can hide. 0.5 is chance.
        detectable: smallest AUC above 0.5 whose interval would exclude 0.5 with probability `POWER`.
        guesses: number of guesses of the audit of epsilon; see `one_run.guess`.
        correct: how many were correct.
        epsilon: lower bound on epsilon; see `one_run.epsilon_bound`. It assumes that each image was a member with
            probability 1/2, independently of all others.
    """

    members: int
    others: int
    groups: tuple[int, int]
    auc: Estimate
    tpr: Estimate
    highest: Estimate
    detectable: float
    guesses: int
    correct: int
    epsilon: float

    @property
    def conclusion(self) -> Conclusion:
        """`found` or `reversed` if the interval of the AUC excludes 0.5, else whether there was power to find it."""
        if self.auc.low > 0.5:
            return "found"
        if self.auc.high < 0.5:
            return "reversed"
        return "nothing found" if self.detectable <= SMALL else "no power"


def measure(members: Scored, others: Scored, seed: int) -> Attack:
    """How well scores tell members from others.

    Args:
        members: training images.
        others: held-out images, of other patients.
        seed: seed of the bootstrap and of the audit of epsilon.
    """
    random = np.random.default_rng(seed)
    sides = [_ordered(one) for one in (members, others)]
    counts = sides[0][2], sides[1][2]

    def resample(values: Values, codes: Codes, n: int) -> Values:
        return np.repeat(values, resampled_counts(random, n)[codes])

    whole = _figures(sides[0][0], sides[1][0])
    draws = np.array([_figures(*(resample(*side) for side in sides)) for _ in range(RESAMPLES)])
    auc, tpr, highest = (
        bootstrap_ci(value, resampled) if min(counts) > 1 else Estimate(value, 0.0, 1.0)  # one patient does not vary
        for value, resampled in zip(whole, draws.T, strict=True)
    )
    reach = float(norm.ppf(0.975) + norm.ppf(POWER)) * float(draws[:, 0].std())
    m, r, v = one_run.guess(members.values, others.values, seed)
    return Attack(
        members=len(members.values),
        others=len(others.values),
        groups=counts,
        auc=auc,
        tpr=tpr,
        highest=highest,
        detectable=min(1.0, 0.5 + reach) if min(counts) > 1 else 1.0,
        guesses=r,
        correct=v,
        epsilon=one_run.epsilon_bound(m, r, v, one_run.DELTA, one_run.ERROR),
    )


def _ordered(scored: Scored) -> tuple[Values, Codes, int]:
    """Scores in ascending order, which resampling keeps, the group of each, and the number of groups."""
    order = np.argsort(scored.values)
    groups, codes = np.unique(scored.groups, return_inverse=True)
    return scored.values[order], codes[order], len(groups)


def _figures(members: Values, others: Values) -> tuple[float, float, float]:
    return area(members, others), true_positives(members, others), area(_highest(members), _highest(others))


def area(members: Values, others: Values) -> float:
    """Area under the ROC curve: share of pairs in which the member scores higher; ties count half.

    Args:
        members: scores of members, in any order.
        others: scores of others, in ascending order.
    """
    below = np.searchsorted(others, members, "left") + np.searchsorted(others, members, "right")
    return float(below.mean() / (2 * len(others)))


def true_positives(members: Values, others: Values) -> float:
    """Largest share of members above a threshold that at most a share of `FALSE_POSITIVES` of the others exceeds.

    Carlini et al. 2022 (arXiv 2112.03570) explain why this says more about privacy than the AUC does.

    Args:
        members: scores of members, in any order.
        others: scores of others, in ascending order.
    """
    allowed = int(FALSE_POSITIVES * len(others) + 1e-9)
    return float((members > others[-1 - allowed]).mean())


def _highest(values: Values) -> Values:
    """The highest tenth of scores in ascending order."""
    return values[-max(1, round(TENTH * len(values))) :]
