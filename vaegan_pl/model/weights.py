"""`vae_gan_model.pth`: one portable file of plain containers and tensors, written and read here and nowhere else."""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from vaegan_pl.errors import UserError
from vaegan_pl.model.networks import Networks

FORMAT = "vaegan_pl"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SavedModel:
    """A model as its file holds it.

    Attributes:
        networks: encoder, decoder and discriminator, in evaluation mode on the CPU.
        preprocessing: how images become inputs: image_size, colour, resize, range.
        trained_on: what the training images were: kind (`phantom` or `images`), root, classes, counts, caption.
        training: epochs, batches and hyperparameters, for the record.
    """

    networks: Networks
    preprocessing: Mapping[str, Any]
    trained_on: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes trained on, in label order."""
        return list(self.trained_on["classes"])


def save(path: Path, networks: Networks, trained_on: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """Write a model file, atomically: an earlier file at `path` stays whole until the new one is.

    Args:
        path: the file to write.
        networks: the networks to store.
        trained_on: plain values; see `SavedModel`.
        training: plain values; see `SavedModel`.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "networks": networks.arguments,
        "state_dict": {
            name: {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
            for name, network in networks.named_children()
        },
        "preprocessing": {
            "image_size": networks.image_size,
            "colour": "grey",
            "resize": "bilinear, antialiased",
            "range": [-1.0, 1.0],
        },
        "trained_on": dict(trained_on),
        "training": dict(training),
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> SavedModel:
    """Read a model file without executing anything in it.

    Raises:
        UserError: if the file is missing, damaged, not written by this project, of a newer format, or holds code.
    """
    if not path.is_file():
        raise UserError(f"weights={path}: no such file; a training run writes vae_gan_model.pth in its directory")
    if not is_zipfile(path):
        raise UserError(f"weights={path}: is damaged, or no model file; copy it again or give a vae_gan_model.pth")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights={path}: refused, since it holds pickled code; only plain tensors and containers are opened"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"weights={path}: the file is damaged ({str(error).splitlines()[0]}); copy it again") from error
    if isinstance(content, dict) and "pytorch-lightning_version" in content:
        raise UserError(f"weights={path}: is a training checkpoint; give the vae_gan_model.pth of the same run")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"weights={path}: was not written by vaegan_pl; give a vae_gan_model.pth of this project")
    if content["format_version"] > FORMAT_VERSION:
        raise UserError(
            f"weights={path}: has format {content['format_version']}, this version of vaegan_pl reads up to "
            f"{FORMAT_VERSION}; upgrade vaegan_pl"
        )
    try:
        networks = Networks(**content["networks"])
        for name, network in networks.named_children():
            network.load_state_dict(content["state_dict"][name])
        return SavedModel(networks.eval(), content["preprocessing"], content["trained_on"], content["training"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"weights={path}: its contents do not fit together ({error}); copy it again") from error
