"""The HTML page of an evaluation."""

from collections.abc import Sequence
from textwrap import fill

import torch
from matplotlib.figure import Figure

from vaegan_pl.evaluation import privacy, verdict
from vaegan_pl.evaluation.evaluation import PRIOR, STEPS, Evaluation
from vaegan_pl.evaluation.privacy import Audit
from vaegan_pl.evaluation.reference import Reference
from vaegan_pl.evaluation.usefulness import Usefulness
from vaegan_pl.evaluation.verdict import decide
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.report.evaluation_table import ATTACK, CLOSE, USEFULNESS, columns, table
from vaegan_pl.report.evaluation_words import (
    ATTACKED,
    COMPARED,
    SAMPLES,
    comparisons,
    conclusion,
    if_shared,
    names,
    not_tried,
    sentences,
)
from vaegan_pl.report.model_card import NOT_A_GUARANTEE
from vaegan_pl.report.page import Picture, Section, Table, literal, picture, render
from vaegan_pl.report.pictures import Images, grid, pairs

SHOWN, COLUMNS = 64, 8
SHOWN_PAIRS = 16
CHART_WIDTH = 4.4
"""Inches: narrow enough for a phone without shrinking the text."""

_LABEL_WIDTH = 22

_ATTACK_COLUMNS = {
    "attacked": "What the attacker has.",
    "AUC": "Area under the ROC curve: how often a random training image scores higher than a random held-out one. 0.5 "
    "is chance; 1 means that the score shows for every image whether the model was trained on it. Intervals of this "
    "table are bootstraps over patients.",
    "found at 1 % FPR": "Share of training images above the score that 1 % of the held-out images exceed: the "
    "true-positive rate at a false-positive rate of 1 %. 0.01 is chance.",
    "most exposed tenth": "AUC of the tenth of the training images with the highest scores against the tenth of the "
    "held-out images with the highest scores. It shows whether a few images are given away, which the AUC of all can "
    "hide. 0.5 is chance.",
    "correct guesses": "The images with the highest scores were guessed to be training images, those with the lowest "
    "not to be. Their number was fixed beforehand.",
    "epsilon at least": "If the training were differentially private with a smaller epsilon, this many correct guesses "
    "would have a probability below 5 % (arXiv 2305.08846). It assumes that each image was assigned to training on its "
    "own, at random; where patients are split, it was not. A lower bound is no guarantee.",
    "detectable AUC": "Smallest AUC that would have been told from 0.5 with a probability of 80 %: the power of the "
    "attack.",
    "conclusion": "NO POWER: the interval of the AUC contains 0.5, and an AUC of 0.55 could have gone unnoticed.",
}


def page(evaluations: Sequence[Evaluation], reference: Reference) -> str:
    """The page as HTML, with a summary of all models and the sections of each."""
    collection = reference.collection
    lead = [
        f"{len(reference.held_out.x):,} held-out images of {collection.root.resolve().name}; {reference.n:,} samples "
        f"of each model; {reference.compared:,} of each are compared at a time. Images are compared by their features: "
        f"{reference.space}."
    ]
    if collection.is_phantom:
        lead.insert(0, "These are PHANTOMS, drawn by this project. They are not MRI.")
    sections = [_summary(evaluations, reference)]
    for name, one in zip(names(evaluations), evaluations, strict=True):
        prefix = f"{name}: " if len(evaluations) > 1 else ""
        sections += [
            _pictures(one, reference, prefix),
            *_classes(one, reference, prefix),
            *_latent_space(one, prefix),
            _privacy(one, reference, prefix),
        ]
        useful = decide(one, reference).usefulness
        if useful is not None:
            sections.append(_usefulness(useful, sentences(one, reference)["usefulness"], reference, prefix))
    sections += [_copy_audit(reference), _settings(evaluations, reference)]
    return render("Evaluation", lead, sections)


