"""What an evaluation found: `metrics.json`, a page with pictures, and a card for each model."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vaegan_pl.data.splits import SPLITS
from vaegan_pl.evaluation import privacy
from vaegan_pl.evaluation.estimate import Estimate
from vaegan_pl.evaluation.evaluation import BY_CLASS, PRIOR, STEPS, Evaluation
from vaegan_pl.evaluation.latent_space import LatentSpace
from vaegan_pl.evaluation.privacy import FAIL, PASS, WARN
from vaegan_pl.evaluation.reference import Reference
from vaegan_pl.evaluation.usefulness import Labelled
from vaegan_pl.report import model_card
from vaegan_pl.report.model_card import NOT_A_GUARANTEE
from vaegan_pl.report.page import Picture, Section, Table, literal, picture, render
from vaegan_pl.report.pictures import grid, pairs, save_png, titled_rows
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import MADE_BY

JSON, PAGE, PICTURE = "metrics.json", "report.html", "by_class.png"
NAMES = r"metrics\.json|report\.html|by_class\.png"
OF_EACH_CLASS = 4
SHOWN = 64
SHOWN_PAIRS = 16
GOOD, EXCELLENT = 0.85, 0.95
"""Shares of the accuracy of real images (TSTR / TRTR) that are called so."""

WITHHELD = "Not shown: the audit of copies failed, and copies of training images are useful"
BETTER = {
    "KID": "lower",
    "Fréchet distance": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "near 1",
    "coverage": "higher",
    "Vendi score": "as real",
    "MS-SSIM of pairs": "as real",
}


def names(evaluations: Sequence[Evaluation]) -> list[str]:
    """What models are called in tables: by the fewest last parts of their paths that tell them apart."""
    parts = [one.path.resolve().parts for one in evaluations]
    for depth in range(2, max(map(len, parts)) + 1):
        found = ["/".join(path[-depth:]) for path in parts]
        if len(set(found)) == len(found):
            return [name.removesuffix("/vae_gan_model.pth") for name in found]
    return [str(one.path) for one in evaluations]


def gather(evaluations: Sequence[Evaluation], reference: Reference) -> dict[str, Any]:
    """Everything that was found, in plain values; an interval is `{value, low, high}`."""
    collection = reference.collection
    return {
        "made_by": MADE_BY,
        "data": {
            "what": "phantoms drawn by vaegan_pl; not MRI" if collection.is_phantom else "images",
            "folder": str(collection.root.resolve()),
            "fingerprint": collection.fingerprint(),
            "splitting": vars(collection.splitting),
            "images": {split: sum(collection.counts(split).values()) for split in SPLITS},
            "held_out": len(reference.held_out),
        },
        "compared": reference.compared,
        "samples": reference.n,
        "seed": reference.seed,
        "features": {"name": reference.space.name, "balanced_accuracy": reference.space.accuracy},
        "real": _plain(reference.real),
        "gaussian": {**_plain(reference.floor), "reconstruction": _plain(reference.floor_reconstruction)},
        "copy_audit": {
            **asdict(reference.calibration),
            "false_positives": privacy.FALSE_POSITIVES,
            "fails_above": privacy.TOO_MANY,
            "detects": _plain(reference.detection),
        },
        "models": [_model(evaluation, reference) for evaluation in evaluations],
    }


def _plain(estimates: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def _model(evaluation: Evaluation, reference: Reference) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "weights": str(evaluation.path),
        "trained_on": evaluation.model.trained_on.plain,
        "training": dict(evaluation.model.training),
        "samples": {name: _plain(levels) for name, levels in evaluation.levels.items()},
        "by_class": {name: asdict(manifold) for name, manifold in evaluation.by_class.items()},
        "reconstruction": None if evaluation.reconstruction is None else _plain(evaluation.reconstruction),
        "latent_space": None if evaluation.latent_space is None else _latent_facts(evaluation.latent_space),
        "copies": {
            name: {
                "copies": audit.copies,
                "rate": asdict(audit.rate),
                "chance": audit.chance,
                "verdict": audit.verdict,
            }
            for name, audit in evaluation.audits.items()
        },
        "own_reconstructions_of_training_images_found": None
        if evaluation.memorised is None
        else asdict(evaluation.memorised),
        "membership": _plain(evaluation.membership),
        "verdict": verdict(evaluation, reference),
    }
    useful = evaluation.usefulness
    if useful is not None and facts["verdict"] == FAIL:
        facts["usefulness"] = WITHHELD
    elif useful is not None:
        facts["usefulness"] = {
            "seeds": len(useful.real_real.right),
            "test_images": len(useful.real_real.labels),
            **_plain(useful.accuracies),
            "TSTR_per_class": useful.synthetic_real.per_class,
            "TRTR_per_class": useful.real_real.per_class,
        }
    return facts


def _latent_facts(space: LatentSpace) -> dict[str, Any]:
    posterior = space.posterior
    return {
        "nats_of_an_image": posterior.nats,
        "nats_of_all_from_prior": posterior.nats_from_prior,
        "variances": posterior.variances.tolist(),
        "KID_of_one_gaussian": asdict(space.kid),
    }


def verdict(evaluation: Evaluation, reference: Reference) -> str:
    """The worst of the audits of copies; a warning at least where membership shows, or where the audit sees little."""
    found = [audit.verdict for audit in evaluation.audits.values()]
    if any(max(score.low, 1 - score.high) > privacy.TELLING_AUC for score in evaluation.membership.values()):
        found.append(WARN)
    if _blind(reference):
        found.append(WARN)
    return next((worst for worst in (FAIL, WARN) if worst in found), PASS)


def _blind(reference: Reference) -> str:
    """Why an audit can say little here, if it can."""
    missed = [name for name in privacy.PLAIN if reference.detection[name].value < privacy.SEEN]
    if missed:
        return f"It misses plain copies ({', '.join(missed)}), so finding none says little. "
    if reference.calibration.images < privacy.LEAST_HELD_OUT:
        return f"{reference.calibration.images} held-out images are too few to tell 1 % by. "
    return ""


def sentences(evaluation: Evaluation, reference: Reference) -> dict[str, str]:
    """What the figures say about each of the four claims that are made for such models, in plain words."""
    levels = evaluation.levels[PRIOR]
    kid, floor = levels["KID"], reference.floor["KID"]
    nearer = "nearer to real images than" if kid.high < floor.low else "farther from real images than"
    if kid.low <= floor.high and floor.low <= kid.high:
        nearer = "as far from real images as"
    coverage, real = levels["coverage"].value, reference.real["coverage"].value
    alike, alike_real = levels["MS-SSIM of pairs"].value, reference.real["MS-SSIM of pairs"].value
    return {
        "structure": f"Samples are {nearer} draws from a Gaussian of {len(reference.components.axes)} principal "
        f"components (KID {kid.value:.3g} against {floor.value:.3g}; training images reach "
        f"{reference.real['KID'].value:.2g}). {levels['precision'].value:.0%} of them lie where held-out images lie.",
        "variety": f"Samples reach {coverage:.0%} of the held-out images' surroundings; other real images reach "
        f"{real:.0%}. Two samples at random have an MS-SSIM of {alike:.2f}, two real images {alike_real:.2f}: the "
        "higher, the more alike.",
        "usefulness": _useful_words(evaluation, reference),
        "privacy": _private_words(evaluation, reference),
    }


def _useful_words(evaluation: Evaluation, reference: Reference) -> str:
    if evaluation.usefulness is None:
        return "Not measured: the file holds no classes to sample from, or seeds=0."
    if verdict(evaluation, reference) == FAIL:
        return f"{WITHHELD}."
    found = evaluation.usefulness.accuracies
    reached, change = found["TSTR / TRTR"], found["augmentation gain"]
    degree = "excellent" if reached.value >= EXCELLENT else "good" if reached.value >= GOOD else "poor"
    effect = "helps" if change.low > 0 else "harms" if change.high < 0 else "makes no difference that can be told"
    return (
        f"Classifiers trained on samples alone reach {reached.value:.0%} of the balanced accuracy of those "
        "trained on real "
        f"images ({found['TSTR'].value:.1%} against {found['TRTR'].value:.1%}), which is {degree}. Adding "
        "samples to real "
        f"images {effect} ({change.value:+.1%}, from {change.low:+.1%} to {change.high:+.1%})."
    )


def _private_words(evaluation: Evaluation, reference: Reference) -> str:
    copies = "; ".join(
        f"{audit.copies} of {len(audit.nearest.correlation)} samples {_how(name)} ({audit.rate.value:.1%})"
        for name, audit in evaluation.audits.items()
    )
    own = (
        ""
        if evaluation.memorised is None
        else f"Of this model's own reconstructions of training images the audit sees {evaluation.memorised.value:.0%}. "
    )
    told_by, area = max(evaluation.membership.items(), key=lambda item: abs(item[1].value - 0.5))
    return (
        f"{verdict(evaluation, reference)}: {copies} resemble a training image more than 99 % of held-out "
        "images do; of "
        f"held-out images 1 % do. {_blind(reference)}{own}Training images are told from others "
        f"by their {told_by} with an AUC of {area.value:.2f} (0.5 is not at all). {NOT_A_GUARANTEE}"
    )


def _how(samples: str) -> str:
    return {PRIOR: "of the prior", BY_CLASS: "by class"}[samples]


def write(evaluations: Sequence[Evaluation], reference: Reference, output: Path) -> list[Path]:
    """Write `metrics.json`, `report.html` and `by_class.png` into a folder; returns their paths."""
    figures = json.dumps(gather(evaluations, reference), indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(output / JSON, figures, durable=False)
    atomic_write(output / PAGE, _page(evaluations, reference), durable=False)
    save_png(by_class(evaluations, reference), output / PICTURE, "real images above synthetic ones, as titled")
    return [output / JSON, output / PAGE, output / PICTURE]


def by_class(evaluations: Sequence[Evaluation], reference: Reference) -> Image.Image:
    """Held-out images above samples of each model, as many of each class; nothing is chosen by eye."""
    n, classes = OF_EACH_CLASS, len(reference.classes)
    rows = {
        f"real, held out: {n} of each of {', '.join(reference.classes)}": _of_each(
            reference.labelled_held_out, n, classes
        )
    }
    for name, one in zip(names(evaluations), evaluations, strict=True):
        if one.labelled is None:
            rows[f"{name}: samples of the prior"] = one.samples[PRIOR][: n * len(reference.classes)]
        else:
            rows[f"{name}: by class, in the same order"] = _of_each(one.labelled, n, classes)
    what = f"Synthetic but for the first row. Trained on {evaluations[0].model.trained_on.caption}."
    return titled_rows(rows, f"{what} The first {n} of each class, not chosen.")


def _of_each(images: Labelled, n: int, classes: int) -> Tensor:
    black = images.x.new_full((n, *images.x.shape[1:]), -1)  # in place of images that a small class lacks
    return torch.cat([torch.cat([images.x[images.labels == label], black])[:n] for label in range(classes)])


def table(evaluations: Sequence[Evaluation], reference: Reference) -> Table:
    """Every figure of every model beside those of real images and of a Gaussian."""
    sets = [(one, samples) for one in evaluations for samples in one.levels]
    rows: list[list[str]] = []
    for name, better in BETTER.items():
        cells = [str(one.levels[samples][name]) for one, samples in sets]
        rows.append([name, better, str(reference.real[name]), str(reference.floor[name]), *cells])
    name = "Fréchet distance"
    bar = reference.real[name].value
    cells = [f"{one.levels[samples][name].value / bar:.1f}" for one, samples in sets]
    rows.append([f"{name} / that of real images", "near 1", "1", f"{reference.floor[name].value / bar:.1f}", *cells])
    for name, floor in reference.floor_reconstruction.items():
        unit = " (dB)" if name == "PSNR" else ""
        cells = [
            str(one.reconstruction[name]) if samples == PRIOR and one.reconstruction is not None else ""
            for one, samples in sets
        ]
        rows.append([f"reconstruction {name}{unit}", "higher", "", str(floor), *cells])
    cells = [f"{one.audits[samples].rate.value:.1%} {one.audits[samples].verdict}" for one, samples in sets]
    rows.append(["copies of training images", "lower", "1 %", "", *cells])
    measured = [one.usefulness for one in evaluations if one.usefulness is not None]
    rows += [
        [name, "higher", "", "", *(_useful_cell(one, samples, name, reference) for one, samples in sets)]
        for name in (measured[0].accuracies if measured else ())
    ]
    return Table(["", "better", "real images", "Gaussian", *_columns(evaluations)], rows)


def _useful_cell(one: Evaluation, samples: str, name: str, reference: Reference) -> str:
    if samples != BY_CLASS or one.usefulness is None:
        return ""
    return "withheld" if verdict(one, reference) == FAIL else str(one.usefulness.accuracies[name])


def _columns(evaluations: Sequence[Evaluation]) -> list[str]:
    """A heading for each set of samples of each model."""
    if len(evaluations) == 1:
        return [f"samples {_how(samples)}" for samples in evaluations[0].levels]
    return [
        f"{name}, {samples}"
        for name, one in zip(names(evaluations), evaluations, strict=True)
        for samples in one.levels
    ]


def _page(evaluations: Sequence[Evaluation], reference: Reference) -> str:
    collection = reference.collection
    lead = [
        f"{len(reference.held_out):,} held-out images of {collection.root.resolve().name}, "
        f"{reference.n:,} samples, {reference.compared:,} of each compared at a time. Features: {reference.space}."
    ]
    if collection.is_phantom:
        lead.insert(0, "These are PHANTOMS, drawn by this project. They are not MRI.")
    sections = [_summary(evaluations, reference)]
    for name, one in zip(names(evaluations), evaluations, strict=True):
        prefix = f"{name}: " if len(evaluations) > 1 else ""
        sections += [
            _looks(one, reference, prefix),
            *_classes(one, reference, prefix),
            *_latent_space(one, prefix),
            _privacy(one, reference, prefix),
        ]
        if one.usefulness is not None and verdict(one, reference) != FAIL:
            sections.append(_usefulness(one, reference, prefix))
    sections += [_audit_limits(reference), _settings(evaluations, reference)]
    return render("Evaluation", lead, sections)


def _summary(evaluations: Sequence[Evaluation], reference: Reference) -> Section:
    text = [
        f"{name + ', ' if len(evaluations) > 1 else ''}{claim}: {words}"
        for name, one in zip(names(evaluations), evaluations, strict=True)
        for claim, words in sentences(one, reference).items()
    ]
    text.append(
        "In brackets 95 % intervals for KID, reconstruction and usefulness, and the range of ten draws for the "
        "others. Real "
        "images are training images against held-out ones: what can be reached. The Gaussian draws from the largest "
        "principal components of pixels: what any generator should beat."
    )
    return Section("What was found", text, [table(evaluations, reference)], [_plot(evaluations, reference)])


def _plot(evaluations: Sequence[Evaluation], reference: Reference) -> Picture:
    figure = Figure(figsize=(10, 1.6 + 0.35 * (2 + sum(len(one.levels) for one in evaluations))), layout="constrained")
    named = {"real images": reference.real, "Gaussian": reference.floor}
    sets = [levels for one in evaluations for levels in one.levels.values()]
    named |= dict(zip(_columns(evaluations), sets, strict=True))
    for axes, name in zip(figure.subplots(1, 3, sharey=True), ("KID", "precision", "coverage"), strict=True):
        for i, levels in enumerate(named.values()):
            level = levels[name]
            reach = [[max(0.0, level.value - level.low)], [max(0.0, level.high - level.value)]]
            axes.errorbar(level.value, i, xerr=reach, fmt="o", capsize=3, color="tab:gray" if i < 2 else "tab:blue")
        axes.set_yticks(range(len(named)), list(map(literal, named)))
        axes.set_title(name)
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    return picture(figure, "KID, precision and coverage with their intervals")


def _looks(one: Evaluation, reference: Reference, prefix: str) -> Section:
    source = f"Trained on {one.model.trained_on.caption}."
    shown = [
        picture(grid(images[:SHOWN], 16, f"Samples, {_how(name)}. {source}"), f"samples {_how(name)}")
        for name, images in one.samples.items()
    ]
    if one.reconstructions is not None:
        some = torch.linspace(0, len(reference.held_out) - 1, min(16, len(reference.held_out))).long()
        caption = f"Held out, above their reconstructions. {source}"
        shown.append(picture(pairs(reference.held_out[some], one.reconstructions[some], caption), "reconstructions"))
    if one.interpolations is not None:
        caption = f"On straight lines between the posterior means of two held-out images. {source}"
        shown.append(picture(grid(one.interpolations, STEPS, caption), "interpolations"))
    return Section(f"{prefix}pictures", [], [], shown)


def _classes(one: Evaluation, reference: Reference, prefix: str) -> list[Section]:
    if not one.by_class:
        return []
    rows = [
        [name, *(f"{value:.2f} of {bar:.2f}" for value, bar in zip(vars(found).values(), real, strict=True))]
        for name, found in one.by_class.items()
        for real in [vars(reference.real_by_class[name]).values()]
    ]
    text = [
        "Samples of each class among held-out images of that class, and what its training images reach. Classes have "
        "different numbers of images, and these figures depend on them: compare along rows."
    ]
    return [Section(f"{prefix}classes", text, [Table(["class", "precision", "recall", "density", "coverage"], rows)])]


def _latent_space(one: Evaluation, prefix: str) -> list[Section]:
    if one.latent_space is None:
        return []
    posterior = one.latent_space.posterior
    least, middle, largest = (float(posterior.variances[i]) for i in (0, len(posterior.variances) // 2, -1))
    text = [
        f"The posterior of a training image is {posterior.nats:.0f} nats from the prior N(0, I) that samples are drawn "
        f"from, and all of them together, as one Gaussian, are {posterior.nats_from_prior:.0f}: where that is much, "
        "samples of the prior come from where no image lies.",
    ]
    rows = [
        [
            "variance along the narrowest, the middle and the widest axis",
            f"{least:.2f}, {middle:.2f}, {largest:.2f}",
            "1, 1, 1",
        ],
        ["KID of samples", str(one.latent_space.kid), str(one.levels[PRIOR]["KID"])],
    ]
    return [Section(f"{prefix}latent space", text, [Table(["", "one Gaussian of all posteriors", "prior"], rows)])]


def _privacy(one: Evaluation, reference: Reference, prefix: str) -> Section:
    nearest = []
    for samples, audit in one.audits.items():
        order = audit.nearest.correlation.argsort(descending=True)[:SHOWN_PAIRS]
        found = reference.train.x[audit.nearest.image[order]]
        found = torch.where(audit.nearest.mirrored[order][:, None, None, None], found.flip(-1), found)
        highest, least = audit.nearest.correlation[order[[0, -1]]].tolist()
        caption = (
            f"The {len(order)} samples {_how(samples)} most like a training image, above that image (mirrored "
            "where it fits "
            f"so); correlations {highest:.3f} to {least:.3f}, threshold {reference.calibration.threshold:.3f}."
        )
        alt = f"samples {_how(samples)} and the training images nearest to them"
        nearest.append(picture(pairs(one.samples[samples][order], found, caption), alt))
    rows = [
        [_how(name), f"{a.copies} of {len(a.nearest.correlation)}", str(a.rate), a.verdict]
        for name, a in one.audits.items()
    ]
    tables = [
        Table(["samples", "copies", "rate", "verdict"], rows),
        Table(["membership by", "AUC"], [[name, str(value)] for name, value in one.membership.items()]),
    ]
    return Section(f"{prefix}privacy", [sentences(one, reference)["privacy"]], tables, nearest)


def _usefulness(one: Evaluation, reference: Reference, prefix: str) -> Section:
    useful = one.usefulness
    assert useful is not None
    meanings = {
        "TRTR": "trained on real images, tested on real ones: the bar",
        "TSTR": "trained on as many samples, tested on real images",
        "TRTS": "trained on real images, tested on samples",
        "TSTR / TRTR": "share of the bar that samples reach",
        "real + synthetic": "trained on both, one to one, for as many steps",
        "augmentation gain": "what the samples add to real images",
    }
    rows = [[name, meanings[name], str(value)] for name, value in useful.accuracies.items()]
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
        sentences(one, reference)["usefulness"],
        f"Balanced accuracy of {len(useful.real_real.right)} classifiers on {len(useful.real_real.labels)} test "
        "images of which "
        "no near-copy trained anything; intervals are over classifiers and test images. All are augmented classically.",
    ]
    columns = ["class", "trained on real", "on samples", "on both"]
    tables = [Table(["", "", "balanced accuracy"], rows), Table(columns, per_class)]
    return Section(f"{prefix}usefulness", text, tables)


def _audit_limits(reference: Reference) -> Section:
    rows = [[name, str(found)] for name, found in reference.detection.items()]
    text = [
        "A sample counts as a copy above a normalised cross-correlation of "
        f"{reference.calibration.threshold:.3f} with any "
        f"training image, averaged over {privacy.BLUR} x {privacy.BLUR} and then 2 x 2 pixels, mirrored or not, "
        "shifted by "
        f"up to {privacy.SHIFT} pixels: {reference.calibration.above} of {reference.calibration.images} "
        "held-out images lie "
        f"above. FAIL if the share of copies lies above {privacy.TOO_MANY:.0%} with its whole interval and a "
        "model that "
        f"copies no more than held-out images do would show it with a probability below {privacy.HARDLY:.0%}; "
        "WARN if that "
        f"probability is below {privacy.UNLIKELY:.0%}, if membership shows (an AUC beyond {privacy.TELLING_AUC} "
        "with its "
        "whole interval, either way), or if plain copies are missed.",
        "Copies that were planted for a test were found as follows; what is found rarely is a blind spot.",
        NOT_A_GUARANTEE,
    ]
    return Section("What the audit of copies sees", text, [Table(["planted copies", "share found"], rows)])


def _settings(evaluations: Sequence[Evaluation], reference: Reference) -> Section:
    collection = reference.collection
    rows = [
        ["features", f"{reference.space}; figures in other features cannot be compared"],
        ["data", str(collection.root.resolve())],
        ["fingerprint of the data", collection.fingerprint()],
        *([name, str(value)] for name, value in vars(collection.splitting).items()),
        ["seed", str(reference.seed)],
    ]
    for one in evaluations:
        rows += [["model", str(one.path)], *([f"  {name}", str(value)] for name, value in one.model.training.items())]
    return Section("Settings", [], [Table(["setting", "value"], rows)])


def card(one: Evaluation, reference: Reference) -> str:
    """A model's card, with its figures, for whoever is given the file."""
    content = table([one], reference)
    rows = [content.columns, ["---"] * len(content.columns), *content.rows]
    claims = [f"- **{claim}**: {words}" for claim, words in sentences(one, reference).items()]
    return model_card.text(
        one.path,
        one.model,
        [
            *claims,
            "",
            *("| " + " | ".join(map(str, row)) + " |" for row in rows),
            "",
            f"Features: {reference.space}. In brackets 95 % intervals for KID, reconstruction and usefulness, "
            "the range of "
            f"ten draws for the others; {reference.compared} images of each set compared, {reference.n} samples "
            "audited.",
        ],
    )
