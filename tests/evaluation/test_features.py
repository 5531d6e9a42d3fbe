"""The feature space: trained once for each data and split, kept, and the same whatever else is in a batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import FOLDER_OPTIONS
from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.data.tensors import images_of
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation import features
from vaegan_pl.evaluation.features import classifier_features, held_out_images, inception_features, mean_over_networks
from vaegan_pl.model.running import in_batches
from vaegan_pl.storage import tensor_files

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", 3)


def folders(root: Path, classes: list[str] | None = None, split_seed: int = 0) -> ImageFolders:
    return ImageFolders(
        root=root,
        cache=root / "c",
        **{
            **FOLDER_OPTIONS,
            "classes": classes,
            "image_size": 32,
            "aspect_ratio": "pad",
            "validation_fraction": 0.2,
            "test_fraction": 0.2,
            "split_seed": split_seed,
        },
    )


@pytest.fixture
def data(tmp_path: Path, write_classes: Callable[..., Path]) -> ImageFolders:
    return folders(write_classes(tmp_path / "d", 8), ["glioma", "meningioma", "notumor", "pituitary"])


def test_training_features_are_standardised_and_batches_do_not_matter(data: ImageFolders) -> None:
    space = classifier_features(data.collection, data.cache, CPU)
    x = images_of(data.collection, data.collection.split.images("train"))
    found = space(x)
    assert found.shape == (3, len(x), 256)
    torch.testing.assert_close(found.mean(1), torch.zeros(3, 256), atol=1e-4, rtol=0)
    spread = found.std(1)
    assert float(spread.max()) < 1.001
    assert float(((spread - 1).abs() < 0.001).double().mean()) > 0.8  # the others hardly ever stir
    torch.testing.assert_close(torch.cat([space(image[None]) for image in x], dim=1), found, atol=1e-3, rtol=1e-3)
    assert space.accuracy is not None
    assert 0 <= space.accuracy <= 1


def test_it_is_trained_once_for_each_data_and_split(data: ImageFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    first = classifier_features(data.collection, data.cache, CPU)
    with monkeypatch.context() as patch:
        patch.setattr(features, "fit", None)
        again = classifier_features(data.collection, data.cache, CPU)
    assert again.name == first.name
    x = images_of(data.collection, held_out_images(data.collection))
    assert torch.equal(again(x), first(x))
    other = folders(data.root, data.collection.listing.classes, split_seed=1)
    assert classifier_features(other.collection, data.cache, CPU).name != first.name
    assert len(list(data.cache.glob("features-*.pth"))) == 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_made_anew(
    data: ImageFolders, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    first = classifier_features(data.collection, data.cache, CPU)
    (path,) = data.cache.glob("features-*.pth")
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    assert classifier_features(data.collection, data.cache, CPU).name == first.name
    assert f"{path} cannot be used and will be rebuilt: is damaged" in caplog.text
    parts = torch.load(path, weights_only=True)["networks"]
    assert sum(part["accuracy"] for part in parts) / 3 == first.accuracy


def test_a_file_with_a_network_missing_is_made_anew(data: ImageFolders, caplog: pytest.LogCaptureFixture) -> None:
    first = classifier_features(data.collection, data.cache, CPU)
    (path,) = data.cache.glob("features-*.pth")
    tensor_files.save(path, {"networks": torch.load(path, weights_only=True)["networks"][:2]})
    assert classifier_features(data.collection, data.cache, CPU).name == first.name
    assert "does not contain 3 networks" in caplog.text


def test_figures_are_averaged_over_the_networks() -> None:
    both = torch.tensor([[[1.0], [2.0]], [[3.0], [5.0]]])
    assert mean_over_networks(lambda one: float(one.max()), both) == 3.5
    assert mean_over_networks(lambda one, other: float((one - other).sum()), both, 0 * both) == 5.5


def test_one_class_cannot_be_told_apart(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    data = folders(write_classes(tmp_path / "d", 8, ["glioma"]), ["glioma"])
    with pytest.raises(UserError, match="needs at least two classes; use features=inception"):
        classifier_features(data.collection, data.cache, CPU)


def test_inception_without_its_weights_ends_in_a_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features=inception: .*features=classifier"):
        inception_features(CPU, tmp_path / "nowhere.pth")


def test_networks_are_run_in_batches_that_do_not_matter() -> None:
    x = torch.rand(130, 3)
    torch.testing.assert_close(in_batches(lambda batch, _: 2 * batch, x, None, CPU, ""), 2 * x)