def _summary(evaluations: Sequence[Evaluation], reference: Reference) -> Section:
    text = [
        f"{name + ', ' if len(evaluations) > 1 else ''}{claim}: {words}"
        for name, one in zip(names(evaluations), evaluations, strict=True)
        for claim, words in sentences(one, reference).items()
    ]
    tables = [table(evaluations, reference)]
    if len(evaluations) > 1:
        text.append(
            "Each model is compared with the first on the same held-out images. Each cell shows the difference and its "
            "95 % interval. Better or worse means that the interval does not contain 0."
        )
        tables.append(Table(["default samples of", *COMPARED], comparisons(evaluations)))
    return Section("What was found", text, tables, [_chart(evaluations, reference)])


def _chart(evaluations: Sequence[Evaluation], reference: Reference) -> Picture:
    named = {"real images": reference.real, "Gaussian": reference.pca_baseline}
    sets = [metrics for one in evaluations for metrics in one.metrics.values()]
    named |= dict(zip(columns(evaluations), sets, strict=True))
    labels = [fill(literal(name), _LABEL_WIDTH) for name in named]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(CHART_WIDTH, 3 * (0.85 + 0.12 * len(labels) + 0.18 * lines)), layout="constrained")
    for axes, name in zip(figure.subplots(3, 1), ("KID", "precision", "coverage"), strict=True):
        for i, metrics in enumerate(named.values()):
            level = metrics[name]
            reach = [[max(0.0, level.value - level.low)], [max(0.0, level.high - level.value)]]
            axes.errorbar(level.value, i, xerr=reach, fmt="o", capsize=3, color="tab:gray" if i < 2 else "tab:blue")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_title(name)
        axes.grid(axis="x", alpha=0.3)
    return picture(
        figure, "KID, precision and coverage with their intervals", "The bars are intervals, as in the table."
    )


def _pictures(one: Evaluation, reference: Reference, prefix: str) -> Section:
    source = _source(one.model)
    shown = [
        _grid(images[:SHOWN], COLUMNS, f"{_heading(name)}. {source}", SAMPLES[name])
        for name, images in one.samples.items()
    ]
    if one.reconstructions is not None:
        held_out = reference.held_out.x
        some = torch.linspace(0, len(held_out) - 1, min(16, len(held_out))).long()
        caption = f"Held-out images, above their reconstructions. {source}"
        shown.append(_pairs(held_out[some], one.reconstructions[some], caption, "reconstructions"))
    if one.interpolations is not None:
        caption = f"On straight lines between the posterior means of two held-out images. {source}"
        shown.append(_grid(one.interpolations, STEPS, caption, "interpolations"))
    return Section(f"{prefix}pictures", [], [], shown)


def _source(model: SavedModel) -> str:
    return f"Trained on {model.trained_on.caption}."


def _heading(samples: str) -> str:
    return SAMPLES[samples].capitalize()


def _grid(images: Images, columns: int, caption: str, alt: str) -> Picture:
    return picture(grid(images, columns, caption), alt, drawn_caption=caption)


def _pairs(above: Images, below: Images, caption: str, alt: str) -> Picture:
    return picture(pairs(above, below, caption), alt, drawn_caption=caption)


def _classes(one: Evaluation, reference: Reference, prefix: str) -> list[Section]:
    if not one.by_class:
        return []
    rows = [
        [name, *(f"{value:.2f} of {bar:.2f}" for value, bar in zip(vars(found).values(), real, strict=True))]
        for name, found in one.by_class.items()
        for real in [vars(reference.real_by_class[name]).values()]
    ]
    text = [
        "Samples of each class, compared with held-out images of that class. The second number in a cell is what the "
        "training images of that class reach. Compare along rows only: these figures depend on the number of images, "
        "which differs between classes."
    ]
    return [Section(f"{prefix}classes", text, [Table(["class", *CLOSE], rows)])]


