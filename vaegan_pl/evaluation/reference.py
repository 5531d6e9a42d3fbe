"""The real images that models are measured against, with the figures that all models share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.datamodule import images_of, labels_of
from vaegan_pl.data.images import to_grey_values, to_unit_range
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation import privacy, usefulness
from vaegan_pl.evaluation.classifier import Classifier, Images
from vaegan_pl.evaluation.diversity import NEIGHBOURS, Manifold, manifold, pairwise_ms_ssim, vendi_score
from vaegan_pl.evaluation.estimate import Estimate, spread
from vaegan_pl.evaluation.features import Features, FeatureSpace, held_out_images
from vaegan_pl.evaluation.fidelity import frechet_distance, kernel_distance_interval
from vaegan_pl.evaluation.pca_baseline import PrincipalComponents, principal_components
from vaegan_pl.evaluation.privacy import Calibration, CopyDetector
from vaegan_pl.evaluation.reconstruction import quality
from vaegan_pl.evaluation.usefulness import Labelled, Trial
from vaegan_pl.model.networks import Labels
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.model.trained_on import TrainedOn
from vaegan_pl.progress import track

DRAWS = 10
PAIRS = 300
PLANTED = 200
LEAST_SIDE = 16

Metrics = dict[str, Estimate]


def as_saved(images: Tensor) -> Tensor:
    """Images in [-1, 1], rounded to the 256 grey values that a file holds."""
    return to_unit_range(to_grey_values(images))


def metrics(held_out: tuple[Images, Features], other: tuple[Images, Features], n: int, seed: int) -> Metrics:
    """Fidelity and diversity of a set of images against held-out ones, from `n` of each.

    KID has a bootstrap interval over both sets. The other figures have the range over `DRAWS` draws of `n` images from
    `other`, and no interval if `other` has no more than `n` images.
    """
    generator = torch.Generator().manual_seed(seed)
    real = torch.randperm(len(held_out[1]), generator=generator)[:n]
    several = DRAWS if len(other[1]) > n else 1
    draws = [torch.randperm(len(other[1]), generator=generator)[:n] for _ in range(several)]
    found: dict[str, list[float]] = {}
    for chosen in track(draws, "comparing", "draw"):
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
    """The detector of copies of the training images, and its calibration by the held-out images.

    Raises:
        UserError: if every held-out image has a copy among the training images.
    """
    held_out = held_out_images(collection)
    if not held_out:
        raise UserError("the copy audit needs held-out images without a copy in training; set data.split=group")
    detector = CopyDetector(images_of(collection, collection.split.images("train")), device)
    images = images_of(collection, held_out)
    return detector, privacy.calibrate(detector.nearest(images, "calibrating the copy audit"))


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
    drawn = [model.sample(max(1, n // len(labels)), label, generator) for label in labels]
    return privacy.audit(detector.nearest(as_saved(torch.cat(drawn))), calibration).verdict


@dataclass
class Reference:
    """The real images that models are measured against, with the figures that all models share.

    Args:
        collection: the images and their split.
        space: the features by which images are compared.
        device: where models run.
        n: samples to draw of each model.
        seeds: classifiers to train for each figure of usefulness; 0 skips usefulness.
        seed: seed of all random draws.
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
        for what, n, fix in (
            ("held-out", len(self.held_out), "add images, or raise data.validation_fraction or data.test_fraction"),
            ("training", len(self.train.x), "add images"),
            ("drawn", self.n, "raise n"),
        ):
            if n <= NEIGHBOURS:
                raise UserError(f"{n} {what} images: a comparison needs at least {NEIGHBOURS + 1}; {fix}")
        if self.train.x.shape[-1] < LEAST_SIDE:
            raise UserError(f"data.image_size={self.train.x.shape[-1]}: must be at least {LEAST_SIDE} for evaluation")
        untested = set(range(len(self.classes))) - set(self.test.labels.tolist())
        if self.seeds and untested:
            raise UserError(
                f"no test image of {', '.join(self.classes[label] for label in sorted(untested))} is without a copy in "
                "training; set seeds=0 to skip usefulness, or data.split=group"
            )

    @cached_property
    def train(self) -> Labelled:
        """All training images."""
        chosen = self.collection.split.images("train")
        return Labelled(images_of(self.collection, chosen), labels_of(self.collection, chosen))

    @cached_property
    def held_out(self) -> Images:
        """All validation and test images without a near-copy among the training images."""
        return images_of(self.collection, held_out_images(self.collection))

    @cached_property
    def held_out_labels(self) -> Labels:
        """Classes of the held-out images."""
        return labels_of(self.collection, held_out_images(self.collection))

    @property
    def labelled_held_out(self) -> Labelled:
        """The held-out images with their classes."""
        return Labelled(self.held_out, self.held_out_labels)

    @cached_property
    def test(self) -> Labelled:
        """The test images, which select no epoch or mixture; the validation images if there are no test images."""
        kept = set(held_out_images(self.collection))
        split = "test" if self.collection.split.groups["test"] else "validation"
        chosen = [image for image in self.collection.split.images(split) if image in kept]
        return Labelled(images_of(self.collection, chosen), labels_of(self.collection, chosen))

    @cached_property
    def compared(self) -> int:
        """Number of images of each set that are compared; the same for all sets, since most figures depend on it."""
        return min(len(self.held_out), self.n, len(self.train.x))

    @cached_property
    def _held_out(self) -> tuple[Images, Features]:
        return self.held_out, self.space(self.held_out)

    def metrics(self, images: Images) -> Metrics:
        """See `metrics`."""
        return metrics(self._held_out, (images, self.space(images)), self.compared, self.seed)

    def kid(self, images: Images) -> Estimate:
        """KID of the first `compared` images."""
        features, n = self._held_out[1], self.compared
        real = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.seed))[:n]
        return kernel_distance_interval(features[real], self.space(images[:n]), self.seed)

    def by_class(self, images: Labelled) -> dict[str, Manifold]:
        """How the images of each class cover its held-out images; classes of too few images are left out."""
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
        """`by_class` of the training images."""
        return self.by_class(self.train)

    @cached_property
    def real(self) -> Metrics:
        """`metrics` of the training images."""
        return self.metrics(self.train.x)

    @cached_property
    def components(self) -> PrincipalComponents:
        """Principal components of the training images."""
        return principal_components(self.train.x)

    @cached_property
    def pca_baseline(self) -> Metrics:
        """`metrics` of draws from a Gaussian in the principal components."""
        return self.metrics(as_saved(self.components.sample(self.n, self.seed)))

    @cached_property
    def pca_baseline_reconstruction(self) -> dict[str, Estimate]:
        """Quality of the held-out images' projections onto the principal components."""
        return quality(self.held_out, self.components.reconstruct(self.held_out), self.seed)

    @cached_property
    def _copy_audit(self) -> tuple[CopyDetector, Calibration]:
        return copy_audit(self.collection, self.device)

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
        return privacy.detection(self.detector, self.some_trained.x, self.calibration.threshold, self.seed)

    def classifiers(self, train: Labelled, name: str) -> list[Classifier]:
        """One classifier per seed, trained on the given images."""
        seeds = range(self.seed, self.seed + self.seeds)
        return usefulness.classifiers(train.to(self.device), len(self.classes), seeds, name)

    @cached_property
    def real_classifiers(self) -> list[Classifier]:
        """Classifiers trained on the training images."""
        return self.classifiers(self.train, "trained on real images")

    def judge(self, classifiers: Sequence[Classifier], images: Labelled) -> Trial:
        """See `usefulness.judge`."""
        return usefulness.judge(classifiers, images.to(self.device))


