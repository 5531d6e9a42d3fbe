"""Everything that is measured of a model, beside the same figures of real images and of a Gaussian."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.datamodule import Source, images_of, labels_of
from vaegan_pl.data.images import to_grey_values, to_unit_range
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation import privacy, reconstruction, usefulness
from vaegan_pl.evaluation.classifier import Classifier, Images
from vaegan_pl.evaluation.diversity import NEIGHBOURS, Manifold, manifold, pairwise_ms_ssim, vendi_score
from vaegan_pl.evaluation.estimate import Estimate, share, spread
from vaegan_pl.evaluation.features import Features, FeatureSpace, held_out_images
from vaegan_pl.evaluation.fidelity import frechet_distance, kernel_distance_interval
from vaegan_pl.evaluation.floor import PrincipalComponents, principal_components
from vaegan_pl.evaluation.privacy import Audit, Calibration, CopyDetector
from vaegan_pl.evaluation.reconstruction import quality
from vaegan_pl.evaluation.usefulness import Labelled, Trial
from vaegan_pl.inference import from_model, in_batches
from vaegan_pl.model.networks import Labels
from vaegan_pl.model.weights import SavedModel

DRAWS = 10
PAIRS = 300
PLANTED = 200
LINES, STEPS = 4, 8
LEAST_SIDE = 16
PRIOR, BY_CLASS = "prior", "by class"

Levels = dict[str, Estimate]


def levels(held_out: tuple[Images, Features], other: tuple[Images, Features], n: int, seed: int) -> Levels:
    """Fidelity and diversity of a set of images against held-out ones, from `n` of each.

    KID has a bootstrap interval over both sets; the others have the range of `DRAWS` draws of `n` from `other`, and
    none where it has no more than `n`.
    """
    generator = torch.Generator().manual_seed(seed)
    real = torch.randperm(len(held_out[1]), generator=generator)[:n]
    several = DRAWS if len(other[1]) > n else 1
    draws = [torch.randperm(len(other[1]), generator=generator)[:n] for _ in range(several)]
    found: dict[str, list[float]] = {}
    for chosen in tqdm(draws, "comparing", unit="draw", leave=False):
        features = other[1][chosen]
        figures = {
            "Fréchet distance": frechet_distance(held_out[1][real], features),
            **vars(manifold(held_out[1][real], features)),
            "Vendi score": vendi_score(features),
            "MS-SSIM of pairs": pairwise_ms_ssim(other[0][chosen], PAIRS, seed),
        }
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    kid = kernel_distance_interval(held_out[1][real], other[1][draws[0]], seed)
    return {"KID": kid, **{name: spread(values) for name, values in found.items()}}


def copy_audit(collection: Collection, device: torch.device) -> tuple[CopyDetector, Calibration]:
    """The detector of copies of the training images, and what the held-out images say of it.

    Raises:
        UserError: if no held-out image is without a copy in training.
    """
    held_out = held_out_images(collection)
    if not held_out:
        raise UserError("the audit of copies needs held-out images without a copy in training; take data.split=group")
    detector = CopyDetector(images_of(collection, collection.split.images("train")), device)
    images = images_of(collection, held_out)
    return detector, privacy.calibrate(detector.nearest(images, "calibrating the copy audit"))


@dataclass
class Reference:
    """Real images, and what is the same for every model that is measured against them.

    Args:
        collection: the images and their split.
        space: the features that images are compared by.
        device: what computes.
        n: samples to draw of each model.
        seeds: classifiers to train for each figure of usefulness; 0 leaves usefulness out.
        seed: seed of everything drawn at random.
    """

    collection: Collection
    space: FeatureSpace
    device: torch.device
    n: int
    seeds: int
    seed: int
    classes: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.classes = self.collection.listing.classes
        for what, n in (("held-out", len(self.held_out)), ("training", len(self.train.x)), ("drawn", self.n)):
            if n <= NEIGHBOURS:
                raise UserError(f"{n} {what} images are too few to compare; {NEIGHBOURS + 1} are the least")
        if self.train.x.shape[-1] < LEAST_SIDE:
            raise UserError(f"data.image_size={self.train.x.shape[-1]}: must be at least {LEAST_SIDE} to be measured")
        untested = set(range(len(self.classes))) - set(self.test.labels.tolist())
        if self.seeds and untested:
            raise UserError(
                f"no test image of {', '.join(self.classes[label] for label in sorted(untested))} is without a copy in "
                "training; take seeds=0 to leave usefulness out, or data.split=group"
            )

    @cached_property
    def train(self) -> Labelled:
        """All training images."""
        chosen = self.collection.split.images("train")
        return Labelled(images_of(self.collection, chosen), labels_of(self.collection, chosen))

    @cached_property
    def held_out(self) -> Images:
        """All images that never trained, nor a near-copy of them."""
        return images_of(self.collection, held_out_images(self.collection))

    @cached_property
    def held_out_labels(self) -> Labels:
        """Their classes."""
        return labels_of(self.collection, held_out_images(self.collection))

    @property
    def labelled_held_out(self) -> Labelled:
        """Both."""
        return Labelled(self.held_out, self.held_out_labels)

    @cached_property
    def test(self) -> Labelled:
        """The test images, which nothing was chosen by; the validation images where there are none."""
        kept = set(held_out_images(self.collection))
        split = "test" if self.collection.split.groups["test"] else "validation"
        chosen = [image for image in self.collection.split.images(split) if image in kept]
        return Labelled(images_of(self.collection, chosen), labels_of(self.collection, chosen))

    @cached_property
    def compared(self) -> int:
        """How many images of each set are compared; the same for all, since most figures depend on it."""
        return min(len(self.held_out), self.n, len(self.train.x))

    @cached_property
    def _held_out(self) -> tuple[Images, Features]:
        return self.held_out, self.space(self.held_out)

    def levels(self, images: Images) -> Levels:
        """See `levels`."""
        return levels(self._held_out, (images, self.space(images)), self.compared, self.seed)

    def by_class(self, images: Labelled) -> dict[str, Manifold]:
        """How images of each class lie among the held-out ones of it; classes of few images are left out."""
        labels, features = self.held_out_labels, self._held_out[1]
        found = {}
        for label, name in enumerate(self.classes):
            real, other = features[labels == label], images.x[images.labels == label]
            n = min(len(real), len(other))
            if n > NEIGHBOURS:
                order = torch.randperm(len(other), generator=torch.Generator().manual_seed(self.seed))
                found[name] = manifold(real[:n], self.space(other[order[:n]]))
        return found

    @cached_property
    def real_by_class(self) -> dict[str, Manifold]:
        """What training images of each class reach."""
        return self.by_class(self.train)

    @cached_property
    def real(self) -> Levels:
        """What training images themselves reach."""
        return self.levels(self.train.x)

    @cached_property
    def components(self) -> PrincipalComponents:
        """Principal components of the training images."""
        return principal_components(self.train.x)

    @cached_property
    def floor(self) -> Levels:
        """What a Gaussian in the principal components reaches."""
        return self.levels(as_saved(self.components.sample(self.n, self.seed)))

    @cached_property
    def floor_reconstruction(self) -> dict[str, Estimate]:
        """What the principal components reconstruct."""
        return quality(self.held_out, self.components.reconstruct(self.held_out), self.seed)

    @cached_property
    def _copy_audit(self) -> tuple[CopyDetector, Calibration]:
        return copy_audit(self.collection, self.device)

    @property
    def detector(self) -> CopyDetector:
        """Of copies of the training images."""
        return self._copy_audit[0]

    @property
    def calibration(self) -> Calibration:
        """Of the audit of copies."""
        return self._copy_audit[1]

    @cached_property
    def some_trained(self) -> Labelled:
        """Training images to plant copies of."""
        return self.train.some(PLANTED, self.seed)

    @cached_property
    def detection(self) -> dict[str, Estimate]:
        """What the audit would find; see `privacy.detection`."""
        return privacy.detection(self.detector, self.some_trained.x, self.calibration.threshold, self.seed)

    def classifiers(self, train: Labelled, name: str) -> list[Classifier]:
        """One classifier a seed, trained on some images."""
        seeds = range(self.seed, self.seed + self.seeds)
        return usefulness.classifiers(train.to(self.device), len(self.classes), seeds, name)

    @cached_property
    def real_classifiers(self) -> list[Classifier]:
        """Trained on the training images."""
        return self.classifiers(self.train, "trained on real images")

    def judge(self, classifiers: Sequence[Classifier], images: Labelled) -> Trial:
        """See `usefulness.judge`."""
        return usefulness.judge(classifiers, images.to(self.device))


def refuse_strangers(path: Path, model: SavedModel, source: Source, image_size: int, aspect_ratio: str) -> None:
    """Stop where images, or their shares, are not those that a model was trained on: its figures would mean nothing.

    Args:
        path: the model's file.
        model: the model.
        source: the images to measure it with.
        image_size: their side.
        aspect_ratio: how they became squares.

    Raises:
        UserError: names what differs.
    """
    if model.trained_on["training_images"] is None:
        raise UserError(
            f"weights={path}: does not say which images trained it; only files of this version can be measured"
        )
    if model.trained_on["fingerprint"] != source.fingerprint:
        raise UserError(
            f"weights={path}: was trained on other images ({model.trained_on['caption']}) than {source.folder} holds; "
            "give data.root, data.classes and data.image_size of its training"
        )
    trained = {**(model.trained_on["split"] or {}), "image_size": model.networks.image_size}
    trained["aspect_ratio"] = model.preprocessing["aspect_ratio"]
    given = {**source.split, "image_size": image_size, "aspect_ratio": aspect_ratio}
    differing = [
        f"{name} {value} (here {given.get(name)})" for name, value in trained.items() if value != given.get(name)
    ]
    if not differing and model.trained_on["training_images"] != source.training_images:
        differing = ["other images of the folder (by data.near_copy_correlation, or files that were moved)"]
    if differing:
        raise UserError(
            f"weights={path}: was trained with {', '.join(differing)}; give the data options of its training, "
            "so that no "
            "image it has seen is taken for a new one"
        )


def as_saved(images: Tensor) -> Tensor:
    """Images as their files would hold them: 256 grey values in [-1, 1]."""
    return to_unit_range(to_grey_values(images))


@dataclass(frozen=True)
class Usefulness:
    """Balanced accuracies of classifiers.

    Attributes:
        real_real: trained on real images, tested on real ones (TRTR), with classical augmentation.
        synthetic_real: trained on as many synthetic images, tested on real ones (TSTR).
        real_synthetic: trained on real images, tested on synthetic ones (TRTS).
        both_real: trained on both, one to one, for as many steps, tested on real ones.
    """

    real_real: Trial
    synthetic_real: Trial
    real_synthetic: Trial
    both_real: Trial

    @cached_property
    def accuracies(self) -> dict[str, Estimate]:
        """Balanced accuracies, the share of the bar that samples reach, and what they add, with intervals."""
        return {
            "TRTR": self.real_real.accuracy,
            "TSTR": self.synthetic_real.accuracy,
            "TRTS": self.real_synthetic.accuracy,
            "TSTR / TRTR": usefulness.ratio(self.synthetic_real, self.real_real),
            "real + synthetic": self.both_real.accuracy,
            "augmentation gain": usefulness.gain(self.both_real, self.real_real),
        }


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model.

    Attributes:
        path: its file.
        model: the model.
        samples: images it drew: `PRIOR`, and `BY_CLASS` if the file knows classes.
        labelled: as many samples of each class as train; None if the file knows no classes.
        levels: fidelity and diversity of each of `samples`.
        by_class: see `Reference.by_class`; empty if the file knows no classes.
        reconstructions: the held-out images' reconstructions; None if the model has no encoder, like the next three.
        interpolations: decoded from straight lines between the posterior means of held-out images, `STEPS` a line.
        reconstruction: their quality.
        memorised: share of training images whose reconstructions the audit takes for copies: how much it would see of
            what this model can draw.
        audits: copies among each of `samples`.
        membership: see `privacy.membership`, by score, as far as the model has them.
        usefulness: of samples by class; None if it was not measured.
    """

    path: Path
    model: SavedModel
    samples: dict[str, Images]
    labelled: Labelled | None
    levels: dict[str, Levels]
    by_class: dict[str, Manifold]
    reconstructions: Images | None
    interpolations: Images | None
    reconstruction: dict[str, Estimate] | None
    memorised: Estimate | None
    audits: dict[str, Audit]
    membership: dict[str, Estimate]
    usefulness: Usefulness | None


