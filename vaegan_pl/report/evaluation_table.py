"""The table of an evaluation's figures, and what each of its terms means."""

from collections.abc import Sequence

from vaegan_pl.evaluation.attacks import ATTACKS, CALIBRATED, DENSITY, DISCRIMINATOR, LIRA, RECONSTRUCTION
from vaegan_pl.evaluation.evaluation import BY_CLASS, CEILING, PRIOR, Evaluation
from vaegan_pl.evaluation.reference import Reference
from vaegan_pl.evaluation.verdict import decide
from vaegan_pl.report.evaluation_words import SAMPLES, names
from vaegan_pl.report.page import Table

BETTER = {
    "KID": "lower",
    "Fréchet distance": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "near 1",
    "coverage": "higher",
    "Vendi score": "as real",
    "MS-SSIM of pairs": "as real",
    "fine detail": "as real",
    "grid of 2 pixels": "as real",
    "grid of 4 pixels": "as real",
}

CLOSE = {
    "precision": "Share of samples that lie close to a real image, within the distance of its fifth nearest real "
    "image: do samples look real?",
    "recall": "Share of real images that lie close to a sample: do samples look like all kinds of real images?",
    "density": "Mean number of real images that a sample is close to, divided by five; near 1 for equal distributions.",
    "coverage": "Share of real images that have a sample close to them: like recall, but hardly affected by outliers "
    "among the samples.",
}
"""Figures that count neighbours."""

USEFULNESS = {
    "TRTR": "Train on real, test on real: accuracy of classifiers trained on real images; the value to reach.",
    "TSTR": "Train on synthetic, test on real: accuracy of classifiers trained on as many samples instead.",
    "TSTR of Gaussians": "TSTR of draws from a Gaussian of each class, in the principal components of its pixels: the "
    "simplest model that knows classes.",
    "TRTS": "Train on real, test on synthetic: do samples show what their label says?",
    "TSTR / TRTR": "Share of the accuracy with real images that samples alone reach.",
    "real + synthetic": "Accuracy of classifiers trained on real images and samples, one to one, for twice as many "
    "steps: each real image is seen as often as for TRTR.",
    "real + real": "Accuracy of classifiers trained on real images for twice as many steps.",
    "augmentation gain": "Accuracy of real + synthetic minus that of real + real: what samples add to real images.",
}
"""Figures of classifiers."""

ATTACK = {
    RECONSTRUCTION: "Does the model reconstruct training images better than held-out ones?",
    DISCRIMINATOR: "Does the discriminator take training images for real more often than held-out ones?",
    DENSITY: "Are samples denser around training images than around held-out ones, each relative to validation images "
    "(DOMIAS, arXiv 2302.12580)? This needs only the samples, not the model file.",
    CALIBRATED: "By how much less is the model's reconstruction error than that of reference models, which were not "
    "trained on the image (GAN-Leaks, arXiv 1909.03935)?",
    LIRA: "The same in standard deviations of the reference models' errors, for each image (LiRA's offline attack, "
    "arXiv 2112.03570).",
}
"""What each attack asks."""

_COPIES, _TOLD_APART = "copies of training images", "AUC of two-sample test"
_FRECHET, _RELATIVE = "Fréchet distance", "Fréchet distance / that of real images"
_RECONSTRUCTION = {"PSNR": "reconstruction PSNR (dB)"}


def table(evaluations: Sequence[Evaluation], reference: Reference) -> Table:
    """Every figure of every model next to those of real images and of the Gaussian, with the meaning of each."""
    sets = [(one, samples) for one in evaluations for samples in one.metrics]
    rows: list[list[str]] = []
    for name, better in BETTER.items():
        cells = [str(one.metrics[samples][name]) for one, samples in sets]
        rows.append([name, better, str(reference.real[name]), str(reference.pca_baseline[name]), *cells])
    unit = reference.real[_FRECHET].value
    relative = [one.metrics[samples][_FRECHET].value for one, samples in sets]
    shares = [f"{value / unit:.1f}" for value in (reference.pca_baseline[_FRECHET].value, *relative)]
    rows.append([_RELATIVE, "near 1", "1", *shares])
    for name, baseline in reference.pca_baseline_reconstruction.items():
        cells = [
            str(one.reconstruction[name]) if samples == PRIOR and one.reconstruction is not None else ""
            for one, samples in sets
        ]
        rows.append([_RECONSTRUCTION.get(name, f"reconstruction {name}"), "higher", "", str(baseline), *cells])
    if reference.seeds:
        cells = [str(one.told_apart) if samples == one.default else "" for one, samples in sets]
        rows.append([_TOLD_APART, "near 0.5", str(reference.told_apart), "", *cells])
    audits = [one.audits.get(samples) for one, samples in sets]
    cells = ["" if audit is None else f"{audit.rate.value:.1%} {audit.verdict}" for audit in audits]
    rows.append([_COPIES, "lower", "1 %", "", *cells])
    for name in ATTACKS:
        if any(name in one.attacks for one in evaluations):
            cells = [
                str(one.attacks[name].auc) if samples == one.default and name in one.attacks else ""
                for one, samples in sets
            ]
            rows.append([_auc_of(name), "near 0.5", "", "", *cells])
    if any(one.usefulness is not None for one in evaluations):
        rows += [
            [name, "higher", "", "", *(_useful_cell(one, samples, name, reference) for one, samples in sets)]
            for name in USEFULNESS
        ]
    known = meanings(reference)
    terms = {name: known[name] for name in ("better", "real images", "Gaussian")}
    terms |= {SAMPLES[samples]: known[SAMPLES[samples]] for _, samples in sets}
    terms["[low, high]"] = known["[low, high]"]
    terms |= {row[0]: known[row[0]] for row in rows}
    return Table(["", "better", "real images", "Gaussian", *columns(evaluations)], rows, terms=terms)


