"""Running the networks of a saved model, with a progress bar."""

import logging
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.datamodule import images_of, labels_of
from vaegan_pl.data.folders import list_loose_images
from vaegan_pl.data.images import UNREADABLE, read_grey, to_unit_range
from vaegan_pl.data.images import fit as fit_image
from vaegan_pl.errors import UserError
from vaegan_pl.model.mixtures import ClassMixtures, draw_posteriors, fit
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.running import in_batches
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.progress import announce, track

log = logging.getLogger(__name__)

_SECONDS = 0.003
"""Time per image to encode it and to fit the mixture of its class, on two CPU cores."""


def from_prior(
    networks: Networks, n: int, y: Tensor | None, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Decode `n` draws from the prior N(0, I), with classes `y` if the networks are conditional."""
    z = torch.randn(n, networks.latent_dim, generator=generator).to(next(networks.parameters()).dtype)
    return in_batches(networks.decoder, z, y, device, "sampling")


def class_mixtures(networks: Networks, collection: Collection, device: torch.device) -> ClassMixtures:
    """Fit a mixture to the posteriors of each class; see `mixtures.fit`.

    Args:
        networks: the networks, on `device` and in evaluation mode.
        collection: the images they were trained on; validation images select the number of components.
        device: the device to compute on.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, Tensor]] = {}
    n = len(collection.split.images("train"))
    announce(f"finding where {len(collection.listing.classes)} classes lie in the latent space", _SECONDS * n)
    for split in ("train", "validation"):
        chosen = collection.split.images(split)
        x, labels = images_of(collection, chosen), labels_of(collection, chosen)
        encoded = in_batches(
            lambda x, y: torch.stack(networks.encoder(x, y), 1), x, labels, device, f"encoding {split}"
        )
        for label, name in enumerate(collection.listing.classes):
            mean, log_variance = encoded[labels == label].unbind(1)
            found.setdefault(name, {})[split] = draw_posteriors(mean, log_variance, generator)
    return {name: fit(z["train"], z["validation"]) for name, z in track(found.items(), "fitting classes", "class")}


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
    for file in track(files, "reading images", "image"):
        if len(names) == most:
            log.warning("images=%s: only the first %d of %d are used", path, len(names), len(files))
            break
        try:
            pictures.append(read_image(file, model))
        except UNREADABLE as error:
            log.warning("skipped %s: %s", file, error)
            continue
        names.append(file.stem)
    if not pictures:
        raise UserError(f"images={path}: none of the images there can be read")
    return names, torch.stack(pictures)


def read_image(file: Path, model: SavedModel) -> Float[Tensor, "1 side side"]:
    """Read an image as an input of a model.

    Raises:
        UNREADABLE: see `images.read_grey`.
    """
    grey = read_grey(file, model.preprocessing["white"])
    fitted = fit_image(grey, model.networks.image_size, model.preprocessing["aspect_ratio"])
    return to_unit_range(torch.from_numpy(fitted))[None]
