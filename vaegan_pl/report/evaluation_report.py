"""What an evaluation found: `metrics.json`, a page with pictures, and a card for each model."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from vaegan_pl.data.splits import SPLITS
from vaegan_pl.evaluation import privacy
from vaegan_pl.evaluation.estimate import Estimate
from vaegan_pl.evaluation.evaluation import BY_CLASS, PRIOR, STEPS, Evaluation, Reference
from vaegan_pl.evaluation.privacy import FAIL, PASS
from vaegan_pl.report import model_card
from vaegan_pl.report.model_card import NOT_A_GUARANTEE
from vaegan_pl.report.page import Picture, Section, Table, picture, render
from vaegan_pl.report.pictures import grid, pairs

JSON, PAGE = "metrics.json", "report.html"
SHOWN = 64
SHOWN_PAIRS = 16
GOOD, EXCELLENT = 0.85, 0.95
"""Shares of the accuracy of real images (TSTR / TRTR) that are called so."""

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


def name_of(evaluation: Evaluation) -> str:
    """What a model is called in tables: the folder of its file, and the file's name unless it is the usual one."""
    path = evaluation.path.resolve()
    return path.parent.name if path.name == "vae_gan_model.pth" else f"{path.parent.name}/{path.name}"


def gather(evaluations: Sequence[Evaluation], reference: Reference) -> dict[str, Any]:
    """Everything that was found, in plain values; an interval is `{value, low, high}`."""
    collection = reference.collection
    return {
        "data": {
            "what": "phantoms drawn by vaegan_pl; not MRI" if collection.is_phantom else "images",
            "folder": str(collection.root.resolve()),
            "fingerprint": collection.fingerprint,
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
            "threshold": reference.threshold,
            "false_positives": privacy.FALSE_POSITIVES,
            "fails_above": privacy.TOO_MANY,
            "detects": _plain(reference.detection),
        },
        "models": [_model(evaluation) for evaluation in evaluations],
    }


def _plain(estimates: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def _model(evaluation: Evaluation) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "weights": str(evaluation.path),
        "trained_on": dict(evaluation.model.trained_on),
        "training": dict(evaluation.model.training),
        "samples": {name: _plain(levels) for name, levels in evaluation.levels.items()},
        "reconstruction": _plain(evaluation.reconstruction),
        "copies": {
            name: {"copies": audit.copies, "rate": asdict(audit.rate), "verdict": audit.verdict}
            for name, audit in evaluation.audits.items()
        },
        "membership": _plain(evaluation.membership),
        "verdict": verdict(evaluation),
    }
    useful = evaluation.usefulness
    if useful is not None:
        facts["usefulness"] = {
            "seeds": len(useful.real_real.right),
            "test_images": len(useful.real_real.labels),
            **_plain(useful.accuracies),
            "TSTR_per_class": useful.synthetic_real.per_class,
            "TRTR_per_class": useful.real_real.per_class,
        }
    return facts


def verdict(evaluation: Evaluation) -> str:
    """The worst of the audits of copies, and a warning at least where membership shows."""
    found = [audit.verdict for audit in evaluation.audits.values()]
    if any(score.low > privacy.TELLING_AUC for score in evaluation.membership.values()):
        found.append(privacy.WARN)
    return next((worst for worst in (FAIL, privacy.WARN) if worst in found), PASS)


def sentences(evaluation: Evaluation, reference: Reference) -> dict[str, str]:
    """What the figures say about each of the four claims that are made for such models, in plain words."""
    levels = evaluation.levels[PRIOR]
    kid, floor = levels["KID"].value, reference.floor["KID"].value
    below = "nearer to real images than" if kid < floor else "no nearer to real images than"
    coverage, real = levels["coverage"].value, reference.real["coverage"].value
    alike, alike_real = levels["MS-SSIM of pairs"].value, reference.real["MS-SSIM of pairs"].value
    words = {
        "structure": f"Samples are {below} draws from a Gaussian of {len(reference.components.axes)} principal "
        "components "
        f"(KID {kid:.3g} against {floor:.3g}; training images reach {reference.real['KID'].value:.2g}). "
        f"{levels['precision'].value:.0%} of them lie where held-out images lie.",
        "variety": f"Samples reach {coverage:.0%} of the held-out images' surroundings; other real images reach "
        f"{real:.0%}. "
        f"Random pairs of samples are {'more' if alike > alike_real else 'less'} alike than pairs of real images "
        f"(MS-SSIM {alike:.2f} against {alike_real:.2f}).",
    }
    if evaluation.usefulness is None:
        words["usefulness"] = "Not measured: the file holds no classes to sample from, or seeds=0."
    elif verdict(evaluation) == FAIL:
        words["usefulness"] = "Not claimed: the audit of copies failed, and copies of training images are useful."
    else:
        found = evaluation.usefulness.accuracies
        share = found["TSTR / TRTR"]
        degree = "excellent" if share.value >= EXCELLENT else "good" if share.value >= GOOD else "poor"
        change = found["augmentation gain"]
        effect = "helps" if change.low > 0 else "harms" if change.high < 0 else "makes no difference that can be told"
        words["usefulness"] = (
            f"Classifiers trained on samples alone reach {share.value:.0%} of the balanced accuracy of those "
            "trained on "
            f"real images ({found['TSTR'].value:.1%} against {found['TRTR'].value:.1%}), which is {degree}. "
            "Adding samples to real "
            f"images {effect} ({change.value:+.1%}, from {change.low:+.1%} to {change.high:+.1%})."
        )
    copies = "; ".join(
        f"{audit.copies} of {len(audit.nearest.correlation)} samples {_how(name)} ({audit.rate.value:.1%})"
        for name, audit in evaluation.audits.items()
    )
    telling = max(evaluation.membership.items(), key=lambda item: item[1].value)
    words["privacy"] = (
        f"{verdict(evaluation)}: {copies} resemble a training image more than 99 % of held-out images do; of held-out "
        f"images 1 % do. Training images are told from others by their {telling[0]} with an AUC of "
        f"{telling[1].value:.2f} "
        f"(0.5 is not at all). {NOT_A_GUARANTEE}"
    )
    return words