def _auc_of(attack: str) -> str:
    return f"attack: {attack} (AUC)"


def columns(evaluations: Sequence[Evaluation]) -> list[str]:
    """A heading for each set of samples of each model."""
    if len(evaluations) == 1:
        return [SAMPLES[samples] for samples in evaluations[0].metrics]
    return [
        f"{name}, {SAMPLES[samples]}"
        for name, one in zip(names(evaluations), evaluations, strict=True)
        for samples in one.metrics
    ]


def _useful_cell(one: Evaluation, samples: str, name: str, reference: Reference) -> str:
    if samples != BY_CLASS or one.usefulness is None:
        return ""
    useful = decide(one, reference).usefulness
    return "withheld" if useful is None else str(useful.accuracies[name])


def meanings(reference: Reference) -> dict[str, str]:
    """What every term of the table means, each in a sentence or two."""
    features = (
        "Inception's features, as in publications; small grey images differ a lot from the photographs it learned from."
        if reference.space.accuracy is None
        else "the features of classifiers trained on this data set, and averaged over them. Comparable only with "
        f"values in the same features ({reference.space.name}): not with publications, other data or another split."
    )
    return {
        "better": "Which values are better. As real: close to the value of real images.",
        "real images": "Training images, compared with held-out images: the best to expect of a model.",
        "Gaussian": f"Images drawn from a Gaussian in the {len(reference.components.axes)} largest principal "
        "components of the pixels: a simple generator that any other should beat. Its reconstructions are projections "
        "onto these components.",
        SAMPLES[PRIOR]: "Images decoded from random draws of N(0, I), as in training.",
        SAMPLES[BY_CLASS]: "What `sample` draws by default: images of all classes, in the proportions of the training "
        "images, decoded from where each class lies in the latent space.",
        SAMPLES[CEILING]: "Images decoded from the posteriors of training images: the best that drawing z in another "
        "way can reach. Any remaining gap to real images is due to the networks.",
        "[low, high]": "95 % interval: from random divisions of the images into halves or, for "
        "accuracies and AUC, from resampling. Attacks resample patients; elsewhere, slices of one patient are treated "
        "as independent. No model is retrained.",
        "KID": "Kernel Inception Distance: how far the distribution of a set of images is from that of held-out "
        f"images. 0 means no difference; values near 0 can be negative. Measured in {features}",
        "fine detail": "Share of the power of the images' spectrum above half the Nyquist frequency. A lower value "
        "than for real images means blur.",
        **{
            f"grid of {pixels} pixels": f"Power at a period of {pixels} pixels, relative to that at similar periods. A "
            "higher value than for real images means checkerboard artefacts; transposed convolutions can cause them."
            for pixels in (2, 4)
        },
        _TOLD_APART: "How well a small classifier, trained on one half of the images, tells held-out images from "
        "samples in the other half (arXiv 1610.06545): the area under the ROC curve. 0.5: it cannot; 1: it always can. "
        "For real images: training images from held-out images; they show other patients, so this exceeds 0.5.",
        _FRECHET: "The formula of FID: distance between two Gaussians, one fitted to each set of images, in the "
        "features that KID uses. It depends on the number of images.",
        **CLOSE,
        "Vendi score": "Effective number of different images in the set: 1 if all are alike.",
        "MS-SSIM of pairs": "Mean multi-scale structural similarity of two random images of the set, from 0 to 1 "
        "(identical). A higher value than for real images means less variety.",
        _RELATIVE: "1 if samples are as near to held-out images as training images are.",
        _RECONSTRUCTION["PSNR"]: "Peak signal-to-noise ratio of the reconstructions of held-out images, from the mean "
        "squared error of pixels.",
        "reconstruction SSIM": "Structural similarity of held-out images and their reconstructions; 1 if identical.",
        "reconstruction MS-SSIM": "Structural similarity on several scales.",
        _COPIES: "The copy audit: share of samples so similar to a training image that they count as copies, and the "
        "verdict. By construction, 1 % of held-out images count as copies too.",
        **{_auc_of(name): f"Membership attack: {asks}" for name, asks in ATTACK.items()},
        **USEFULNESS,
    }
