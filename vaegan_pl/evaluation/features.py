"""Features by which sets of images are compared: those of classifiers trained here, or of Inception v3."""

import hashlib
import json
import logging
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.images import to_grey_values
from vaegan_pl.data.prepared import OF_SEARCH
from vaegan_pl.data.tensors import images_of, labels_of
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation.classifier import (
    AT_ONCE,
    FEATURES,
    STEPS,
    Classifier,
    Images,
    Labelled,
    Training,
    balanced_accuracy,
    fit,
    predict,
)
from vaegan_pl.evaluation.kept import read_parts
from vaegan_pl.progress import announce
from vaegan_pl.storage import tensor_files

log = logging.getLogger(__name__)

VERSION = 4
SEEDS = (0, 1, 2)
"""Seeds of the feature classifiers. Metrics depend on the classifier, so they are averaged over all of them."""

_SECONDS = 0.02 / 64**2
"""Time for one training step of a classifier, per pixel of an image, on two CPU cores."""

Features = Float[Tensor, "network image feature"]
Points = Float[Tensor, "image feature"]
"""Features of one network."""


@dataclass(frozen=True)
class FeatureSpace:
    """Features of images, in one or more networks.

    Attributes:
        name: names the networks; values from spaces with different names cannot be compared.
        accuracy: mean balanced accuracy of the classifiers on held-out images, in [0, 1]; None for Inception.
        extract: for each network, features of a batch of images in [-1, 1].
        device: where features are computed.
    """

    name: str
    accuracy: float | None
    extract: Sequence[Callable[[Images], Points]]
    device: torch.device

    def __str__(self) -> str:
        known = "" if self.accuracy is None else f" (mean balanced accuracy {self.accuracy:.1%} on held-out images)"
        return f"{self.name}{known}"

    @torch.no_grad()
    def __call__(self, x: Images) -> Features:
        """Features of images in [-1, 1], on the CPU. They do not depend on how images are batched."""
        batches = [batch.to(self.device) for batch in x.split(AT_ONCE)]
        return torch.stack([torch.cat([one(batch).float().cpu() for batch in batches]) for one in self.extract])


def mean_over_networks(figure: Callable[..., float], *features: Features) -> float:
    """The mean of a figure of sets of features over the networks."""
    values = [figure(*points) for points in zip(*features, strict=True)]
    return sum(values) / len(values)


def classifier_features(collection: Collection, cache: Path, device: torch.device) -> FeatureSpace:
    """Features of classifiers that are trained on the training images only, once for each data set and split.

    Features are standardised by their mean and standard deviation over the training images.

    Args:
        collection: the images, of at least two classes.
        cache: folder of trained classifiers.
        device: where features are computed.

    Raises:
        UserError: if there is only one class.
    """
    classes = len(collection.listing.classes)
    if classes < 2:
        raise UserError("features=classifier: needs at least two classes; use features=inception")
    path = cache / f"features-{_key(collection)}.pth"
    content = _read(path) or _train(collection, path, device)
    models = [_restored(part, classes).to(device) for part in content]
    scales = [(part["mean"].to(device), part["deviation"].to(device)) for part in content]

    def extract(model: Classifier, mean: Tensor, deviation: Tensor, x: Images) -> Points:
        return (model.features(x) - mean) / deviation

    return FeatureSpace(
        name=f"{len(models)} classifiers {_fingerprint(content)}",
        accuracy=sum(part["accuracy"] for part in content) / len(content),
        extract=[partial(extract, model, *scale) for model, scale in zip(models, scales, strict=True)],
        device=device,
    )


def _key(collection: Collection) -> str:
    """A digest of everything that the classifiers' training depends on."""
    decoding = {name: value for name, value in vars(collection.decoding).items() if name not in OF_SEARCH}
    how = [VERSION, SEEDS, decoding, collection.order()]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()[:32]


