"""`vae_gan_model.pth`: one portable file of plain containers and tensors, written and read here and nowhere else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaegan_pl.data.images import ASPECT_RATIOS
from vaegan_pl.errors import UserError
from vaegan_pl.model.batch import Images, Latents
from vaegan_pl.model.mixtures import ClassMixtures, from_plain, to_plain
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.running import in_batches
from vaegan_pl.storage import tensor_files
from vaegan_pl.storage.files import LONGEST_NAME, RefusedError, check_model_path, printable

FORMAT = "vaegan_pl"
FORMAT_VERSION = 4
"""Files before version 3 hold the three networks of the report's table; 2 and 3 carry a checksum of their own."""

KINDS = ("VAE/GAN", "VAE", "GAN")
"""What sorts of model there are."""

MOST = {"image_size": 1024, "image_channels": 1, "classes": 10_000}
"""The largest sizes of networks in a file; `MOST_UNITS` for the others."""

MOST_UNITS, MOST_STAGES, MOST_LETTERS = 2**20, 12, 1000

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
        return str(self.training.get("model", KINDS[0]))

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
        self._check_encoder()
        if label is not None and not self.networks.classes:
            raise UserError(f"label={label}: the model is not conditional; leave label out")
        return self._index(label)

    def _check_encoder(self) -> None:
        if "encoder" not in self.networks.names:
            raise UserError("weights: the model has no encoder (a GAN); it can be sampled only")

    def _index(self, label: object) -> int | None:
        if not self.networks.classes:
            return None
        classes = list(self.trained_on["classes"])
        if str(label) not in classes:
            given = "label" if label is None else f"label={label}"
            raise UserError(f"{given}: the model is conditional; give the images' class, {' or '.join(classes)}")
        return classes.index(str(label))

    @property
    def device(self) -> torch.device:
        """What computes."""
        return next(self.networks.parameters()).device

    def to(self, device: torch.device | str) -> "SavedModel":
        """The same model, which computes on a device from now on."""
        self.networks.to(device)
        return self

    def sample(
        self, n: int, label: str | None = None, seed: int | torch.Generator = 0, temperature: float = 1.0
    ) -> Images:
        """Decode `n` draws.

        Args:
            n: how many.
            label: see `draw`.
            seed: the seed, or what draws.
            temperature: see `draw`.

        Returns:
            Images in [-1, 1], on the CPU, as all methods return them.

        Raises:
            UserError: as `draw` does, and if the networks give NaN.
        """
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        z, y = self.draw(n, label, generator, temperature)
        return in_batches(self.networks.decoder, z, y, self.device, f"sampling {label or ''}".strip())

    def encode(self, x: Images, label: str | Tensor | None = None) -> Latents:
        """The posterior means of images.

        Args:
            x: images in [-1, 1], of the networks' size.
            label: their class, or class indices, which conditional models need.

        Raises:
            UserError: as `label_for_encoding` does, and if the networks give NaN.
        """
        y = self._to_encode(label, len(x))
        return in_batches(lambda x, y: self.networks.encoder(x, y)[0], x, y, self.device, "encoding")

    def decode(self, z: Latents, label: str | Tensor | None = None) -> Images:
        """The images of latents.

        Args:
            z: the latents.
            label: their class, or class indices, which conditional models need.

        Raises:
            UserError: if a conditional model is not told one of its classes, and if the networks give NaN.
        """
        y = self._indices(label, len(z))
        return in_batches(self.networks.decoder, z, y, self.device, "decoding")

    def reconstruct(self, x: Images, label: str | Tensor | None = None) -> Images:
        """The decoded posterior means of images; see `encode`.

        Raises:
            UserError: as `encode` does.
        """
        y, networks = self._to_encode(label, len(x)), self.networks
        return in_batches(
            lambda x, y: networks.decoder(networks.encoder(x, y)[0], y), x, y, self.device, "reconstructing"
        )

    def _to_encode(self, label: str | Tensor | None, n: int) -> Tensor | None:
        if isinstance(label, Tensor):
            self._check_encoder()
        else:
            self.label_for_encoding(label)
        return self._indices(label, n)

    def _indices(self, label: str | Tensor | None, n: int) -> Tensor | None:
        if isinstance(label, Tensor):
            return label
        index = self._index(label)
        return None if index is None else torch.full((n,), index)

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
    tensor_files.save(path, content)


