"""The sentences that say what an evaluation found; the page, the model card and the console share them."""

from collections.abc import Sequence

from vaegan_pl.evaluation.evaluation import BY_CLASS, CEILING, PRIOR, Evaluation
from vaegan_pl.evaluation.reference import Reference
from vaegan_pl.evaluation.verdict import Limits, Verdict, decide, effect, grade
from vaegan_pl.report.model_card import NOT_A_GUARANTEE

WITHHELD = "Not shown: the copy audit failed, and samples that copy training images always look useful"
SAMPLES = {PRIOR: "samples of N(0, I)", BY_CLASS: "samples", CEILING: "ceiling"}
"""What each set of samples is called."""

_DISTANCES = {
    "nearer": "nearer to real images than",
    "farther": "farther from real images than",
    "as far": "about as far from real images as",
}
_EFFECTS = {"helps": "helps", "harms": "hurts", "no difference": "makes no measurable difference"}


def names(evaluations: Sequence[Evaluation]) -> list[str]:
    """The names of models in tables: the fewest last parts of their paths that tell them apart."""
    parts = [one.path.resolve().parts for one in evaluations]
    for depth in range(2, max(map(len, parts)) + 1):
        found = ["/".join(path[-depth:]) for path in parts]
        if len(set(found)) == len(found):
            return [name.removesuffix("/vae_gan_model.pth") for name in found]
    return [str(one.path) for one in evaluations]


def sentences(evaluation: Evaluation, reference: Reference) -> dict[str, str]:
    """What the figures say about each of the four claims that are made for such models."""
    decided = decide(evaluation, reference)
    metrics, real = evaluation.metrics[evaluation.default], reference.real
    return {
        "structure": f"Samples are {_DISTANCES[decided.distance]} draws from a Gaussian of "
        f"{len(reference.components.axes)} principal components (KID, a distance between sets of images: "
        f"{metrics['KID'].value:.3g} against {reference.pca_baseline['KID'].value:.3g}; training images reach "
        f"{real['KID'].value:.2g}). {metrics['precision'].value:.0%} of the samples lie among held-out images.",
        "variety": f"Samples cover {metrics['coverage'].value:.0%} of the held-out images; other real images cover "
        f"{real['coverage'].value:.0%}. Two random samples have an MS-SSIM of "
        f"{metrics['MS-SSIM of pairs'].value:.2f} on average, two real images {real['MS-SSIM of pairs'].value:.2f}: "
        "the higher, the more alike.",
        "usefulness": _useful_words(decided),
        "privacy": _private_words(evaluation, decided),
    }


def _useful_words(decided: Verdict) -> str:
    if decided.withheld:
        return f"{WITHHELD}."
    if decided.usefulness is None:
        return "Not measured: the model file has no classes to sample from, or seeds=0."
    found = decided.usefulness.accuracies
    reached, gain = found["TSTR / TRTR"], found["augmentation gain"]
    return (
        f"Classifiers trained on samples alone reach {reached.value:.0%} of the balanced accuracy of classifiers "
        f"trained on real images ({found['TSTR'].value:.1%} against {found['TRTR'].value:.1%}), which is "
        f"{grade(reached.value)}. Adding samples to real images {_EFFECTS[effect(gain)]} "
        f"({100 * gain.value:+.1f} percentage points, from {100 * gain.low:+.1f} to {100 * gain.high:+.1f})."
    )


def _private_words(evaluation: Evaluation, decided: Verdict) -> str:
    copies = " and ".join(
        f"{audit.copies} of {len(audit.nearest.correlation)} {SAMPLES[name]} ({audit.rate.value:.1%})"
        for name, audit in evaluation.audits.items()
    )
    score, area = max(evaluation.membership.items(), key=lambda item: abs(item[1].value - 0.5))
    words = [
        f"{decided.privacy}: {copies} count as copies of training images. "
        "So do 1 % of the held-out images, by construction.",
        _limits(decided.limits),
        _memorised(evaluation),
        f"The {score} tells training images from held-out ones with an AUC of {area.value:.2f} (0.5 is chance).",
        NOT_A_GUARANTEE,
    ]
    return " ".join(filter(None, words))


def _limits(limits: Limits) -> str:
    if limits.missed:
        return f"The copy audit misses plain copies ({', '.join(limits.missed)}), so finding none says little."
    if limits.held_out is not None:
        return f"{limits.held_out} held-out images are too few to measure a rate of 1 %."
    return ""


def _memorised(evaluation: Evaluation) -> str:
    if evaluation.memorised is None:
        return ""
    share = evaluation.memorised.value
    return f"The copy audit recognises {share:.0%} of this model's own reconstructions of training images."
