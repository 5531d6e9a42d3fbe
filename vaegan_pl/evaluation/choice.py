"""Choose where the samples of a model are drawn."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.tensors import images_of
from vaegan_pl.evaluation import privacy
from vaegan_pl.evaluation.features import FeatureSpace, mean_over_networks
from vaegan_pl.evaluation.fidelity import kernel_distance
from vaegan_pl.evaluation.privacy import FAIL, CopyDetector
from vaegan_pl.evaluation.reference import as_saved
from vaegan_pl.model.mixtures import ClassMixtures
from vaegan_pl.model.saved_model import SavedModel

COMPARED = 512
"""Validation images, and samples of each candidate, at most."""


def by_validation(
    model: SavedModel, collection: Collection, space: FeatureSpace
) -> Callable[[Sequence[ClassMixtures]], ClassMixtures]:
    """A choice among mixtures: the lowest KID of samples to validation images, unless the samples copy training images.

    Samples of a candidate copy if they fail the copy audit, which is calibrated by the validation images. If all do,
    the candidate with the highest KID is chosen.

    Args:
        model: the model, on the device to compute on.
        collection: the images it was trained on.
        space: features to compute the KID in.
    """
    held_out = [i for i in collection.split.images("validation") if i not in collection.leaking.get("validation", [])]
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[:COMPARED].tolist()
    validation = images_of(collection, [held_out[i] for i in order])

    def choose(candidates: Sequence[ClassMixtures]) -> ClassMixtures:
        real = space(validation)
        drawn = [as_saved(replace(model, mixtures=each).sample(len(validation))) for each in candidates]
        distances = [mean_over_networks(kernel_distance, real, space(images)) for images in drawn]
        ranked = sorted(range(len(candidates)), key=lambda i: distances[i])
        detector = CopyDetector(images_of(collection, collection.split.images("train")), model.device)
        for i in ranked:
            own, found = detector.nearest(torch.cat([validation, drawn[i]])).split([len(validation)] * 2)
            if privacy.audit(found, privacy.calibrate(own)).verdict != FAIL:
                return candidates[i]
        return candidates[ranked[-1]]

    return choose