def evaluate(path: Path, model: SavedModel, reference: Reference, say: Callable[[str], None]) -> Evaluation:
    """Measure a model.

    Args:
        path: its file.
        model: the model.
        reference: what it is held against.
        say: is told what is done next.
    """
    device, seed = reference.device, reference.seed
    encodes = "encoder" in model.networks.to(device).names
    say("sampling")
    samples = {PRIOR: as_saved(from_model(model, reference.n, None, torch.Generator().manual_seed(seed), device))}
    synthetic = None
    if model.knows_classes:
        synthetic = _labelled_samples(model, reference, seed)
        order = torch.randperm(len(synthetic.x), generator=torch.Generator().manual_seed(seed))
        samples[BY_CLASS] = synthetic.x[order[: reference.n]]
    say("fidelity and diversity")
    found = {name: reference.levels(images) for name, images in samples.items()}
    say("reconstruction")
    held_out = reference.held_out
    reconstructions = _reconstruct(model, held_out, reference.held_out_labels, device) if encodes else None
    say("privacy")
    audits = {
        name: privacy.audit(reference.detector.nearest(images), reference.calibration)
        for name, images in samples.items()
    }
    trial = None
    if synthetic is not None and reference.seeds:
        say("usefulness")
        trial = _usefulness(synthetic, reference)
    return Evaluation(
        path,
        model,
        samples,
        synthetic,
        found,
        {} if synthetic is None else reference.by_class(synthetic),
        reconstructions,
        _interpolate(model, reference) if encodes else None,
        None if reconstructions is None else quality(held_out, reconstructions, seed),
        _memorised(model, reference) if encodes else None,
        audits,
        _membership(model, reference, reconstructions),
        trial,
    )


