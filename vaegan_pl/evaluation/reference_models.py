"""Reference models: models of the same folder that were trained on other patients.

They show how difficult an image is for models that do not know it. A model file does not list its training images. It
records how the folder was split, and a fingerprint of the training images; the split is computed again and must have
that fingerprint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaegan_pl.data.collection import RESPLIT, Collection
from vaegan_pl.data.splits import COPIES, FOLDS
from vaegan_pl.errors import UserError
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.model.trained_on import TrainedOn

LEAST = 10
"""Least number of members, and of others, that belong to patients that no reference model was trained on."""


@dataclass(frozen=True)
class ReferenceModel:
    """A reference model.

    Attributes:
        model: the model, with an encoder.
        seen: the patients and groups of near-copies of the images that it was trained on.
    """

    model: SavedModel
    seen: frozenset[str]


def reference_model(path: Path, model: SavedModel, source: TrainedOn, collection: Collection) -> ReferenceModel:
    """Find out which images of a collection a model was trained on.

    Args:
        path: the model's file.
        model: the model.
        source: a description of the collection.
        collection: the images that are attacked.

    Raises:
        UserError: if the model has no encoder, reads images differently, or its training images cannot be determined.
    """
    if not model.has_encoder:
        raise UserError(f"references={path}: has no encoder (a GAN, or a decoder alone), so it reconstructs nothing")
    decoding, own = collection.decoding, model.preprocessing
    read = (decoding.image_size, decoding.aspect_ratio, decoding.white, decoding.range)
    if (own["image_size"], own["aspect_ratio"], own["white"], own["grey_range"]) != read:
        raise UserError(f"references={path}: was trained with another image_size, aspect_ratio, white or range")
    trained, split = model.trained_on, model.trained_on.split
    if trained.training_images is None or split is None:
        raise UserError(f"references={path}: does not say which images it was trained on; train it again")
    if trained.fingerprint != source.fingerprint or trained.classes != source.classes:
        raise UserError(
            f"references={path}: was trained on other images ({trained.caption}); whether these images are among them "
            "cannot be determined. Give models of the same folder with another data.fold or data.split_seed"
        )
    fixed = [name for name, value in (source.split or {}).items() if name not in RESPLIT and value != split.get(name)]
    options = {name: split.get(name) for name in RESPLIT}
    if not fixed and _is_valid(options):
        images = collection.other_split(**options).images("train")
        if collection.fingerprint(images) == trained.training_images:
            return ReferenceModel(model, frozenset[str]().union(*_names(collection, images)))
    differing = f" ({', '.join(fixed)} differ)" if fixed else ""
    raise UserError(
        f"references={path}: its training images cannot be determined{differing}; give a model that was trained with "
        "the same data options but data.fold, data.split_seed, data.validation_fraction, data.test_fraction and "
        "data.copies"
    )


def _is_valid(options: dict[str, Any]) -> bool:
    shares, fold, seed = (options["validation_fraction"], options["test_fraction"]), options["fold"], options["seed"]
    return (
        all(type(share) is float and 0 < share < 1 for share in shares)
        and (fold is None or (type(fold) is int and 0 <= fold < FOLDS))
        and type(seed) is int
        and options["copies"] in COPIES
    )


def unseen(collection: Collection, images: Sequence[int], models: Sequence[ReferenceModel]) -> list[int]:
    """The images of which no model was trained on the patient or a near-copy."""
    seen = frozenset[str]().union(*(one.seen for one in models))
    named = zip(images, _names(collection, images), strict=True)
    return [image for image, names in named if not seen & names]


def _names(collection: Collection, images: Sequence[int]) -> list[set[str]]:
    """The patient and the group of near-copies of each image."""
    patients = collection.together(images)
    return [{name, f"group {collection.groups[image]}"} for name, image in zip(patients, images, strict=True)]


def check_unseen(collection: Collection, held_out: Sequence[int], models: Sequence[ReferenceModel]) -> None:
    """Check that there are images that no reference model was trained on, both members and others.

    All images are calibrated by the same models. If some models calibrated the members and different ones the held-out
    images, a difference between the models would look like a leak.

    Args:
        collection: the images and the split of the model under attack.
        held_out: its held-out images.
        models: the reference models.

    Raises:
        UserError: if there are fewer than `LEAST` of either kind.
    """
    train = collection.split.images("train")
    members, others = (len(unseen(collection, images, models)) for images in (train, held_out))
    if min(members, others) < LEAST:
        fold = collection.fold
        such = "another data.split_seed" if fold is None else f"data.fold={(fold - 1) % FOLDS}, which validates on them"
        raise UserError(
            f"references: {members} of {len(train):,} training images and {others} of {len(held_out):,} held-out "
            f"images are of patients that no reference model was trained on; at least {LEAST} of each are needed. Give "
            f"models trained with {such}"
        )