def _how(samples: str) -> str:
    return {PRIOR: "of the prior", BY_CLASS: "by class"}[samples]


def write(evaluations: Sequence[Evaluation], reference: Reference, output: Path) -> list[Path]:
    """Write `metrics.json` and `report.html` into a folder; returns their paths."""
    output.mkdir(parents=True, exist_ok=True)
    (output / JSON).write_text(
        json.dumps(gather(evaluations, reference), indent=2, ensure_ascii=False), encoding="utf-8"
    )
    (output / PAGE).write_text(_page(evaluations, reference), encoding="utf-8")
    return [output / JSON, output / PAGE]


def table(evaluations: Sequence[Evaluation], reference: Reference) -> Table:
    """Every figure of every model beside those of real images and of a Gaussian."""
    columns = ["", "better", "real images", "Gaussian"]
    sets = [(one, samples) for one in evaluations for samples in one.levels]
    several = len(evaluations) > 1
    columns += [f"{name_of(one)}, {samples}" if several else f"samples, {samples}" for one, samples in sets]
    rows = [
        [name, better, str(reference.real[name]), str(reference.floor[name])]
        + [str(one.levels[samples][name]) for one, samples in sets]
        for name, better in BETTER.items()
    ]
    for name, bar in reference.floor_reconstruction.items():
        unit = " (dB)" if name == "PSNR" else ""
        rows.append(
            [f"reconstruction {name}{unit}", "higher", "", str(bar)]
            + [str(one.reconstruction[name]) if samples == PRIOR else "" for one, samples in sets]
        )
    rows.append(
        ["copies of training images", "lower", "1 %", ""]
        + [f"{one.audits[samples].rate.value:.1%} {one.audits[samples].verdict}" for one, samples in sets]
    )
    measured = [one.usefulness for one in evaluations if one.usefulness is not None]
    for name in measured[0].accuracies if measured else ():
        cells = [
            str(one.usefulness.accuracies[name]) if samples == BY_CLASS and one.usefulness is not None else ""
            for one, samples in sets
        ]
        rows.append([name, "higher", "", "", *cells])
    return Table(columns, rows)


def _page(evaluations: Sequence[Evaluation], reference: Reference) -> str:
    collection = reference.collection
    lead = [
        f"{len(reference.held_out):,} held-out images of {collection.root.resolve().name}, "
        f"{reference.n:,} samples, {reference.compared:,} of each compared at a time."
    ]
    if collection.is_phantom:
        lead.insert(0, "These are PHANTOMS, drawn by this project. They are not MRI.")
    sections = [_summary(evaluations, reference)]
    for one in evaluations:
        prefix = f"{name_of(one)}: " if len(evaluations) > 1 else ""
        sections += [_looks(one, reference, prefix), _privacy(one, reference, prefix)]
        if one.usefulness is not None:
            sections.append(_usefulness(one, reference, prefix))
    sections += [_audit_limits(reference), _settings(evaluations, reference)]
    return render("Evaluation", lead, sections)


def _summary(evaluations: Sequence[Evaluation], reference: Reference) -> Section:
    text = [
        f"{name_of(one) + ', ' if len(evaluations) > 1 else ''}{claim}: {words}"
        for one in evaluations
        for claim, words in sentences(one, reference).items()
    ]
    text.append(
        "In brackets 95 % intervals. Real images are training images against held-out ones: what can be "
        "reached. The Gaussian "
        "draws from the largest principal components of pixels: what any generator should beat."
    )
    return Section("What was found", text, [table(evaluations, reference)], [_plot(evaluations, reference)])