def _labelled_samples(model: SavedModel, reference: Reference, seed: int) -> Labelled:
    """As many samples of each class as there are training images of it."""
    counts = torch.bincount(reference.train.labels, minlength=len(reference.classes)).tolist()
    generator = torch.Generator().manual_seed(seed)
    images = [
        as_saved(from_model(model, n, name, generator, reference.device))
        for name, n in zip(reference.classes, counts, strict=True)
    ]
    return Labelled(torch.cat(images), torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))


def _reconstruct(model: SavedModel, x: Images, y: Labels, device: torch.device) -> Images:
    networks = model.networks
    return as_saved(
        in_batches(lambda x, y: networks.decoder(networks.encoder(x, y)[0], y), x, y, device, "reconstructing")
    )


def _interpolate(model: SavedModel, reference: Reference) -> Images:
    networks, device = model.networks, reference.device
    ends = torch.linspace(0, len(reference.held_out) - 1, 2 * LINES).long()
    y = reference.held_out_labels[ends]
    means = in_batches(lambda x, y: networks.encoder(x, y)[0], reference.held_out[ends], y, device, "interpolating")
    along = torch.linspace(0, 1, STEPS)[:, None]
    lines = [start + along * (end - start) for start, end in zip(means[:LINES], means[LINES:], strict=True)]
    y = y[:LINES].repeat_interleave(STEPS)  # conditional networks stay in the class that the line starts in
    return as_saved(in_batches(networks.decoder, torch.cat(lines), y, device, "interpolating"))


