"""The sentences that say what an evaluation found; the page, the model card and the console share them."""

from collections.abc import Mapping, Sequence

from vaegan_pl.evaluation.attacks import (
    ATTACKS,
    CALIBRATED,
    DENSITY,
    DISCRIMINATOR,
    LEAST_MODELS,
    LIRA,
    RECONSTRUCTION,
)
from vaegan_pl.evaluation.estimate import difference
from vaegan_pl.evaluation.evaluation import BY_CLASS, CEILING, PRIOR, Evaluation
from vaegan_pl.evaluation.membership import Attack
from vaegan_pl.evaluation.metrics import Metrics
from vaegan_pl.evaluation.privacy import POWER
from vaegan_pl.evaluation.reference import LEAST_POPULATION, Reference
from vaegan_pl.evaluation.verdict import Limits, Verdict, decide, effect, grade, order
from vaegan_pl.pretrained import NAME, is_pretrained
from vaegan_pl.report.model_card import NOT_A_GUARANTEE

WITHHELD = "Not shown: the copy audit failed, and samples that copy training images always look useful"
SAMPLES = {PRIOR: "samples of N(0, I)", BY_CLASS: "samples", CEILING: "ceiling"}
"""What each set of samples is called."""

_DISTANCES = {
    "nearer": "nearer to real images than",
    "farther": "farther from real images than",
    "as far": "about as far from real images as",
}
COMPARED = {"KID": False, "coverage": True, "precision": True, "PSNR": True}
"""Figures in which models are compared with each other, and whether higher values are better."""

ATTACKED = {
    RECONSTRUCTION: "model file",
    DISCRIMINATOR: "model file",
    DENSITY: "samples",
    CALIBRATED: "model file",
    LIRA: "model file",
}
"""What each attack needs."""

_UNTRIED = {
    RECONSTRUCTION: "the reconstruction error (the model has no encoder)",
    DISCRIMINATOR: "the discriminator's score (the file contains no discriminator)",
    DENSITY: f"the density ratio of samples (needs at least {LEAST_POPULATION} validation images not held out)",
    CALIBRATED: "the calibrated reconstruction error (needs an encoder and references=[PATH,...]; may find more)",
    LIRA: f"LiRA (needs an encoder and at least {LEAST_MODELS} reference models)",
}
_NEVER_TRIED = (
    "reference models that were trained on the image in question (LiRA's online attack)",
    "recovering training images by optimisation",
    "inferring attributes",
    "attacks with other images of the same patient",
)

_ASSIGNED = {
    "patients": "here, whole patients were",
    "pictures": "here, groups of near-copies were",
    "nothing": "here, the folders decided",
}
"""How images became training images, by what the split keeps apart."""

_EFFECTS = {"helps": "helps", "harms": "hurts", "no difference": "makes no measurable difference"}


def names(evaluations: Sequence[Evaluation]) -> list[str]:
    """The names of models in tables: `pretrained`, or the fewest last parts of their paths that tell them apart."""
    parts = [(NAME,) if is_pretrained(one.path) else one.path.resolve().parts for one in evaluations]
    for depth in range(2, max(map(len, parts)) + 1):
        found = ["/".join(path[-depth:]) for path in parts]
        if len(set(found)) == len(found):
            return [name.removesuffix("/vae_gan_model.pth") for name in found]
    return [str(one.path) for one in evaluations]


def sentences(evaluation: Evaluation, reference: Reference) -> dict[str, str]:
    """What the figures say about each of the four claims that are made for such models."""
    decided = decide(evaluation, reference)
    metrics, real = evaluation.metrics[evaluation.default], reference.real
    collapsed = ""
    if decided.collapsed is not None:
        collapsed = (
            f"The samples have COLLAPSED: their variety (Vendi score) is {decided.collapsed:.0%} of that of real "
            "images. Good values of other metrics do not make up for that. "
        )
    return {
        "structure": f"{collapsed}Samples are {_DISTANCES[decided.distance]} draws from a Gaussian of "
        f"{len(reference.components.axes)} principal components (KID, a distance between sets of images: "
        f"{metrics['KID'].value:.3g} against {reference.pca_baseline['KID'].value:.3g}; training images reach "
        f"{real['KID'].value:.2g}). {metrics['precision'].value:.0%} of the samples lie among held-out images."
        f"{_told_apart(evaluation, reference)}",
        "variety": f"{collapsed}Samples cover {metrics['coverage'].value:.0%} of the held-out images; other real "
        f"images cover {real['coverage'].value:.0%}. Two random samples have an MS-SSIM of "
        f"{metrics['MS-SSIM of pairs'].value:.2f} on average, two real images {real['MS-SSIM of pairs'].value:.2f}: "
        "the higher, the more alike.",
        "usefulness": _useful_words(decided),
        "privacy": _private_words(evaluation, decided, reference.collection.keeps_apart),
    }


def _useful_words(decided: Verdict) -> str:
    if decided.withheld:
        return f"{WITHHELD}."
    if decided.usefulness is None:
        return "Not measured: the model file has no two classes to sample from, or seeds=0 or quick=true was given."
    found = decided.usefulness.accuracies
    reached, gain = found["TSTR / TRTR"], found["augmentation gain"]
    return (
        f"Classifiers trained on samples alone reach {reached.value:.0%} of the balanced accuracy of classifiers "
        f"trained on real images ({found['TSTR'].value:.1%} against {found['TRTR'].value:.1%}), "
        f"{'which is ' + grade(reached.value) if decided.collapsed is None else 'but the samples have collapsed'}. "
        f"A Gaussian of each class reaches {found['TSTR of Gaussians'].value:.1%}. Adding samples to real images, with "
        f"each real image seen equally often, {_EFFECTS[effect(gain)]} ({100 * gain.value:+.1f} percentage points, "
        f"from {100 * gain.low:+.1f} to {100 * gain.high:+.1f})."
    )


