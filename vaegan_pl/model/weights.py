"""Reading and writing `vae_gan_model.pth`, a portable file of tensors and plain containers."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaegan_pl.data.grey import RANGES
from vaegan_pl.data.images import ASPECT_RATIOS
from vaegan_pl.errors import UserError
from vaegan_pl.model.mixtures import ClassMixtures, from_plain, to_plain
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.saved_model import KINDS, SavedModel
from vaegan_pl.model.trained_on import TrainedOn
from vaegan_pl.storage import tensor_files
from vaegan_pl.storage.files import LONGEST_NAME, RefusedError, check_model_path, printable

FORMAT = "vaegan_pl"
FORMAT_VERSION = 5
"""Files before version 3 always contain the three networks of the report's table. Versions 2 and 3 have a checksum.

From version 5 on, a file may be in half precision, and may contain the decoder alone.
"""

MOST = {"image_size": 1024, "image_channels": 1, "classes": 10_000}
"""Upper limits of sizes in a file; `MOST_UNITS` applies to all others."""

MOST_UNITS, MOST_STAGES, MOST_LETTERS = 2**20, 12, 1000

EARLIER_NETWORKS = {
    "decoder_kernel": 6,
    "discriminator_first_stride": 2,
    "norm": "batch",
    "discriminator_norm": "batch",
    "classes": 0,
}
"""Options of networks that files before version 3 do not contain."""


def save(
    path: Path,
    networks: Networks,
    preprocessing: Mapping[str, Any],
    trained_on: TrainedOn,
    training: Mapping[str, Any],
    mixtures: ClassMixtures | None = None,
    half: bool = False,
) -> None:
    """Write a model file; an existing file at `path` is replaced once the new one is complete.

    Args:
        path: the file to write.
        networks: the networks to store.
        preprocessing: plain values; see `SavedModel`.
        trained_on: the training images.
        training: plain values; see `SavedModel`.
        mixtures: see `SavedModel`.
        half: whether to store floats in half precision, except for the weights of mixtures.

    Raises:
        OSError: if it cannot be written.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "networks": networks.arguments,
        "state_dict": {
            name: {
                key: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous()
                for key, value in network.state_dict().items()
            }
            for name, network in networks.named_children()
        },
        "preprocessing": {"image_size": networks.image_size, **preprocessing},
        "trained_on": trained_on.plain,
        "training": dict(training),
        "mixtures": None if mixtures is None else to_plain(mixtures, half),
    }
    tensor_files.save(path, content)


def check_storable(networks: nn.Module) -> None:
    """Check before training that a model file can hold the networks.

    Raises:
        UserError: if `load` would not rebuild the same networks from their arguments, as for classes of your own.
    """
    storable = type(networks) is Networks
    if isinstance(networks, Networks):
        with torch.device("meta"):
            again = Networks(**networks.arguments)
        own, other = ({name: _shape(part) for name, part in each.named_modules()} for each in (networks, again))
        storable = storable and own == other
    if not storable:
        raise UserError(
            "model.networks: networks of your own cannot be stored in a model file, which holds only this project's "
            "networks; to train with checkpoints alone, set callbacks.model_file=null; for a model file, use "
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
        UserError: if the file is missing, damaged, not written by this project, of a newer format, or contains code.
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
            f"weights={path}: has format {version}, but this vaegan_pl reads up to {FORMAT_VERSION}; upgrade vaegan_pl"
        )
    try:
        if type(version) is not int or version < 1:
            raise ValueError("its version is not a number")
        return _built(content, {} if version >= 3 else EARLIER_NETWORKS)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        reason = printable(str(error).partition("\n")[0])[:200]
        raise UserError(
            f"weights={path}: its contents are inconsistent ({reason}); get a fresh copy of the file"
        ) from error


def _built(content: Mapping[str, Any], earlier: Mapping[str, Any]) -> SavedModel:
    """Build the model from the plain contents of a file, each checked before it is used."""
    arguments = {**earlier, **_mapping(content["networks"], "networks")}
    _check_sizes(arguments)
    with torch.device("meta"):  # no memory is used until the file's tensors are known to have these sizes
        networks = Networks(**arguments)
    for name, network in networks.named_children():
        _fill(network, _mapping(content["state_dict"][name], name))
    trained_on = _trained_on(_mapping(content["trained_on"], "trained_on"))
    training = _mapping(content["training"], "training")
    _check_plain(training)
    if training.get("model", KINDS[0]) not in KINDS:
        raise ValueError(f"unknown kind of model, {training['model']}")
    mixtures = None
    if content.get("mixtures") is not None:
        mixtures = from_plain(_mapping(content["mixtures"], "mixtures"), networks.latent_dim)
        if not set(mixtures) <= set(trained_on.classes):
            raise ValueError("mixtures of unknown classes")
    if networks.classes not in (0, len(trained_on.classes)):
        raise ValueError(f"networks for {networks.classes} classes, but names for {len(trained_on.classes)}")
    if networks.classes or mixtures:
        counts = trained_on.counts["train"]
        if sum(counts[name] for name in trained_on.classes) < 1:
            raise ValueError("no training images")
    preprocessing = _preprocessing(_mapping(content["preprocessing"], "preprocessing"), networks.image_size)
    return SavedModel(networks.eval(), preprocessing, trained_on, training, mixtures)


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} is not a mapping")
    return value


def _check_sizes(arguments: Mapping[str, Any]) -> None:
    """Refuse sizes that would take too long to build, before the tensors are compared with them."""
    for name, value in arguments.items():
        sizes = value if isinstance(value, list) else [value]
        most = MOST.get(name, MOST_UNITS)
        whole = all(type(size) is int and 0 <= size <= most for size in sizes) or value is None
        if len(sizes) > MOST_STAGES or not (whole or type(value) is str):
            raise ValueError(f"networks.{name} has an invalid value")


def _trained_on(stored: Mapping[str, Any]) -> TrainedOn:
    found: dict[str, Any] = {
        part.name: stored[part.name] if part.default is MISSING else stored.get(part.name) for part in fields(TrainedOn)
    }
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
                raise ValueError("trained_on.counts contains values other than numbers of images")
    for key in ("split", "release"):
        if found[key] is not None:
            _mapping(found[key], f"trained_on.{key}")
    return TrainedOn(**found)


def _preprocessing(stored: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    # Earlier files lack these: images were squashed, white was 65535, and the range of grey values fixed.
    found = {"aspect_ratio": "squash", "white": 65535, "grey_range": "fixed", **stored}
    _check_plain(found)
    known = found["aspect_ratio"] in ASPECT_RATIOS and found["grey_range"] in RANGES
    if not known or type(found["white"]) is not int or not 0 < found["white"] < 2**16:
        raise ValueError("unknown preprocessing")
    if found.get("image_size") != image_size:
        raise ValueError("preprocessing for another image size")
    return found


def _check_plain(value: object) -> None:
    """Refuse anything but printable text, finite numbers, and containers of these."""
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
    """Load tensors into a network on the meta device, converted to the network's own precision.

    Raises:
        ValueError: for numbers that are not finite, negative variances, and integers in place of floats or vice versa.
        RuntimeError: for unexpected names and shapes.
    """
    own = network.state_dict()
    for key, value in state.items():
        if key in own and value.is_floating_point() != own[key].is_floating_point():
            raise ValueError(f"{key} contains the wrong kind of number")
        if not value.isfinite().all() or (key.endswith("running_var") and (value < 0).any()):
            raise ValueError(f"{key} contains numbers that are not finite, or a negative variance")
    network.load_state_dict({k: v.to(own[k].dtype) if k in own else v for k, v in state.items()}, assign=True)