def _plot(evaluations: Sequence[Evaluation], reference: Reference) -> Picture:
    figure = Figure(figsize=(10, 1.6 + 0.35 * (2 + sum(len(one.levels) for one in evaluations))), layout="constrained")
    named = {"real images": reference.real, "Gaussian": reference.floor}
    for one in evaluations:
        for samples, levels in one.levels.items():
            named[f"{name_of(one)}, {samples}" if len(evaluations) > 1 else samples] = levels
    for axes, name in zip(figure.subplots(1, 3, sharey=True), ("KID", "precision", "coverage"), strict=True):
        for i, levels in enumerate(named.values()):
            level = levels[name]
            reach = [[max(0.0, level.value - level.low)], [max(0.0, level.high - level.value)]]
            axes.errorbar(level.value, i, xerr=reach, fmt="o", capsize=3, color="tab:gray" if i < 2 else "tab:blue")
        axes.set_yticks(range(len(named)), list(named))
        axes.set_title(name)
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    return picture(figure, "KID, precision and coverage with their intervals")


def _looks(one: Evaluation, reference: Reference, prefix: str) -> Section:
    source = f"Trained on {one.model.trained_on['caption']}."
    shown = [
        picture(grid(images[:SHOWN], 16, f"Samples, {_how(name)}. {source}"), f"samples {_how(name)}")
        for name, images in one.samples.items()
    ]
    some = torch.linspace(0, len(reference.held_out) - 1, min(16, len(reference.held_out))).long()
    caption = f"Held out, above their reconstructions. {source}"
    shown.append(picture(pairs(reference.held_out[some], one.reconstructions[some], caption), "reconstructions"))
    caption = f"On straight lines between the posterior means of two held-out images. {source}"
    shown.append(picture(grid(one.interpolations, STEPS, caption), "interpolations"))
    return Section(f"{prefix}pictures", [], [], shown)


def _privacy(one: Evaluation, reference: Reference, prefix: str) -> Section:
    audit = one.audits[PRIOR]
    order = audit.nearest.correlation.argsort(descending=True)[:SHOWN_PAIRS]
    found = reference.train.x[audit.nearest.image[order]]
    found = torch.where(audit.nearest.mirrored[order][:, None, None, None], found.flip(-1), found)
    caption = (
        f"The {len(order)} samples most like a training image, above that image (mirrored where it fits so); "
        "correlations "
        f"{float(audit.nearest.correlation[order[0]]):.3f} to "
        f"{float(audit.nearest.correlation[order[-1]]):.3f}, threshold "
        f"{audit.threshold:.3f}."
    )
    nearest = picture(pairs(one.samples[PRIOR][order], found, caption), "nearest pairs of samples and training images")
    rows = [
        [_how(name), f"{a.copies} of {len(a.nearest.correlation)}", str(a.rate), a.verdict]
        for name, a in one.audits.items()
    ]
    tables = [
        Table(["samples", "copies", "rate", "verdict"], rows),
        Table(["membership by", "AUC"], [[name, str(value)] for name, value in one.membership.items()]),
    ]
    return Section(f"{prefix}privacy", [sentences(one, reference)["privacy"]], tables, [nearest])


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
        f"A sample counts as a copy above a normalised cross-correlation of {reference.threshold:.3f} with any "
        "training image, "
        f"blurred {privacy.BLUR} x {privacy.BLUR}, mirrored or not, shifted by up to {privacy.SHIFT} pixels: 1 "
        "% of the held-out "
        f"images lie above. FAIL if the share of copies lies above {privacy.TOO_MANY:.0%} with its whole "
        "interval, WARN if the share "
        f"alone does, or membership shows with an AUC above {privacy.TELLING_AUC}. Copies that were planted for a test "
        "were found as follows; what is found rarely is a blind spot.",
        NOT_A_GUARANTEE,
    ]
    return Section("What the audit of copies sees", text, [Table(["planted copies", "share found"], rows)])


def _settings(evaluations: Sequence[Evaluation], reference: Reference) -> Section:
    facts = gather(evaluations, reference)
    space = facts["features"]
    accuracy = (
        "" if space["balanced_accuracy"] is None else f", balanced accuracy {space['balanced_accuracy']:.1%} held out"
    )
    rows = [
        ["features", f"{space['name']}{accuracy}; figures in other features cannot be compared"],
        ["data", facts["data"]["folder"]],
        ["fingerprint of the data", facts["data"]["fingerprint"]],
        *([name, str(value)] for name, value in facts["data"]["splitting"].items()),
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
        one.model.trained_on,
        one.model.training,
        [
            *claims,
            "",
            *("| " + " | ".join(map(str, row)) + " |" for row in rows),
            "",
            f"Features: {reference.space.name}. In brackets 95 % intervals; {reference.compared} images of each set "
            f"compared, {reference.n} samples audited.",
        ],
    )