def check_storable(networks: nn.Module) -> None:
    """Check, before training, that a model file can hold the networks.

    Raises:
        UserError: unless they are what `load` would build from their description, as networks of your own are not.
    """
    storable = type(networks) is Networks
    if isinstance(networks, Networks):
        with torch.device("meta"):
            again = Networks(**networks.arguments)
        own, other = ({name: _shape(part) for name, part in each.named_modules()} for each in (networks, again))
        storable = storable and own == other
    if not storable:
        raise UserError(
            "model.networks: networks of your own cannot be kept in a model file, which holds this project's networks "
            "only; to train with checkpoints alone, set callbacks.model_file=null; for a model file, take "
            "model.networks._target_=vaegan_pl.model.networks.for_image_size and change its options"
        )


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _shape(module: nn.Module) -> tuple[str, dict[str, tuple[int, ...]]]:
    return _kind(module), {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def load(path: str | Path) -> SavedModel:
    """Read a model file without executing anything in it.

    Raises:
        OSError: if the file cannot be opened.
        UserError: if the file is missing, damaged, not written by this project, of a newer format, or holds code.
    """
    path = Path(path)
    check_model_path(path)
    try:
        content = tensor_files.load(path)
    except RefusedError as error:
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
    try:
        if type(version) is not int or version < 1:
            raise ValueError("its version is no number")
        return _built(content, {} if version >= 3 else EARLIER_NETWORKS)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        reason = printable(str(error).partition("\n")[0])[:200]
        raise UserError(
            f"weights={path}: its contents are inconsistent ({reason}); get a fresh copy of the file"
        ) from error


def _built(content: Mapping[str, Any], earlier: Mapping[str, Any]) -> SavedModel:
    """The model that a file's plain contents describe, each of them looked at before it is used."""
    arguments = {**earlier, **_mapping(content["networks"], "networks")}
    _check_sizes(arguments)
    with torch.device("meta"):  # sizes cost no memory until the tensors of the file are found to have them
        networks = Networks(**arguments)
    for name, network in networks.named_children():
        _fill(network, _mapping(content["state_dict"][name], name))
    trained_on = _trained_on(_mapping(content["trained_on"], "trained_on"))
    training = _mapping(content["training"], "training")
    _check_plain(training)
    if training.get("model", KINDS[0]) not in KINDS:
        raise ValueError(f"a model of kind {training['model']}")
    mixtures = None
    if content.get("mixtures") is not None:
        mixtures = from_plain(_mapping(content["mixtures"], "mixtures"), networks.latent_dim)
        if not set(mixtures) <= set(trained_on["classes"]):
            raise ValueError("mixtures of unknown classes")
    if networks.classes not in (0, len(trained_on["classes"])):
        raise ValueError(f"networks of {networks.classes} classes, of {len(trained_on['classes'])}")
    if networks.classes or mixtures:
        counts = trained_on["counts"]["train"]
        if sum(counts[name] for name in trained_on["classes"]) < 1:
            raise ValueError("no training images")
    preprocessing = _preprocessing(_mapping(content["preprocessing"], "preprocessing"), networks.image_size)
    return SavedModel(networks.eval(), preprocessing, trained_on, training, mixtures)


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} is not a mapping")
    return value


def _check_sizes(arguments: Mapping[str, Any]) -> None:
    """Refuse sizes that would take long to build, before the tensors are held against them."""
    for name, value in arguments.items():
        sizes = value if isinstance(value, list) else [value]
        most = MOST.get(name, MOST_UNITS)
        whole = all(type(size) is int and 0 <= size <= most for size in sizes) or value is None
        if len(sizes) > MOST_STAGES or not (whole or type(value) is str):
            raise ValueError(f"networks.{name} has an invalid value")


def _trained_on(stored: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {key: stored[key] for key in ("kind", "folder", "classes", "counts", "caption")}
    found |= {key: stored.get(key) for key in ("fingerprint", "training_images", "split")}
    _check_plain(found)
    if found["kind"] not in ("phantom", "images"):
        raise ValueError("trained on neither images nor phantoms")
    for key in ("folder", "caption"):
        if not isinstance(found[key], str):
            raise TypeError(f"trained_on.{key} is not text")
    for key in ("fingerprint", "training_images"):
        if not isinstance(found[key], str | None):
            raise TypeError(f"trained_on.{key} is not text")
    classes = found["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("trained_on.classes is not a list of names")
    if not classes or len({*classes}) < len(classes):
        raise ValueError("trained_on.classes names a class twice, or none")
    for name in classes:  # samples are written to folders of these names
        if Path(name).name != name or name in ("", ".", "..") or len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"{name} cannot name a folder")
    for split, counts in _mapping(found["counts"], "trained_on.counts").items():
        for n in _mapping(counts, f"trained_on.counts.{split}").values():
            if type(n) is not int or n < 0:
                raise ValueError("trained_on.counts holds other values than numbers of images")
    if found["split"] is not None:
        _mapping(found["split"], "trained_on.split")
    return found


def _preprocessing(stored: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    # Files that do not say so come from squashed images and a white of 65535.
    found = {"aspect_ratio": "squash", "white": 65535, **stored}
    _check_plain(found)
    if found["aspect_ratio"] not in ASPECT_RATIOS or type(found["white"]) is not int or not 0 < found["white"] < 2**16:
        raise ValueError("preprocessing of another kind")
    if found.get("image_size") != image_size:
        raise ValueError("preprocessing of images of another size")
    return found


def _check_plain(value: object) -> None:
    """Refuse anything but text that can be shown, finite numbers, and containers of them."""
    if isinstance(value, str):
        if len(value) > MOST_LETTERS or printable(value) != value:
            raise ValueError("text that is too long, or cannot be shown")
    elif isinstance(value, Mapping):
        for item in value.items():
            for part in item:
                _check_plain(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_plain(part)
    elif isinstance(value, Tensor) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("a value that is neither text nor a finite number")


def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network on the meta device its tensors, in its own precision.

    Raises:
        ValueError: for numbers that are not finite, negative variances, and other kinds of numbers.
        RuntimeError: for other names and shapes.
    """
    own = network.state_dict()
    for key, value in state.items():
        if key in own and value.is_floating_point() != own[key].is_floating_point():
            raise ValueError(f"{key} holds another kind of number")
        if not value.isfinite().all() or (key.endswith("running_var") and (value < 0).any()):
            raise ValueError(f"{key} holds numbers that are not finite, or a negative variance")
    network.load_state_dict({k: v.to(own[k].dtype) if k in own else v for k, v in state.items()}, assign=True)