def _private_words(evaluation: Evaluation, decided: Verdict, keeps_apart: str) -> str:
    copies = " and ".join(
        f"{audit.copies} of {len(audit.nearest.correlation)} {SAMPLES[name]} ({audit.rate.value:.1%})"
        for name, audit in evaluation.audits.items()
    )
    words = [
        f"{decided.privacy}: {copies} count as copies of training images. "
        "So do 1 % of the held-out images, by construction.",
        _limits(decided.limits),
        _memorised(evaluation),
        _attacked(evaluation, keeps_apart),
        NOT_A_GUARANTEE,
    ]
    return " ".join(filter(None, words))


def _attacked(evaluation: Evaluation, keeps_apart: str) -> str:
    if not evaluation.attacks:
        return "No membership attack was possible."
    name, attack = max(evaluation.attacks.items(), key=lambda item: abs(item[1].auc.value - 0.5))
    return (
        f"Of the membership attacks ({len(evaluation.attacks)}), the {name} is furthest from chance: it tells training "
        f"images from held-out ones with an AUC of {attack.auc} (0.5 is chance), and finds {attack.tpr.value:.1%} of "
        f"the training images at 1 % false positives ({conclusion(attack)}). Its {attack.guesses} guesses, a number "
        f"fixed beforehand, bound epsilon from below by {attack.epsilon:.1f}. The bound assumes that images were "
        f"assigned to training one by one at random; {_ASSIGNED[keeps_apart]}. A lower bound is no guarantee: another "
        "attack may find more."
    )


def conclusion(attack: Attack) -> str:
    """What follows from an attack, in a few words."""
    return {
        "found": "membership leaks",
        "reversed": "training images score lower than held-out ones",
        "nothing found": f"nothing found, although an AUC of {attack.detectable:.2f} would probably have been",
        "no power": f"NO POWER: an AUC below {attack.detectable:.2f} could have gone unnoticed",
    }[attack.conclusion]


def attack_lines(evaluation: Evaluation) -> list[str]:
    """What each attack found, in a line each."""
    return [
        f"{name} ({ATTACKED[name]}): AUC {attack.auc}, {attack.tpr.value:.1%} of training images at 1 % false "
        f"positives, epsilon at least {attack.epsilon:.1f}; {conclusion(attack)}"
        for name, attack in evaluation.attacks.items()
    ]


def if_shared(evaluation: Evaluation) -> dict[str, str]:
    """What the attacks found, by what is shared: samples, the decoder, or the whole file."""
    from_samples = {name: attack for name, attack in evaluation.attacks.items() if ATTACKED[name] == "samples"}
    found = {
        "If samples are shared": _found(from_samples),
        "If the decoder is shared": "whoever has it can draw any number of samples, so at least what samples reveal",
    }
    if set(evaluation.model.networks.names) > {"decoder"}:
        from_file = {name: attack for name, attack in evaluation.attacks.items() if name not in from_samples}
        found["If the whole file is shared"] = f"what samples reveal, and: {_found(from_file)}"
    return found


def _found(attacks: Mapping[str, Attack]) -> str:
    return "; ".join(f"{name}: AUC {attack.auc}, {conclusion(attack)}" for name, attack in attacks.items()) or (
        "no attack was possible, which shows nothing"
    )


def not_tried(evaluation: Evaluation) -> str:
    """Which attacks were not tried, and why."""
    missing = [_UNTRIED[name] for name in ATTACKS if name not in evaluation.attacks]
    return f"Not tried: {'; '.join([*missing, *_NEVER_TRIED])}."


def _limits(limits: Limits) -> str:
    if limits.missed:
        return f"The copy audit misses simple copies ({', '.join(limits.missed)}), so finding none is weak evidence."
    if limits.held_out is not None:
        return f"{limits.held_out} held-out images are too few to measure a rate of 1 %."
    return ""


def _memorised(evaluation: Evaluation) -> str:
    if evaluation.memorised is None:
        return "This model cannot reconstruct images, so it is unknown whether the audit would recognise its copies."
    share = evaluation.memorised.value
    means = ", so finding no copies is weak evidence" if share < POWER else ""
    return f"The copy audit recognises {share:.0%} of this model's own reconstructions of training images{means}."


def _told_apart(evaluation: Evaluation, reference: Reference) -> str:
    if evaluation.told_apart is None:
        return ""
    return (
        f" A classifier tells samples from held-out images with an AUC of {evaluation.told_apart.value:.2f}, and "
        f"training images from held-out images with {reference.told_apart.value:.2f} (0.5: not at all; other patients "
        "make it larger)."
    )


def comparisons(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """How each model compares with the first: its name, and for each of `COMPARED` the difference and what it means."""
    first, *others = zip(names(evaluations), evaluations, strict=True)
    rows = []
    for name, one in others:
        cells = [f"{name} against {first[0]}"]
        for figure, higher in COMPARED.items():
            sides = [_figures(evaluation) for evaluation in (one, first[1])]
            if all(figure in side for side in sides):
                gap = difference(sides[0][figure], sides[1][figure])
                cells.append(f"{order(sides[0], sides[1], figure, higher_is_better=higher)}: {gap}")
            else:
                cells.append("")
        rows.append(cells)
    return rows


def _figures(evaluation: Evaluation) -> Metrics:
    return {**evaluation.metrics[evaluation.default], **(evaluation.reconstruction or {})}
