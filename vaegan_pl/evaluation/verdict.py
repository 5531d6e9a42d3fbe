"""The decisions that follow from an evaluation's metrics; reports only turn them into words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from vaegan_pl.evaluation import privacy
from vaegan_pl.evaluation.estimate import Estimate, difference
from vaegan_pl.evaluation.evaluation import Evaluation
from vaegan_pl.evaluation.metrics import Metrics
from vaegan_pl.evaluation.privacy import FAIL, PASS, WARN
from vaegan_pl.evaluation.reference import Reference
from vaegan_pl.evaluation.usefulness import Usefulness

GOOD, EXCELLENT = 0.85, 0.95
"""Smallest TSTR / TRTR of each grade."""

LEAST_VARIETY = 0.5
"""Samples whose Vendi score is a smaller share of that of training images have collapsed."""

TELLING_AUC = 0.6
"""Membership can be inferred if the whole interval of an AUC lies above this, or below one minus this."""

PLAIN, SEEN = ("exact", "mirrored", "shifted by 3 pixels"), 0.8
"""Planted copies, and the share of each that a copy audit must find to be conclusive."""

Distance = Literal["nearer", "farther", "as far"]
Order = Literal["better", "worse", "no clear difference"]
Grade = Literal["excellent", "good", "poor"]
Effect = Literal["helps", "harms", "no difference"]


@dataclass(frozen=True)
class Limits:
    """Why a copy audit is inconclusive.

    Attributes:
        missed: the kinds of `PLAIN` copies that it finds in less than a share of `SEEN`.
        held_out: number of held-out images if they are too few, else None.
    """

    missed: tuple[str, ...]
    held_out: int | None

    def __bool__(self) -> bool:
        """Whether there is any such reason."""
        return bool(self.missed) or self.held_out is not None


@dataclass(frozen=True)
class Verdict:
    """The conclusions about a model.

    Attributes:
        privacy: one of `privacy.VERDICTS`; see `privacy_verdict`.
        limits: of the copy audit.
        collapsed: the variety of the default samples as a share of that of training images, in [0, 1], if it is below
            `LEAST_VARIETY`, else None.
        distance: whether samples are nearer to held-out images than draws from the Gaussian are; see `compare`.
        usefulness: the metrics that may be shown; None if they were not measured or are withheld.
        withheld: whether usefulness was measured but is not shown, because the copy audit failed: classifiers learn
            well from copies of training images, so the metrics would say nothing about the model.
    """

    privacy: str
    limits: Limits
    collapsed: float | None
    distance: Distance
    usefulness: Usefulness | None
    withheld: bool


def decide(evaluation: Evaluation, reference: Reference) -> Verdict:
    """The decisions about a model.

    Args:
        evaluation: the model's figures.
        reference: the figures of real images and of the Gaussian.
    """
    limits = audit_limits(reference.detection, reference.calibration.images)
    verdict = privacy_verdict(
        (audit.verdict for audit in evaluation.audits.values()), evaluation.membership.values(), limits
    )
    failed = verdict == FAIL
    variety = evaluation.metrics[evaluation.default]["Vendi score"].value / reference.real["Vendi score"].value
    return Verdict(
        privacy=verdict,
        limits=limits,
        collapsed=variety if variety < LEAST_VARIETY else None,
        distance=compare(difference(evaluation.metrics[evaluation.default]["KID"], reference.pca_baseline["KID"])),
        usefulness=None if failed else evaluation.usefulness,
        withheld=failed and evaluation.usefulness is not None,
    )


def audit_limits(detection: Mapping[str, Estimate], held_out: int) -> Limits:
    """The reasons why a copy audit is inconclusive.

    Args:
        detection: share of planted copies that it finds; see `privacy.detection`.
        held_out: number of images that calibrated it.
    """
    missed = tuple(name for name in PLAIN if detection[name].value < SEEN)
    return Limits(missed, held_out if held_out < privacy.LEAST_HELD_OUT else None)


def privacy_verdict(audits: Iterable[str], membership: Iterable[Estimate], limits: Limits) -> str:
    """The worst verdict of the copy audits; at least `WARN` if membership can be inferred or plain copies are missed.

    Args:
        audits: verdict of each set of samples.
        membership: AUC of each score, in [0, 1].
        limits: of the copy audit.
    """
    found = set(audits)
    if FAIL in found:
        return FAIL
    shows = any(max(area.low, 1 - area.high) > TELLING_AUC for area in membership)
    return WARN if shows or limits else max(found, key=privacy.VERDICTS.index, default=PASS)


def compare(gap: Estimate) -> Distance:
    """How a distance compares with that of a baseline, by their difference: `as far` if its interval contains 0."""
    return "nearer" if gap.high < 0 else "farther" if gap.low > 0 else "as far"


def order(one: Metrics, other: Metrics, name: str, *, higher_is_better: bool) -> Order:
    """Whether a figure of one model is better than that of another, by the interval of their difference.

    Args:
        one: figures of the model in question.
        other: figures of the other model, from the same held-out images and divisions.
        name: which figure.
        higher_is_better: whether larger values are better.
    """
    gap = difference(one[name], other[name])
    if gap.low <= 0 <= gap.high:
        return "no clear difference"
    return "better" if (gap.value > 0) == higher_is_better else "worse"


def grade(share: float) -> Grade:
    """The grade of TSTR / TRTR, the share of the accuracy of real images that samples reach."""
    return "excellent" if share >= EXCELLENT else "good" if share >= GOOD else "poor"


def effect(gain: Estimate) -> Effect:
    """Whether adding samples to real images changes the accuracy: only if 0 lies outside the interval of the gain."""
    return "helps" if gain.low > 0 else "harms" if gain.high < 0 else "no difference"