_EARLIER_SPLIT = {"patients": None, "published": False, "families": False, "fold": None}
"""How model files of earlier versions split images, without saying so."""


def check_trained_on(path: Path, model: SavedModel, source: TrainedOn, image_size: int, aspect_ratio: str) -> None:
    """Check that images and their split are those a model was trained on; otherwise, its metrics would mean nothing.

    Args:
        path: the model's file.
        model: the model.
        source: the images to evaluate the model on.
        image_size: side of the images in pixels.
        aspect_ratio: how images were made square.

    Raises:
        UserError: names what differs.
    """
    if model.trained_on.training_images is None:
        raise UserError(f"weights={path}: does not say which images it was trained on; train it again to evaluate it")
    if model.trained_on.fingerprint != source.fingerprint:
        raise UserError(
            f"weights={path}: was trained on other images ({model.trained_on.caption}) than those in {source.folder}; "
            "give the data.root, data.classes and data.image_size that it was trained with"
        )
    earlier = {} if "published" in (model.trained_on.split or {}) else _EARLIER_SPLIT
    trained = {**earlier, **(model.trained_on.split or {}), "image_size": model.networks.image_size}
    trained["aspect_ratio"] = model.preprocessing["aspect_ratio"]
    given = {**(source.split or {}), "image_size": image_size, "aspect_ratio": aspect_ratio}
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
