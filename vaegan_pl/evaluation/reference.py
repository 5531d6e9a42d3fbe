"""Real images, and what is the same for every model that is measured against them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.datamodule import Source, images_of, labels_of
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
from vaegan_pl.model.weights import SavedModel
from vaegan_pl.progress import track

DRAWS = 10
PAIRS = 300
PLANTED = 200
LEAST_SIDE = 16

Levels = dict[str, Estimate]


def as_saved(images: Tensor) -> Tensor:
    """Images as their files would hold them: 256 grey values in [-1, 1]."""
    return to_unit_range(to_grey_values(images))


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


def audit_of(model: SavedModel, collection: Collection, n: int, seed: int, device: torch.device) -> str | None:
    """Verdict of the audit of copies among samples of a model; None where too few images are held out to audit by.

    Args:
        model: the model.
        collection: the images that trained it.
        n: how many samples; of the classes' mixtures, in turn, where the model has them.
        seed: seed of the samples.
        device: what computes.
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

    def kid(self, images: Images) -> Estimate:
        """KID alone of the first `compared` images."""
        features, n = self._held_out[1], self.compared
        real = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.seed))[:n]
        return kernel_distance_interval(features[real], self.space(images[:n]), self.seed)

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


def check_strangers(path: Path, model: SavedModel, source: Source, image_size: int, aspect_ratio: str) -> None:
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
            "so that no image it has seen is taken for a new one"
        )
