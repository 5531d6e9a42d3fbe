"""Features by which sets of images are compared: those of a classifier trained here, or of Inception v3."""

import hashlib
import json
import logging
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.datamodule import images_of, labels_of
from vaegan_pl.data.images import to_grey_values
from vaegan_pl.data.prepared import OF_SEARCH
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation.classifier import (
    AT_ONCE,
    FEATURES,
    STEPS,
    Classifier,
    Images,
    balanced_accuracy,
    fit,
    predict,
)
from vaegan_pl.progress import announce
from vaegan_pl.storage import tensor_files
from vaegan_pl.storage.files import RefusedError, printable

log = logging.getLogger(__name__)

VERSION = 3
SEED = 0
_SECONDS = 0.03 / 64**2
"""Time for one training step of the classifier, per pixel of an image, on two CPU cores."""

Features = Float[Tensor, "image feature"]


@dataclass(frozen=True)
class FeatureSpace:
    """Features of images.

    Attributes:
        name: names the network; values from spaces with different names cannot be compared.
        accuracy: balanced accuracy of the classifier on held-out images, in [0, 1]; None for Inception.
        extract: features of a batch of images in [-1, 1].
        device: where features are computed.
    """

    name: str
    accuracy: float | None
    extract: Callable[[Images], Features]
    device: torch.device

    def __str__(self) -> str:
        known = "" if self.accuracy is None else f" (balanced accuracy {self.accuracy:.1%} on held-out images)"
        return f"{self.name}{known}"

    @torch.no_grad()
    def __call__(self, x: Images) -> Features:
        """Features of images in [-1, 1], on the CPU. They do not depend on how images are batched."""
        return torch.cat([self.extract(batch.to(self.device)).float().cpu() for batch in x.split(AT_ONCE)])


def classifier_features(collection: Collection, cache: Path, device: torch.device) -> FeatureSpace:
    """Features of a classifier that is trained on the training images only, once for each data set and split.

    Features are standardised by their mean and standard deviation over the training images.

    Args:
        collection: the images, of at least two classes.
        cache: folder of trained classifiers.
        device: where features are computed.

    Raises:
        UserError: if there is only one class.
    """
    if len(collection.listing.classes) < 2:
        raise UserError("features=classifier: needs at least two classes; use features=inception")
    path = cache / f"features-{_key(collection)}.pth"
    content = _read(path) or _train(collection, path, device)
    model = Classifier(len(collection.listing.classes))
    model.load_state_dict(content["state_dict"])
    model.eval().to(device)
    mean, deviation = content["mean"].to(device), content["deviation"].to(device)
    return FeatureSpace(
        name=f"classifier {_fingerprint(content)}",
        accuracy=content["accuracy"],
        extract=lambda x: (model.features(x) - mean) / deviation,
        device=device,
    )


def _key(collection: Collection) -> str:
    """A digest of everything that the classifier's training depends on."""
    decoding = {name: value for name, value in vars(collection.decoding).items() if name not in OF_SEARCH}
    how = [VERSION, SEED, decoding, collection.order()]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()[:32]


def _fingerprint(content: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for tensor in (*content["state_dict"].values(), content["mean"], content["deviation"]):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = tensor_files.load(path)
        parts = [*content["state_dict"].values(), content["mean"], content["deviation"]]
        if not all(part.isfinite().all() for part in parts) or not (content["deviation"] > 0).all():
            raise ValueError("contains numbers that are not finite, or deviations of zero")
        if type(content["accuracy"]) is not float or not 0 <= content["accuracy"] <= 1:
            raise ValueError("contains an invalid accuracy")
        model = Classifier(len(content["state_dict"]["head.bias"]))
        model.load_state_dict(content["state_dict"])
        if content["mean"].shape != (FEATURES,) or content["deviation"].shape != (FEATURES,):
            raise ValueError("is inconsistent")
        return {name: content[name] for name in ("state_dict", "mean", "deviation", "accuracy")}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, RefusedError) as error:
        reason = printable(str(error).partition("\n")[0])[:200]
        log.warning("%s cannot be used and will be rebuilt: %s", path, reason)
        return None


def _train(collection: Collection, path: Path, device: torch.device) -> dict[str, Any]:
    train, held_out = collection.split.images("train"), held_out_images(collection)
    x, labels = images_of(collection, train).to(device), labels_of(collection, train).to(device)
    if device.type == "cpu":  # a GPU takes a few seconds
        announce("training the feature classifier (first time only)", STEPS * _SECONDS * x[0].numel())
    model = fit(x, labels, len(collection.listing.classes), SEED, "training the feature classifier")
    with torch.no_grad():
        features = torch.cat([model.features(batch) for batch in x.split(AT_ONCE)])
    truth = labels_of(collection, held_out)
    right = predict(model, images_of(collection, held_out).to(device)).cpu() == truth
    content = {
        "state_dict": {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()},
        "mean": features.mean(0).cpu(),
        "deviation": _deviation(features).cpu(),
        "accuracy": balanced_accuracy(right.numpy(), truth.numpy()),
    }
    earlier = _read(path) if path.exists() else None
    if earlier is not None:  # from another process; all must use the same features
        return earlier
    try:
        tensor_files.save(path, content)
    except OSError as error:
        log.warning("data.cache=%s cannot be used (%s): the feature classifier is trained in every run", path, error)
    return content


def _deviation(features: Features) -> Float[Tensor, " feature"]:
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

    def extract(x: Images) -> Features:
        features: Tensor = network(to_grey_values(x).to(device).expand(-1, 3, -1, -1))
        return features

    return FeatureSpace("inception-v3-compat 2048", None, extract, device)
