"""The training images of a model, to compare its samples with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.tensors import images_of
from vaegan_pl.evaluation.features import held_out_images
from vaegan_pl.evaluation.privacy import Calibration, CopyDetector
from vaegan_pl.evaluation.reference import copy_audit

NEAREST = 6


@dataclass(frozen=True)
class Neighbour:
    """A training image that is similar to a sample.

    Attributes:
        name: its file, relative to the folder of the images.
        image: the image in [-1, 1], mirrored if that is more similar to the sample.
        correlation: see `privacy.Nearest`.
        mirrored: whether the image was mirrored.
    """

    name: str
    image: Float[Tensor, "1 side side"]
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class TrainingImages:
    """The training images of a model.

    Attributes:
        images: the images in [-1, 1].
        names: their files, relative to the folder of the images.
        held_out: files and classes of images without a near-copy among the training images.
        detector: finds copies of the training images.
        calibration: the threshold above which a sample counts as a copy.
    """

    images: Float[Tensor, "image 1 side side"]
    names: list[str]
    held_out: list[tuple[Path, str]]
    detector: CopyDetector
    calibration: Calibration

    @classmethod
    def of(cls, collection: Collection, device: torch.device) -> Self:
        """The training images of a collection.

        Raises:
            UserError: see `copy_audit`.
        """
        chosen = collection.split.images("train")
        files, classes = collection.listing.files, collection.listing.classes
        names = [str(files[image].path.relative_to(collection.root)) for image in chosen]
        held_out = [(files[image].path, classes[files[image].label]) for image in held_out_images(collection)]
        return cls(images_of(collection, chosen), names, held_out, *copy_audit(collection, device))

    def nearest(self, image: Float[Tensor, "1 side side"]) -> list[Neighbour]:
        """The training images that are most similar to a sample, in descending order."""
        found = self.detector.most_like(image, NEAREST)
        return [
            Neighbour(self.names[i], self.images[i].flip(-1) if flip else self.images[i], correlation, flip)
            for i, correlation, flip in zip(
                found.image.tolist(), found.correlation.tolist(), found.mirrored.tolist(), strict=True
            )
        ]

    def is_copy(self, neighbour: Neighbour) -> bool:
        """Whether the audit counts the sample as a copy of this neighbour."""
        return neighbour.correlation > self.calibration.threshold
