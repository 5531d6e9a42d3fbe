"""The real images that models are measured against, with the figures that all models share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.images import to_grey_values, to_unit_range
from vaegan_pl.data.prepared import Decoding
from vaegan_pl.data.tensors import images_of, labels_of
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation import privacy, two_sample
from vaegan_pl.evaluation.classifier import STEPS, Classifier, Images, Labelled, Training
from vaegan_pl.evaluation.diversity import NEIGHBOURS, Manifold, mean_manifold
from vaegan_pl.evaluation.estimate import Estimate, Halved, wilson_ci
from vaegan_pl.evaluation.features import FeatureSpace, held_out_images
from vaegan_pl.evaluation.kept import fit_once, nearest_once
from vaegan_pl.evaluation.metrics import DIVISIONS, ImageSet, Metrics, kid_by_network, metrics
from vaegan_pl.evaluation.pca_baseline import PrincipalComponents, principal_components
from vaegan_pl.evaluation.privacy import Audit, Calibration, CopyDetector, Nearest
from vaegan_pl.evaluation.reconstruction import quality
from vaegan_pl.evaluation.reference_models import ReferenceModel, check_unseen, unseen
from vaegan_pl.evaluation.two_sample import Grouped
from vaegan_pl.evaluation.usefulness import Trial, judge
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.model.trained_on import TrainedOn

PLANTED = 100
LEAST_POPULATION = 20
LEAST_SIDE = 16
SMALL = 64


def as_saved(images: Tensor) -> Tensor:
    """Images in [-1, 1], rounded to the 256 grey values that a file holds."""
    return to_unit_range(to_grey_values(images))


def copy_audit(
    collection: Collection, device: torch.device, cache: Path | None = None
) -> tuple[CopyDetector, Calibration]:
    """The detector of copies of the training images, and its calibration by the held-out images.

    Args:
        collection: the images.
        device: where they are compared.
        cache: folder in which their similarities are kept; None computes them anew.

    Raises:
        UserError: if every held-out image has a copy among the training images.
    """
    held_out = held_out_images(collection)
    if not held_out:
        raise UserError("the copy audit needs held-out images without a copy in training; set data.split=group")
    detector = CopyDetector(images_of(collection, collection.split.images("train")), device)
    images, doing = images_of(collection, held_out), "calibrating the copy audit"
    found = detector.nearest(images, doing) if cache is None else nearest_once(detector, images, doing, cache)
    return detector, privacy.calibrate(found)


def audit_of(model: SavedModel, collection: Collection, n: int, seed: int, device: torch.device) -> str | None:
    """Verdict of the copy audit on samples of a model; None if too few images are held out for an audit.

    Args:
        model: the model.
        collection: the images that trained it.
        n: number of samples; divided evenly among the classes if the model knows them.
        seed: seed of the samples.
        device: where the model runs.
    """
    if len(held_out_images(collection)) < privacy.LEAST_HELD_OUT:
        return None
    detector, calibration = copy_audit(collection, device)
    model.networks.to(device)
    generator = torch.Generator().manual_seed(seed)
    labels = list(model.labels) if model.knows_classes else [None]
    drawn = as_saved(torch.cat([model.sample(max(1, n // len(labels)), label, generator) for label in labels]))
    train = torch.tensor(collection.split.images("train"))
    some = train[torch.randperm(len(train), generator=generator)[:PLANTED]].tolist()
    trained = Labelled(images_of(collection, some), labels_of(collection, some))
    found, _ = audits(model, {"": drawn}, trained, detector, calibration)
    return found[""].verdict


def audits(
    model: SavedModel,
    samples: Mapping[str, Images],
    trained: Labelled,
    detector: CopyDetector,
    calibration: Calibration,
) -> tuple[dict[str, Audit], Estimate | None]:
    """The copy audit of sets of samples of a model.

    Args:
        model: the model.
        samples: the sets of samples.
        trained: some training images.
        detector: of all training images.
        calibration: the threshold.

    Returns:
        The audits, and the share of `trained` whose reconstructions the audit recognises; None without an encoder.
    """
    encodes = "encoder" in model.networks.names
    reconstructed = as_saved(model.reconstruct(trained.x, trained.labels)) if encodes else trained.x[:0]
    sizes = [*map(len, samples.values()), len(reconstructed)]
    *found, own = detector.nearest(torch.cat([*samples.values(), reconstructed])).split(sizes)
    copies = int((own.correlation > calibration.threshold).sum())
    memorised = wilson_ci(copies, len(reconstructed)) if encodes else None
    recognised = None if memorised is None else memorised.value
    return {
        name: privacy.audit(nearest, calibration, recognised) for name, nearest in zip(samples, found, strict=True)
    }, memorised


@dataclass(frozen=True)
class Baselines:
    """Classifiers that all models are compared with.

    Attributes:
        real: trained on the training images, one for each seed.
        longer: the same for twice as many steps.
        gaussian: trained on `Reference.gaussian_by_class`.
    """

    real: list[Classifier]
    longer: list[Classifier]
    gaussian: list[Classifier]


@dataclass(frozen=True)
class Attacked:
    """Images whose membership an attack tries to infer.

    Attributes:
        images: the images.
        groups: the patient, or what else belongs together, of each image.
    """

    images: Labelled
    groups: list[str]


@dataclass
class Reference:
    """The real images that models are measured against, with the figures that all models share.

    Args:
        collection: the images and their split.
        space: the features by which images are compared.
        device: where models run.
        n: samples to draw of each model.
        seeds: classifiers to train for each figure of usefulness; 0 skips what they measure.
        seed: seed of all random draws.
        cache: folder in which what depends on real images alone is kept: classifiers, and what the copy audit found.
        divisions: see `metrics.metrics`.
        models: reference models, which calibrate attacks.

    Raises:
        UserError: if there are too few images of a kind.
    """

    collection: Collection
    space: FeatureSpace
    device: torch.device
    n: int
    seeds: int
    seed: int
    cache: Path
    divisions: int = DIVISIONS
    models: Sequence[ReferenceModel] = ()
    classes: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.classes = self.collection.listing.classes
        for what, n, fix in (
            ("held-out", len(self.held_out.x), "add images, or raise data.test_fraction"),
            ("training", len(self.train.x), "add images"),
            ("drawn", self.n, "raise n"),
        ):
            if n <= NEIGHBOURS:
                raise UserError(f"{n} {what} images: a comparison needs at least {NEIGHBOURS + 1}; {fix}")
        if self.train.x.shape[-1] < LEAST_SIDE:
            raise UserError(f"data.image_size={self.train.x.shape[-1]}: must be at least {LEAST_SIDE} for evaluation")
        untested = set(range(len(self.classes))) - set(self.held_out.labels.tolist())
        if self.seeds and untested:
            raise UserError(
                f"no test image of {', '.join(self.classes[label] for label in sorted(untested))} is without a copy in "
                "training; set seeds=0 to skip usefulness, or data.split=group"
            )
        if self.models:
            check_unseen(self.collection, self._held_out_files, self.models)

    @cached_property
    def train(self) -> Labelled:
        """All training images."""
        return self._labelled(self.collection.split.images("train"))

    @cached_property
    def held_out(self) -> Labelled:
        """The test images, by which nothing was chosen; the validation images if there are no test images.

        Without near-copies of training images.
        """
        return self._labelled(self._held_out_files)

    @cached_property
    def _held_out_files(self) -> list[int]:
        kept = set(held_out_images(self.collection))
        split = "test" if self.collection.split.groups["test"] else "validation"
        return [image for image in self.collection.split.images(split) if image in kept]

    def _labelled(self, images: list[int]) -> Labelled:
        return Labelled(images_of(self.collection, images), labels_of(self.collection, images))

    def _attacked(self, images: list[int]) -> Attacked:
        return Attacked(self._labelled(images), self.collection.together(images))

    def _some(self, images: list[int], n: int) -> list[int]:
        """At most `n` of some images; the same ones as `Labelled.some`."""
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))[:n]
        return [images[i] for i in chosen.tolist()]

    @cached_property
    def members(self) -> Attacked:
        """As many training images as images are held out, at random."""
        train = self.collection.split.images("train")
        return self._attacked(self._some(train, len(self._held_out_files)))

    @cached_property
    def others(self) -> Attacked:
        """The held-out images."""
        return self._attacked(self._held_out_files)

    @cached_property
    def population(self) -> Images | None:
        """Validation images that are not held-out images; None if there are fewer than `LEAST_POPULATION`."""
        held_out = set(self._held_out_files)
        files = [image for image in held_out_images(self.collection) if image not in held_out]
        return None if len(files) < LEAST_POPULATION else images_of(self.collection, files)

    @cached_property
    def unseen(self) -> tuple[Attacked, Attacked] | None:
        """The training and held-out images that no reference model was trained on; None without reference models.

        There are at most as many of the first as of the second.
        """
        if not self.models:
            return None
        others = unseen(self.collection, self._held_out_files, self.models)
        members = unseen(self.collection, self.collection.split.images("train"), self.models)
        return self._attacked(self._some(members, len(others))), self._attacked(others)

    @cached_property
    def compared(self) -> int:
        """Number of images of each set that are compared; the same for all sets, since most figures depend on it."""
        return min(len(self.held_out.x), self.n, len(self.train.x))

    def with_features(self, images: Images) -> ImageSet:
        """Images with their features."""
        return ImageSet(images, self.space(images))

    @cached_property
    def _held_out(self) -> ImageSet:
        return self.with_features(self.held_out.x)

    def metrics(self, images: ImageSet) -> Metrics:
        """See `metrics.metrics`."""
        return metrics(self._held_out, images, self.compared, self.seed, self.divisions)

    def kid(self, images: ImageSet) -> list[float]:
        """See `metrics.kid_by_network`."""
        return kid_by_network(self._held_out, images, self.compared, self.seed)

    def by_class(self, images: Labelled) -> dict[str, Manifold]:
        """How the images of each class cover its held-out images; classes of too few images are left out."""
        found = {}
        for label, name in enumerate(self.classes):
            real = self._held_out.features[:, self.held_out.labels == label]
            other = images.x[images.labels == label]
            n = min(real.shape[1], len(other))
            if n > NEIGHBOURS:
                generator = torch.Generator().manual_seed(self.seed)
                orders = [torch.randperm(k, generator=generator)[:n] for k in (real.shape[1], len(other))]
                found[name] = mean_manifold(real[:, orders[0]], self.space(other[orders[1]]))
        return found

    @cached_property
    def drawn_by_class(self) -> list[int]:
        """How many samples of each class to draw, in the proportions of the training images.

        With classifiers, as many as there are training images. Without, enough that at least `n` samples are drawn in
        all, and at least as many of each class as are held out, but never more than its training images.
        """
        trained = torch.bincount(self.train.labels, minlength=len(self.classes))
        if self.seeds:
            return trained.tolist()
        held_out = torch.bincount(self.held_out.labels, minlength=len(self.classes))
        share = torch.maximum(held_out / trained.clamp_min(1), torch.tensor(self.n / len(self.train.x))).max()
        return torch.minimum((share * trained).ceil().long(), trained).tolist()

    @cached_property
    def real_by_class(self) -> dict[str, Manifold]:
        """`by_class` of the training images."""
        return self.by_class(self.train)

    @cached_property
    def real(self) -> Metrics:
        """`metrics` of the training images."""
        return self.metrics(self.with_features(self.train.x))

    @cached_property
    def components(self) -> PrincipalComponents:
        """Principal components of the training images."""
        return principal_components(self.train.x)

    @cached_property
    def pca_baseline(self) -> Metrics:
        """`metrics` of draws from a Gaussian in the principal components."""
        return self.metrics(self.with_features(as_saved(self.components.sample(self.n, self.seed))))

    @cached_property
    def pca_baseline_reconstruction(self) -> dict[str, Halved]:
        """Quality of the held-out images' projections onto the principal components."""
        return quality(self.held_out.x, self.components.reconstruct(self.held_out.x), self.seed)

    @cached_property
    def gaussian_by_class(self) -> Labelled:
        """Draws from a Gaussian in the principal components of each class, as many as it has training images."""
        counts = torch.bincount(self.train.labels, minlength=len(self.classes)).tolist()
        drawn = [
            as_saved(principal_components(self.train.x[self.train.labels == label]).sample(n, self.seed + label))
            for label, n in enumerate(counts)
        ]
        return Labelled(torch.cat(drawn), torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))

    @cached_property
    def _copy_audit(self) -> tuple[CopyDetector, Calibration]:
        return copy_audit(self.collection, self.device, self.cache)

    @property
    def detector(self) -> CopyDetector:
        """Detector of copies of the training images."""
        return self._copy_audit[0]

    @property
    def calibration(self) -> Calibration:
        """Calibration of the copy audit."""
        return self._copy_audit[1]

    @cached_property
    def some_trained(self) -> Labelled:
        """The training images that are planted as copies."""
        return self.train.some(PLANTED, self.seed)

    @cached_property
    def detection(self) -> dict[str, Estimate]:
        """Share of planted copies that the audit finds; see `privacy.detection`."""

        def nearest(x: Images) -> Nearest:
            return nearest_once(self.detector, x, "planting copies", self.cache)

        return privacy.detection(nearest, self.some_trained.x, self.calibration.threshold, self.seed)

    def trainings(self, images: Labelled, steps: int) -> list[Training]:
        """How to train a classifier on labelled images with each seed."""
        small = halved_until_small(images).to(self.device)
        seeds = range(self.seed, self.seed + self.seeds)
        return [Training(small, len(self.classes), seed, steps) for seed in seeds]

    def judge(self, classifiers: Sequence[Classifier], images: Labelled) -> Trial:
        """See `usefulness.judge`."""
        return judge(classifiers, halved_until_small(images).to(self.device))

    @cached_property
    def baselines(self) -> Baselines:
        """Classifiers that all models are compared with."""
        trainings = [
            *self.trainings(self.train, STEPS),
            *self.trainings(self.train, 2 * STEPS),
            *self.trainings(self.gaussian_by_class, STEPS),
        ]
        found = fit_once(trainings, "training classifiers on real images (first time only)", self.cache)
        return Baselines(*(found[i * self.seeds : (i + 1) * self.seeds] for i in range(3)))

    def halves(self, other: Grouped) -> tuple[Labelled, Labelled]:
        """Halves of `compared` held-out images and as many others; see `two_sample.halves`."""
        generator = torch.Generator().manual_seed(self.seed)
        sets: list[Grouped] = []
        for one in (Grouped(self.held_out.x, self.collection.together(self._held_out_files)), other):
            chosen = torch.randperm(len(one.x), generator=generator)[: self.compared]
            sets.append(Grouped(one.x[chosen], [one.groups[i] for i in chosen.tolist()]))
        return two_sample.halves(sets[0], sets[1], self.seed)

    @cached_property
    def told_apart(self) -> Estimate:
        """How well training images can be told from held-out images; see `two_sample.auc`."""
        files = self.collection.split.images("train")
        parts = self.halves(Grouped(self.train.x, self.collection.together(files)))
        trainings = two_sample.trainings(parts, self.seed, self.device)
        found = fit_once(trainings, "telling real images apart (first time only)", self.cache)
        return two_sample.auc(found, parts, self.seed)


