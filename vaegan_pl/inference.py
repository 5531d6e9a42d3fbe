"""Running the networks of a saved model, with a progress bar."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.datamodule import images_of, labels_of
from vaegan_pl.model.mixtures import ClassMixtures, draw_posteriors, fit
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.weights import SavedModel

AT_ONCE = 64


@torch.inference_mode()
def in_batches(network: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device, description: str) -> Tensor:
    """Outputs for all inputs, computed in batches of `AT_ONCE` on `device` and gathered on the CPU."""
    batches = tqdm(inputs.split(AT_ONCE), description, unit="batch", leave=False)
    return torch.cat([network(batch.to(device)).cpu() for batch in batches])


def from_prior(networks: Networks, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Decode `n` draws from the prior N(0, I)."""
    z = torch.randn(n, networks.latent_dim, generator=generator).to(next(networks.parameters()).dtype)
    return in_batches(networks.decoder, z, device, "sampling")


def from_mixture(model: SavedModel, label: str, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Decode `n` draws from the mixture of a class.

    Raises:
        UserError: as `SavedModel.mixture` does.
    """
    z = model.mixture(label).sample(n, generator)
    return in_batches(model.networks.decoder, z, device, f"sampling {label}")


def class_mixtures(networks: Networks, collection: Collection, device: torch.device) -> ClassMixtures:
    """Fit where each class lies in the latent space; see `mixtures.fit`.

    Args:
        networks: the model, on `device` and in evaluation mode.
        collection: the images it was trained on; those that validate decide how many components there are.
        device: what computes.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, Tensor]] = {}
    for split in ("train", "validation"):
        chosen = collection.split.images(split)
        x, labels = images_of(collection, chosen), labels_of(collection, chosen)
        encoded = in_batches(lambda batch: torch.stack(networks.encoder(batch), 1), x, device, f"encoding {split}")
        for label, name in enumerate(collection.listing.classes):
            mean, log_variance = encoded[labels == label].unbind(1)
            found.setdefault(name, {})[split] = draw_posteriors(mean, log_variance, generator)
    return {
        name: fit(z["train"], z["validation"])
        for name, z in tqdm(found.items(), "fitting classes", unit="class", leave=False)
    }


def clear(output: Path, prefix: str) -> None:
    """Remove an earlier call's pictures, `PREFIX_NNNNN*.png`, so that two calls never mix in one folder."""
    for picture in output.glob(f"{prefix}_[0-9][0-9][0-9][0-9][0-9]*.png"):
        picture.unlink()
