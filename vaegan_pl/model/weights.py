"""`vae_gan_model.pth`: one portable file of plain containers and tensors, written and read here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaegan_pl import sealed
from vaegan_pl.errors import UserError
from vaegan_pl.model.mixtures import ClassMixtures, from_plain, to_plain
from vaegan_pl.model.networks import Networks

FORMAT = "vaegan_pl"
FORMAT_VERSION = 3
"""Files of version 1 carry no seal; those before 3 hold the three networks of the report's table."""

EARLIER_NETWORKS = {
    "decoder_kernel": 6,
    "discriminator_first_stride": 2,
    "norm": "batch",
    "discriminator_norm": "batch",
    "classes": 0,
}
"""What files before version 3 do not say of their networks."""


@dataclass(frozen=True)
class SavedModel:
    """A model as its file holds it.

    Attributes:
        networks: encoder, decoder and discriminator, as far as the model has them, in evaluation mode on the CPU.
        preprocessing: how images become inputs: image_size, colour, resize, aspect_ratio, white, range.
        trained_on: what the training images were: kind (`phantom` or `images`), folder, classes in label order,
            counts, caption, fingerprint, training_images and split; the last three may be None in earlier files.
        training: epochs, batches and hyperparameters, for the record.
        mixtures: where each class lies in the latent space; None in files of unfinished runs and of earlier versions.
    """

    networks: Networks
    preprocessing: Mapping[str, Any]
    trained_on: Mapping[str, Any]
    training: Mapping[str, Any]
    mixtures: ClassMixtures | None = None

    @property
    def kind(self) -> str:
        """What sort of model it is: VAE/GAN, VAE or GAN."""
        return str(self.training.get("model", "VAE/GAN"))

    @property
    def knows_classes(self) -> bool:
        """Whether classes can be sampled."""
        return self.mixtures is not None or self.networks.classes > 0

    @property
    def labels(self) -> list[str]:
        """The classes that can be sampled.

        Raises:
            UserError: if the file holds none.
        """
        if self.mixtures is not None:
            return list(self.mixtures)
        if self.networks.classes:
            return list(self.trained_on["classes"])
        if "encoder" not in self.networks.names:
            raise UserError("weights: the model has no encoder (a GAN), and so knows no classes to sample from")
        raise UserError("weights: the file holds no classes to sample from; a run writes them when it ends")

    def label_for_encoding(self, label: object) -> int | None:
        """The class index that encoding images takes; None if the model asks for none.

        Raises:
            UserError: if the model has no encoder, or is conditional and the label is not one of its classes.
        """
        if "encoder" not in self.networks.names:
            raise UserError("weights: the model has no encoder (a GAN); it can be sampled only")
        if not self.networks.classes:
            if label is not None:
                raise UserError(f"label={label}: the model is not conditional; leave label out")
            return None
        classes = list(self.trained_on["classes"])
        if str(label) not in classes:
            given = "label" if label is None else f"label={label}"
            raise UserError(f"{given}: the model is conditional; give the images' class, {' or '.join(classes)}")
        return classes.index(str(label))

    def draw_classes(self, n: int, generator: torch.Generator) -> Tensor:
        """Class indices of `n` images, drawn as often as the classes were trained on."""
        counts = self.trained_on["counts"]["train"]
        shares = torch.tensor([float(counts[name]) for name in self.trained_on["classes"]])
        return torch.multinomial(shares, n, replacement=True, generator=generator)

    def draw(
        self, n: int, label: str | None, generator: torch.Generator, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """Latents of `n` images and, for conditional networks, their classes.

        Args:
            n: how many.
            label: draws from the mixture of a class, or from the prior where a conditional model has no mixtures; None
                draws from the prior, and classes as often as they were trained on.
            generator: what draws.
            temperature: what the draws' deviations from the mean are multiplied by; below 1 samples are more alike.

        Raises:
            UserError: if there is no class of that name.
        """
        if label is not None and label not in self.labels:
            raise UserError(f"label={label}: the model knows {', '.join(self.labels)}")
        if label is None or self.mixtures is None:
            z = temperature * torch.randn(n, self.networks.latent_dim, generator=generator)
        else:
            z = self.mixtures[label].sample(n, generator, temperature)
        if not self.networks.classes:
            return z, None
        return z, self.draw_classes(n, generator) if label is None else torch.full((n,), self.labels.index(label))


def save(
    path: Path,
    networks: Networks,
    preprocessing: Mapping[str, Any],
    trained_on: Mapping[str, Any],
    training: Mapping[str, Any],
    mixtures: ClassMixtures | None = None,
) -> None:
    """Write a model file; an earlier one at `path` stays until the new one is whole.

    Args:
        path: the file to write.
        networks: the networks to store.
        preprocessing: plain values; see `SavedModel`.
        trained_on: plain values; see `SavedModel`.
        training: plain values; see `SavedModel`.
        mixtures: see `SavedModel`.

    Raises:
        OSError: if it cannot be written.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "networks": networks.arguments,
        "state_dict": {
            name: {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
            for name, network in networks.named_children()
        },
        "preprocessing": {"image_size": networks.image_size, **preprocessing},
        "trained_on": dict(trained_on),
        "training": dict(training),
        "mixtures": None if mixtures is None else to_plain(mixtures),
    }
    sealed.write(path, content)


def load(path: Path) -> SavedModel:
    """Read a model file without executing anything in it.

    Raises:
        OSError: if the file cannot be opened.
        UserError: if the file is missing, damaged, not written by this project, of a newer format, or holds code.
    """
    if path.is_dir():
        raise UserError(f"weights={path}: is a folder; give the vae_gan_model.pth in it")
    if not path.exists():
        raise UserError(f"weights={path}: no such file; a training run writes vae_gan_model.pth in its directory")
    try:
        content = sealed.read(path)
    except sealed.RefusedError as error:
        raise UserError(f"weights={path}: {error}; give a whole vae_gan_model.pth") from error
    if "pytorch-lightning_version" in content:
        raise UserError(f"weights={path}: is a training checkpoint; give the vae_gan_model.pth of the same run")
    if content.get("format") != FORMAT:
        raise UserError(f"weights={path}: was not written by vaegan_pl; give a vae_gan_model.pth of this project")
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"weights={path}: has format {version}, this vaegan_pl reads up to {FORMAT_VERSION}; upgrade vaegan_pl"
        )
    if version != 1 and sealed.SEAL not in content:
        raise UserError(f"weights={path}: is damaged: its seal is missing; copy it again")
    try:
        trained_on = {key: content["trained_on"][key] for key in ("kind", "folder", "classes", "counts", "caption")}
        trained_on |= {key: content["trained_on"].get(key) for key in ("fingerprint", "training_images", "split")}
        for name in (*trained_on["classes"], *(content.get("mixtures") or {})):
            if Path(name).name != name or name in ("", ".."):  # samples are written to folders of these names
                raise ValueError(f"{name} cannot name a folder")
        with torch.device("meta"):  # sizes cost no memory until the tensors of the file are found to have them
            networks = Networks(**({} if version == FORMAT_VERSION else EARLIER_NETWORKS) | content["networks"])
        for name, network in networks.named_children():
            _fill(network, content["state_dict"][name])
        # Files that do not say so come from squashed images and a white of 65535.
        preprocessing = {"aspect_ratio": "squash", "white": 65535, **content["preprocessing"]}
        mixtures = content.get("mixtures")
        if mixtures is not None:
            mixtures = from_plain(mixtures, networks.latent_dim)
        return SavedModel(networks.eval(), preprocessing, trained_on, content["training"], mixtures)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"weights={path}: its contents do not fit together ({error}); copy it again") from error


def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network on the meta device its tensors, in its own precision."""
    own = network.state_dict()
    network.load_state_dict({k: v.to(own[k].dtype) if k in own else v for k, v in state.items()}, assign=True)