def halved_until_small(images: Labelled) -> Labelled:
    """Images averaged over 2 x 2 pixels until they have fewer than `SMALL` pixels along an axis.

    Classifiers learn from them in two fifths of the time, and are about as accurate.
    """
    x = images.x
    while x.shape[-1] >= SMALL:
        x = avg_pool2d(x, 2)
    return Labelled(x, images.labels)


_EARLIER_SPLIT = {"patients": None, "published": False, "families": False, "fold": None}
"""How model files of earlier versions split images, without saying so."""


def check_trained_on(path: Path, model: SavedModel, source: TrainedOn, decoding: Decoding) -> None:
    """Check that images and their split are those a model was trained on; otherwise, its metrics would mean nothing.

    A model released under differential privacy does not say which images its density came from; any with the same
    classes, read in the same way, are accepted.

    Args:
        path: the model's file.
        model: the model.
        source: the images to evaluate the model on.
        decoding: how they were read.

    Raises:
        UserError: names what differs.
    """
    if model.trained_on.release is not None:
        _check_released(path, model, source, decoding)
        return
    if model.trained_on.training_images is None:
        raise UserError(f"weights={path}: does not say which images it was trained on; train it again to evaluate it")
    read = {"white": decoding.white, "range": decoding.range}
    was = {"white": model.preprocessing["white"], "range": model.preprocessing["grey_range"]}
    if model.trained_on.fingerprint != source.fingerprint and read != was:
        options = " ".join(f"data.{name}={value}" for name, value in was.items())
        raise UserError(f"weights={path}: was trained with another range of grey values; give {options}")
    if model.trained_on.fingerprint != source.fingerprint:
        raise UserError(
            f"weights={path}: was trained on other images ({model.trained_on.caption}) than those in {source.folder}; "
            "give the data.root, data.classes, data.image_size, data.exclude and data.masks that it was trained with"
        )
    earlier = {} if "published" in (model.trained_on.split or {}) else _EARLIER_SPLIT
    trained = {**earlier, **(model.trained_on.split or {}), "image_size": model.networks.image_size}
    trained["aspect_ratio"] = model.preprocessing["aspect_ratio"]
    given = {**(source.split or {}), "image_size": decoding.image_size, "aspect_ratio": decoding.aspect_ratio}
    differing = [
        f"{name} {value} (here {given.get(name)})" for name, value in trained.items() if value != given.get(name)
    ]
    if not differing and model.trained_on.training_images != source.training_images:
        differing = [
            "other images of the folder (by data.near_copy_correlation, data.registered_correlation or data.search, by "
            "another version's table of published slices, or because files were moved)"
        ]
    if differing:
        raise UserError(
            f"weights={path}: was trained with {', '.join(differing)}; give the data options of its training, "
            "so that no image it was trained on counts as held out"
        )


def _check_released(path: Path, model: SavedModel, source: TrainedOn, decoding: Decoding) -> None:
    """Check that images have the classes and the preprocessing of a released model.

    Raises:
        UserError: names what differs.
    """
    if set(model.labels) != set(source.classes):
        raise UserError(
            f"weights={path}: has the classes {', '.join(model.labels)}; give images of these with data.root and "
            "data.classes"
        )
    check_read_alike(path, model, decoding)


def check_read_alike(path: Path, model: SavedModel, decoding: Decoding) -> None:
    """Check that images are read as those were that a model was trained on.

    Raises:
        UserError: names the options to give.
    """
    own = {
        "image_size": model.networks.image_size,
        "aspect_ratio": model.preprocessing["aspect_ratio"],
        "white": model.preprocessing["white"],
        "range": model.preprocessing["grey_range"],
    }
    if any(getattr(decoding, name) != value for name, value in own.items()):
        options = " ".join(f"data.{name}={value}" for name, value in own.items())
        raise UserError(f"weights={path}: was trained on images that were read differently; give {options}")