def _memorised(model: SavedModel, reference: Reference) -> Estimate:
    some = reference.some_trained
    found = reference.detector.nearest(_reconstruct(model, some.x, some.labels, reference.device))
    return share(int((found.correlation > reference.calibration.threshold).sum()), len(found.correlation))


def _membership(model: SavedModel, reference: Reference, reconstructions: Images | None) -> dict[str, Estimate]:
    device, held_out = reference.device, reference.labelled_held_out
    members = reference.train.some(len(held_out.x), reference.seed)
    scores: dict[str, tuple[Tensor, Tensor]] = {}
    if reconstructions is not None:
        both = (members.x, _reconstruct(model, members.x, members.labels, device)), (held_out.x, reconstructions)
        of_members, of_others = (-reconstruction.squared_error(x, x_tilde) for x, x_tilde in both)
        scores["reconstruction error"] = of_members, of_others
    if "discriminator" in model.networks.names:
        discriminator = model.networks.discriminator
        of_members, of_others = (
            in_batches(lambda x, y: discriminator(x, y)[0], images.x, images.labels, device, "judging")
            for images in (members, held_out)
        )
        scores["discriminator's score"] = of_members, of_others
    return {name: privacy.membership(*both, reference.seed) for name, both in scores.items()}


def _usefulness(synthetic: Labelled, reference: Reference) -> Usefulness:
    real, test = reference.train, reference.test
    both = Labelled(torch.cat([real.x, synthetic.x]), torch.cat([real.labels, synthetic.labels]))
    return Usefulness(
        real_real=reference.judge(reference.real_classifiers, test),
        synthetic_real=reference.judge(reference.classifiers(synthetic, "trained on synthetic images"), test),
        real_synthetic=reference.judge(reference.real_classifiers, synthetic),
        both_real=reference.judge(reference.classifiers(both, "trained on both"), test),
    )
