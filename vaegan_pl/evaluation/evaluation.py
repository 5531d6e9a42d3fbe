"""Measures a model against real images and a Gaussian."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vaegan_pl.evaluation import two_sample
from vaegan_pl.evaluation.attacks import attacks
from vaegan_pl.evaluation.classifier import STEPS as CLASSIFIER_STEPS
from vaegan_pl.evaluation.classifier import Images, Labelled, fit
from vaegan_pl.evaluation.diversity import Manifold
from vaegan_pl.evaluation.estimate import Estimate, Halved
from vaegan_pl.evaluation.latent_space import LatentSpace, aggregate
from vaegan_pl.evaluation.membership import Attack
from vaegan_pl.evaluation.metrics import ImageSet, Metrics
from vaegan_pl.evaluation.privacy import Audit
from vaegan_pl.evaluation.reconstruction import quality
from vaegan_pl.evaluation.reference import Reference, as_saved, audits
from vaegan_pl.evaluation.two_sample import Grouped
from vaegan_pl.evaluation.usefulness import Usefulness
from vaegan_pl.model.saved_model import NORMAL, SavedModel

LINES, STEPS = 4, 8
PRIOR, BY_CLASS, CEILING = "prior", "by class", "training posteriors"


@dataclass(frozen=True)
class Evaluation:
    """All measurements of a model.

    Attributes:
        path: the model's file.
        model: the model.
        samples: images that it drew: `PRIOR`, and `BY_CLASS` if the file knows classes.
        labelled: samples of each class, see `Reference.drawn_by_class`; None if the file knows no classes.
        metrics: fidelity and diversity of each of `samples`, and of `CEILING`: images decoded from the posteriors of
            training images, the best that any density of z can reach. What it lacks is the decoder's fault.
        kid_by_network: KID of the default samples in the features of each network.
        told_apart: see `two_sample.auc`, for the default samples and held-out images; None if it was not measured.
        by_class: see `Reference.by_class`; empty if the file knows no classes.
        reconstructions: reconstructions of the held-out images; None, like the next four, if the model has no encoder.
        interpolations: decoded from straight lines between posterior means of held-out images, `STEPS` per line.
        reconstruction: quality of `reconstructions`.
        latent_space: how posteriors fill the latent space.
        memorised: share of training images whose reconstructions the audit counts as copies, which shows how many of
            the copies that this model can produce it would find.
        audits: copies among each of `samples`.
        attacks: what membership attacks find; see `attacks.attacks`.
        usefulness: of samples by class; None if it was not measured.
    """

    path: Path
    model: SavedModel
    samples: dict[str, Images]
    labelled: Labelled | None
    metrics: dict[str, Metrics]
    kid_by_network: list[float]
    told_apart: Estimate | None
    by_class: dict[str, Manifold]
    reconstructions: Images | None
    interpolations: Images | None
    reconstruction: dict[str, Halved] | None
    latent_space: LatentSpace | None
    memorised: Estimate | None
    audits: dict[str, Audit]
    attacks: dict[str, Attack]
    usefulness: Usefulness | None

    @property
    def default(self) -> str:
        """Which of `samples` a user gets by default."""
        return BY_CLASS if BY_CLASS in self.samples else PRIOR

    @property
    def membership(self) -> dict[str, Estimate]:
        """The area under the ROC curve of each attack."""
        return {name: attack.auc for name, attack in self.attacks.items()}


def evaluate(path: Path, model: SavedModel, reference: Reference, progress: Callable[[str], None]) -> Evaluation:
    """Measure a model.

    Args:
        path: the model's file.
        model: the model.
        reference: the real images and their figures.
        progress: called with the name of each step before it starts.
    """
    seed = reference.seed
    encodes = "encoder" in model.to(reference.device).networks.names
    progress("sampling")
    samples = {PRIOR: as_saved(model.sample(reference.n, None, seed, prior=NORMAL))}
    synthetic = None
    if model.knows_classes:
        synthetic = _labelled_samples(model, reference, seed)
        order = torch.randperm(len(synthetic.x), generator=torch.Generator().manual_seed(seed))
        samples[BY_CLASS] = synthetic.x[order[: reference.n]]
    progress("fidelity and diversity")
    featured = {name: reference.with_features(images) for name, images in samples.items()}
    found = {name: reference.metrics(images) for name, images in featured.items()}
    if encodes:
        found[CEILING] = reference.metrics(reference.with_features(_of_posteriors(model, reference)))
    default = featured.get(BY_CLASS, featured[PRIOR])
    progress("reconstruction")
    held_out = reference.held_out
    reconstructions = as_saved(model.reconstruct(held_out.x, held_out.labels)) if encodes else None
    progress("privacy")
    audited, memorised = audits(model, samples, reference.some_trained, reference.detector, reference.calibration)
    told_apart, trial = None, None
    if reference.seeds:
        progress("classifiers")
        told_apart, trial = _classifiers(default, synthetic, reference)
    return Evaluation(
        path,
        model,
        samples,
        synthetic,
        found,
        reference.kid(default),
        told_apart,
        {} if synthetic is None else reference.by_class(synthetic),
        reconstructions,
        _interpolate(model, reference) if encodes else None,
        None if reconstructions is None else quality(held_out.x, reconstructions, seed),
        _latent_space(model, reference) if encodes else None,
        memorised,
        audited,
        attacks(model, default.x, reference, reconstructions),
        trial,
    )


def _of_posteriors(model: SavedModel, reference: Reference) -> Images:
    """Images decoded from one draw of the posterior of each of `Reference.n` training images, or of all."""
    generator = torch.Generator().manual_seed(reference.seed)
    chosen = reference.train.some(min(reference.n, len(reference.train.x)), reference.seed)
    mean, log_variance = model.posteriors(chosen.x, chosen.labels)
    z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
    return as_saved(model.decode(z, chosen.labels))


def _labelled_samples(model: SavedModel, reference: Reference, seed: int) -> Labelled:
    """Samples of each class; see `Reference.drawn_by_class`."""
    counts, generator = reference.drawn_by_class, torch.Generator().manual_seed(seed)
    images = [as_saved(model.sample(n, name, generator)) for name, n in zip(reference.classes, counts, strict=True)]
    return Labelled(torch.cat(images), torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))


def _interpolate(model: SavedModel, reference: Reference) -> Images:
    held_out = reference.held_out
    ends = torch.linspace(0, len(held_out.x) - 1, 2 * LINES).long()
    y = held_out.labels[ends]
    means = model.encode(held_out.x[ends], y)
    along = torch.linspace(0, 1, STEPS)[:, None]
    lines = [start + along * (end - start) for start, end in zip(means[:LINES], means[LINES:], strict=True)]
    y = y[:LINES].repeat_interleave(STEPS)  # conditional networks stay in the class that the line starts in
    return as_saved(model.decode(torch.cat(lines), y))


def _latent_space(model: SavedModel, reference: Reference) -> LatentSpace:
    train = reference.train
    posterior = aggregate(*model.posteriors(train.x, train.labels))
    generator = torch.Generator().manual_seed(reference.seed)
    z = posterior.sample(reference.n, generator)
    y = train.labels[torch.randint(len(train.labels), (reference.n,), generator=generator)]
    kids = reference.kid(reference.with_features(as_saved(model.decode(z, y))))
    return LatentSpace(posterior, sum(kids) / len(kids))


def _classifiers(
    default: ImageSet, synthetic: Labelled | None, reference: Reference
) -> tuple[Estimate, Usefulness | None]:
    """How well samples can be told from held-out images, and how useful samples of several classes are."""
    real, test, seeds = reference.train, reference.held_out, reference.seeds
    parts = reference.halves(Grouped(default.x, [str(i) for i in range(len(default.x))]))
    trainings = two_sample.trainings(parts, reference.seed, reference.device)
    useful = synthetic is not None and len(reference.classes) > 1
    if synthetic is not None and useful:
        both = Labelled(torch.cat([real.x, synthetic.x]), torch.cat([real.labels, synthetic.labels]))
        trainings += reference.trainings(synthetic, CLASSIFIER_STEPS) + reference.trainings(both, 2 * CLASSIFIER_STEPS)
    found = fit(trainings, "training classifiers on samples")
    told_apart = two_sample.auc(found[:2], parts, reference.seed)
    if synthetic is None or not useful:
        return told_apart, None
    known = reference.baselines
    return told_apart, Usefulness(
        real_real=reference.judge(known.real, test),
        synthetic_real=reference.judge(found[2 : 2 + seeds], test),
        real_synthetic=reference.judge(known.real, synthetic),
        gaussian_real=reference.judge(known.gaussian, test),
        both_real=reference.judge(found[2 + seeds :], test),
        longer_real=reference.judge(known.longer, test),
    )
