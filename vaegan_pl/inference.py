"""Running the networks of a saved model, with a progress bar."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vaegan_pl.data import dicom
from vaegan_pl.data.collection import Collection
from vaegan_pl.data.folders import list_loose_images
from vaegan_pl.data.images import UNREADABLE, read_file, to_unit_range, warnings_in_one_line
from vaegan_pl.data.images import fit as fit_image
from vaegan_pl.data.tensors import images_of, labels_of
from vaegan_pl.errors import UserError
from vaegan_pl.model.mechanism import noisy
from vaegan_pl.model.mixtures import COMPONENTS, ClassMixtures, at_most, draw_posteriors, fit, gaussian, log_likelihood
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.private_density import Coordinates, contribution, entries
from vaegan_pl.model.running import posteriors
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.progress import announce, track
from vaegan_pl.storage.files import first_line

log = logging.getLogger(__name__)

_SECONDS = 0.003
"""Time per image to encode it and to fit the mixture of its class, on two CPU cores."""


def class_gaussians(networks: Networks, collection: Collection, n: int, device: torch.device) -> ClassMixtures:
    """A Gaussian of the posteriors of each class, which takes a moment: to sample a model while it is trained.

    Args:
        networks: the networks, on `device` and in evaluation mode.
        collection: the images they are trained on.
        n: number of training images to encode, spread evenly.
        device: the device to compute on.
    """
    found = {}
    train = np.array(collection.split.images("train"))
    labels = collection.labels[train]
    for label, name in enumerate(collection.listing.classes):
        own = train[labels == label]
        chosen = own[np.linspace(0, len(own) - 1, max(2, round(n * len(own) / len(train)))).astype(int)].tolist()
        x, y = images_of(collection, chosen).to(next(networks.parameters()).dtype), labels_of(collection, chosen)
        mean, log_variance = posteriors(networks.encoder, x, y, device, "encoding")
        found[name] = gaussian(mean, log_variance)
    return found


def class_mixtures(
    networks: Networks,
    collection: Collection,
    device: torch.device,
    choose: Callable[[Sequence[ClassMixtures]], ClassMixtures] | None,
    sizes: Sequence[int] = COMPONENTS,
) -> ClassMixtures:
    """Fit mixtures to the posteriors of each class, with the number of components that suits best.

    Args:
        networks: the networks, on `device` and in evaluation mode.
        collection: the images they were trained on.
        device: the device to compute on.
        choose: chooses one of several mixtures, each with as many components in all classes; see
            `evaluation.choice.by_validation`. None chooses, for each class, the mixture under which the posteriors of
            its validation images are most likely.
        sizes: numbers of components to choose from.

    Raises:
        ValueError: if no mixture can be fitted to the posteriors of a class.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, Tensor]] = {}
    n, classes = len(collection.split.images("train")), collection.listing.classes
    announce(f"finding where {len(classes)} classes lie in the latent space", _SECONDS * n)
    for split in ("train", "validation"):
        chosen = collection.split.images(split)
        x, labels = images_of(collection, chosen), labels_of(collection, chosen)
        mean, log_variance = posteriors(networks.encoder, x, labels, device, f"encoding {split}")
        for label, name in enumerate(classes):
            own = labels == label
            found.setdefault(name, {})[split] = draw_posteriors(mean[own], log_variance[own], generator)
    candidates: list[ClassMixtures] = []
    distinct = {tuple(at_most(components, z["train"]) for z in found.values()): components for components in sizes}
    for components in track(distinct.values(), "fitting classes", "size"):
        fitted = {name: fit(z["train"], components) for name, z in found.items()}
        candidates.append({name: mixture for name, mixture in fitted.items() if mixture is not None})
    missing = [name for name in classes if not any(name in each for each in candidates)]
    if missing:
        raise ValueError(f"no mixture fits the posteriors of {missing[0]}: too few images, or values not finite")
    complete = [each for each in candidates if len(each) == len(classes)]
    if choose is not None and complete:
        return choose(complete)
    return {
        name: max(
            (each[name] for each in candidates if name in each),
            key=lambda mixture: log_likelihood(mixture, found[name]["validation"]),
        )
        for name in classes
    }


@torch.no_grad()
def noisy_sums(
    networks: Networks,
    collection: Collection,
    images: Mapping[int, int],
    where: Coordinates,
    clip: float,
    deviation: float,
) -> dict[str, Float64[np.ndarray, " entry"]]:
    """Sums of the contributions of each class's images, with noise; see `private_density.contribution`.

    Images are encoded one by one, on the CPU, because the last digits of results depend on what else is in a batch.

    Args:
        networks: the public networks, on the CPU and in evaluation mode.
        collection: the private images.
        images: indices of the images to use, each with the number of images of its unit.
        where: the public coordinates.
        clip: the clip norm.
        deviation: standard deviation of the noise; see `mechanism.noisy`.

    Raises:
        UserError: if the encoder's output is not finite.
    """
    totals = {name: np.zeros(entries(where.k), dtype=np.int64) for name in collection.listing.classes}
    for image, of in track(list(images.items()), "encoding", "image"):
        mean, log_variance = networks.encoder(images_of(collection, [image]), None)
        if not (mean.isfinite().all() and log_variance.exp().isfinite().all()):
            raise UserError(f"{collection.name(image)}: the model outputs NaN or infinity; leave out with data.exclude")
        totals[collection.listing.classes[collection.labels[image]]] += contribution(
            mean[0], log_variance[0], where, clip, of
        )
    return {name: noisy(total, deviation) for name, total in totals.items()}


def read_images(
    path: Path, model: SavedModel, most: int | None = None
) -> tuple[list[str], Float[Tensor, "image 1 side side"]]:
    """Read an image or a folder of images as inputs of a model; files that cannot be read are skipped with a warning.

    Args:
        path: an image, or a folder of them.
        model: the model, for its preprocessing.
        most: maximum number of images; None reads all.

    Returns:
        The names of the files, without suffix, and the images in [-1, 1].

    Raises:
        UserError: if the path does not exist, or none of its images can be read.
    """
    names: list[str] = []
    pictures = []
    files = list_loose_images(path)
    with warnings_in_one_line():
        in_series = model.preprocessing["grey_range"] == "series"
        series = dicom.series_windows(files) if in_series else {}
        for file in track(files, "reading images", "image"):
            if len(names) == most:
                log.warning("images=%s: only the first %d of %d are used", path, len(names), len(files))
                break
            try:
                pictures.append(_input(file, model, series.get(file)))
            except UNREADABLE as error:
                log.warning("skipped %s: %s", file, first_line(error))
                continue
            names.append(file.stem)
    if not pictures:
        raise UserError(f"images={path}: none of the images there can be read")
    return names, torch.stack(pictures)


def read_image(file: Path, model: SavedModel) -> Float[Tensor, "1 side side"]:
    """Read an image as an input of a model; a DICOM slice counts as a series of its own.

    Raises:
        UNREADABLE: see `images.read_file`.
    """
    in_series = model.preprocessing["grey_range"] == "series"
    return _input(file, model, dicom.series_windows([file]).get(file) if in_series else None)


def _input(file: Path, model: SavedModel, series: dicom.Window | None) -> Float[Tensor, "1 side side"]:
    grey = read_file(file, model.preprocessing["white"], model.preprocessing["grey_range"], series).grey
    fitted = fit_image(grey, model.networks.image_size, model.preprocessing["aspect_ratio"])
    return to_unit_range(torch.from_numpy(fitted))[None]