def _fingerprint(content: Sequence[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for part in content:
        for tensor in (*part["state_dict"].values(), part["mean"], part["deviation"]):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _restored(part: dict[str, Any], classes: int) -> Classifier:
    model = Classifier(classes)
    model.load_state_dict(part["state_dict"])
    return model.eval()


def _read(path: Path) -> list[dict[str, Any]] | None:
    return read_parts(path, "networks", len(SEEDS), lambda _, part: _checked(part))


def _checked(part: dict[str, Any]) -> dict[str, Any]:
    tensors = [*part["state_dict"].values(), part["mean"], part["deviation"]]
    if not all(tensor.isfinite().all() for tensor in tensors) or not (part["deviation"] > 0).all():
        raise ValueError("contains numbers that are not finite, or deviations of zero")
    if type(part["accuracy"]) is not float or not 0 <= part["accuracy"] <= 1:
        raise ValueError("contains an invalid accuracy")
    _restored(part, len(part["state_dict"]["head.bias"]))
    if part["mean"].shape != (FEATURES,) or part["deviation"].shape != (FEATURES,):
        raise ValueError("is inconsistent")
    return {name: part[name] for name in ("state_dict", "mean", "deviation", "accuracy")}


def _train(collection: Collection, path: Path, device: torch.device) -> list[dict[str, Any]]:
    train, held_out = collection.split.images("train"), held_out_images(collection)
    images = Labelled(images_of(collection, train), labels_of(collection, train)).to(device)
    what = f"training {len(SEEDS)} feature classifiers"
    if device.type == "cpu":  # a GPU takes a few seconds
        announce(f"{what} (first time only)", len(SEEDS) * STEPS * _SECONDS * images.x[0].numel())
    classes = len(collection.listing.classes)
    models = fit([Training(images, classes, seed, STEPS) for seed in SEEDS], what)
    judged = Labelled(images_of(collection, held_out), labels_of(collection, held_out)).to(device)
    content = [_content(model, images, judged) for model in models]
    earlier = _read(path) if path.exists() else None
    if earlier is not None:  # from another process; all must use the same features
        return earlier
    try:
        tensor_files.save(path, {"networks": content})
    except OSError as error:
        log.warning("data.cache=%s cannot be used (%s): feature classifiers are trained in every run", path, error)
    return content


@torch.no_grad()
def _content(model: Classifier, train: Labelled, judged: Labelled) -> dict[str, Any]:
    features = torch.cat([model.features(batch) for batch in train.x.split(AT_ONCE)])
    right = predict(model, judged.x).argmax(1) == judged.labels
    return {
        "state_dict": {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
        "mean": features.mean(0).cpu(),
        "deviation": _deviation(features).cpu(),
        "accuracy": balanced_accuracy(right.cpu().numpy(), judged.labels.cpu().numpy()),
    }


def _deviation(features: Points) -> Float[Tensor, " feature"]:
    """Standard deviation of each feature; at least a tenth of the median, so that no constant feature dominates."""
    deviation = features.std(0)
    return deviation.clamp_min(max(0.1 * float(deviation.median()), 1e-6))


def held_out_images(collection: Collection) -> list[int]:
    """Validation and test images without a near-copy among the training images."""
    leaking = {image for images in collection.leaking.values() for image in images}
    held_out = collection.split.images("validation") + collection.split.images("test")
    return sorted(set(held_out) - leaking)


def inception_features(device: torch.device, weights: Path | None) -> FeatureSpace:
    """The 2,048 pooled features of Inception v3, which published Fréchet and kernel distances use.

    Args:
        device: where features are computed.
        weights: file of the weights; None downloads them once.

    Raises:
        UserError: if torch-fidelity is missing or the weights cannot be obtained.
    """
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        path = None if weights is None else str(weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    except ModuleNotFoundError as error:
        raise UserError(
            "features=inception: needs torch-fidelity; pip install -e '.[inception]', or use features=classifier"
        ) from error
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"features=inception: the weights cannot be obtained ({str(error).partition(chr(10))[0]}); go online, set "
            "inception_weights=PATH to the file, or use features=classifier"
        ) from error
    network.to(device)

    def extract(x: Images) -> Points:
        features: Tensor = network(to_grey_values(x).to(device).expand(-1, 3, -1, -1))
        return features

    return FeatureSpace("inception-v3-compat 2048", None, [extract], device)