def _latent_space(one: Evaluation, prefix: str) -> list[Section]:
    if one.latent_space is None:
        return []
    posterior = one.latent_space.posterior
    least, middle, largest = (float(posterior.variances[i]) for i in (0, len(posterior.variances) // 2, -1))
    text = [
        "The encoder turns an image into its posterior, a Gaussian in the latent space. On average, the posterior of a "
        f"training image is {posterior.nats:.0f} nats (a unit of KL divergence) from the prior N(0, I), from which "
        f"samples are drawn. All posteriors together, taken as one Gaussian, are {posterior.nats_from_prior:.0f} nats "
        "from it. If that is a lot, samples of the prior come from regions where no image lies.",
    ]
    rows = [
        [
            "variance along the narrowest, middle and widest axis",
            f"{least:.2f}, {middle:.2f}, {largest:.2f}",
            "1, 1, 1",
        ],
        ["KID of samples", f"{one.latent_space.kid:.3f}", f"{one.metrics[PRIOR]['KID'].value:.3f}"],
    ]
    return [Section(f"{prefix}latent space", text, [Table(["", "one Gaussian of all posteriors", "prior"], rows)])]


def _privacy(one: Evaluation, reference: Reference, prefix: str) -> Section:
    rows = [
        [SAMPLES[name], f"{a.copies} of {len(a.nearest.correlation)}", str(a.rate), a.verdict]
        for name, a in one.audits.items()
    ]
    copies = {
        "copies": "Samples so similar to a training image that they count as copies. The rule is in the section "
        "What the copy audit sees.",
        "rate": "Share of copies, with its 95 % Wilson interval.",
        "verdict": "FAIL: too many to be chance. WARN: unlikely to be chance. NO POWER: no sign of copies, but the "
        "audit would hardly recognise this model's copies. PASS: no sign of copies.",
    }
    attacks = [
        [
            name,
            ATTACKED[name],
            str(attack.auc),
            str(attack.tpr),
            str(attack.highest),
            f"{attack.correct} of {attack.guesses}",
            f"{attack.epsilon:.2f}",
            f"{attack.detectable:.3f}",
            conclusion(attack),
        ]
        for name, attack in one.attacks.items()
    ]
    terms = {name: ATTACK[name] for name in one.attacks} | _ATTACK_COLUMNS
    tables = [
        Table(["samples", "copies", "rate", "verdict"], rows, terms=copies),
        Table(["attack", *_ATTACK_COLUMNS], attacks, terms=terms),
    ]
    nearest = [_nearest(one, samples, audit, reference) for samples, audit in one.audits.items()]
    shared = [f"{what}: {words}." for what, words in if_shared(one).items()]
    text = [sentences(one, reference)["privacy"], _sizes(one), *shared, not_tried(one)]
    return Section(f"{prefix}privacy", list(filter(None, text)), tables, nearest)


def _sizes(one: Evaluation) -> str:
    sizes = [
        f"{attack.members:,} training images of {attack.groups[0]:,} patients (where they are unknown, groups of "
        f"near-copies) and {attack.others:,} held-out images of {attack.groups[1]:,}"
        for attack in one.attacks.values()
    ]
    return f"Attacked were {', and with reference models '.join(dict.fromkeys(sizes))}." if sizes else ""


def _nearest(one: Evaluation, samples: str, audit: Audit, reference: Reference) -> Picture:
    """The samples that resemble a training image most, above that image."""
    order = audit.nearest.correlation.argsort(descending=True)[:SHOWN_PAIRS]
    found = reference.train.x[audit.nearest.image[order]]
    found = torch.where(audit.nearest.mirrored[order][:, None, None, None], found.flip(-1), found)
    highest, least = audit.nearest.correlation[order[[0, -1]]].tolist()
    caption = (
        f"{_heading(samples)}: the {len(order)} most similar to a training image, above that image (mirrored where "
        f"that fits better). Correlations {highest:.3f} to {least:.3f}; threshold "
        f"{reference.calibration.threshold:.3f}."
    )
    return _pairs(
        one.samples[samples][order], found, caption, f"{SAMPLES[samples]} and the training images nearest to them"
    )


def _usefulness(useful: Usefulness, words: str, reference: Reference, prefix: str) -> Section:
    rows = [[name, USEFULNESS[name], str(value)] for name, value in useful.accuracies.items()]
    calibration = "Mean gap between predicted probability and share of correct predictions, on real images"
    for name, trial in (("TRTR", useful.real_real), ("TSTR", useful.synthetic_real)):
        rows.append([f"calibration error of {name}", f"{calibration}.", f"{trial.calibration_error:.3f}"])
    per_class = [
        [name, f"{real:.1%}", f"{synthetic:.1%}", f"{both:.1%}"]
        for name, real, synthetic, both in zip(
            reference.classes,
            useful.real_real.per_class,
            useful.synthetic_real.per_class,
            useful.both_real.per_class,
            strict=True,
        )
    ]
    text = [
        words,
        "Balanced accuracy, the mean over classes of the share of images that are classified correctly, of "
        f"{len(useful.real_real.right)} classifiers on {len(useful.real_real.labels)} test images. No near-copy of "
        "these images was used for training. Intervals are over classifiers and test images. All classifiers are "
        "trained with classical augmentation.",
    ]
    per_class_columns = ["class", "trained on real images", "on samples", "on both"]
    tables = [
        Table(["figure", "what it means", "value"], rows),
        Table(per_class_columns, per_class),
    ]
    return Section(f"{prefix}usefulness", text, tables)


def _copy_audit(reference: Reference) -> Section:
    rows = [[name, str(found)] for name, found in reference.detection.items()]
    calibration = reference.calibration
    text = [
        f"A sample counts as a copy if its normalised cross-correlation (1 for the same picture) with any training "
        f"image exceeds {calibration.threshold:.3f}. {calibration.above} of {calibration.images} held-out images do "
        f"too. Images are averaged over {privacy.BLUR} x {privacy.BLUR} and then 2 x 2 pixels, mirrored or not, and "
        f"shifted by up to {privacy.SHIFT} pixels.",
        f"FAIL: the whole interval of the share of copies lies above {privacy.TOO_MANY:.0%}, and the probability "
        f"of so many, if samples resembled training images only as much as held-out images do, is below "
        f"{privacy.HARDLY:.0%}. WARN: "
        f"that probability is below {privacy.UNLIKELY:.0%}, or membership leaks (the whole interval of an AUC lies "
        f"above {verdict.TELLING_AUC} or below {1 - verdict.TELLING_AUC:.1f}), or simple copies are missed, or fewer "
        f"than {privacy.LEAST_HELD_OUT} images are held out. NO POWER: the audit recognises less than "
        f"{privacy.POWER:.0%} of the model's own reconstructions of training images, or there is no encoder.",
        "To see what the audit can find, copies of training images were planted. Kinds of copies that are rarely found "
        "are its blind spots.",
        NOT_A_GUARANTEE,
    ]
    return Section("What the copy audit sees", text, [Table(["planted copies", "share found"], rows)])


def _settings(evaluations: Sequence[Evaluation], reference: Reference) -> Section:
    collection = reference.collection
    rows = [
        ["features", f"{reference.space}; figures computed with other features are not comparable"],
        ["data", str(collection.root.resolve())],
        ["fingerprint of the data", collection.fingerprint()],
        *([name, str(value)] for name, value in vars(collection.splitting).items()),
        ["seed", str(reference.seed)],
        ["classifiers of each kind", str(reference.seeds)],
        ["divisions into halves", str(reference.divisions)],
    ]
    for one in evaluations:
        by_network = ", ".join(f"{kid:.3f}" for kid in one.kid_by_network)
        rows += [
            ["model", str(one.path)],
            ["  KID in each network's features", by_network],
            *([f"  {name}", str(value)] for name, value in one.model.training.items()),
        ]
    return Section("Settings", [], [Table(["setting", "value"], rows)])
