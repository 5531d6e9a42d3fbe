import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from vaegan_pl.data.augmentation import Augmentation
from vaegan_pl.data.datamodule import ImageDataset, ImageFolders, PhantomFolders
from vaegan_pl.data.images import to_grey_values
from vaegan_pl.data.sampling import EpochSampler
from vaegan_pl.errors import UserError

from ..conftest import CLASSES, FOLDER_OPTIONS

Write = Callable[..., Path]
FLIPS = Augmentation(horizontal_flip=0.5, shift=0.0, brightness=0.0, contrast=0.0)


def ready(root: Path, **options: Any) -> ImageFolders:
    data = ImageFolders(root=root, cache=root.parent / "cache", **{**FOLDER_OPTIONS, **options})
    data.setup()
    return data


def batches(data: ImageFolders, epoch: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_the_loaders_share_no_image(tmp_path: Path, write_classes: Write) -> None:
    data = ready(write_classes(tmp_path / "d", 8))
    counts = {"train": 5, "validation": 2, "test": 1}
    assert data.source.counts == {split: dict.fromkeys(CLASSES, n) for split, n in counts.items()}
    train = rows(torch.cat([x for x, _ in batches(data)]))
    validation = rows(torch.cat([x for x, _ in data.val_dataloader()]))
    test = rows(torch.cat([x for x, _ in data.test_dataloader()]))
    assert [len(train), len(validation), len(test)] == [20, 8, 4]
    assert len(train | validation | test) == 32


def test_the_split_follows_its_own_seed(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 8)
    orders = [[labels.tolist() for _, labels in batches(ready(root, seed=seed))] for seed in (0, 1)]
    assert orders[0] != orders[1]
    chosen = [
        ready(root, **seeds).collection.split.images("validation")
        for seeds in ({"seed": 0}, {"seed": 1}, {"split_seed": 1})
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_batches_are_full_shuffled_and_in_unit_range(tmp_path: Path, write_classes: Write) -> None:
    data = ready(write_classes(tmp_path / "d", 8), batch_size=6)
    first, again, later = batches(data), batches(data), batches(data, epoch=1)
    assert [x.shape for x, _ in first] == [(6, 1, 16, 16)] * 3
    assert all(labels.dtype == torch.int64 for _, labels in first)
    x = torch.cat([x for x, _ in first])
    assert x.dtype == torch.float32
    assert -1 <= x.min() < -0.3 < 0.3 < x.max() <= 1
    assert torch.equal(x, torch.cat([x for x, _ in again]))
    assert not torch.equal(x, torch.cat([x for x, _ in later]))
    assert torch.cat([labels for _, labels in data.val_dataloader()]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_labels_stay_with_their_images(tmp_path: Path, write_classes: Write) -> None:
    data = ready(write_classes(tmp_path / "d", 8))
    collection = data.collection
    known = {image.tobytes(): label for image, label in zip(collection.prepared.images, collection.labels, strict=True)}
    for x, labels in (*batches(data), *data.val_dataloader(), *data.test_dataloader()):
        assert [known[image.numpy().tobytes()] for image in to_grey_values(x)[:, 0]] == labels.tolist()


def test_training_alone_is_augmented_and_every_epoch_anew(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 8)
    plain, flips = ready(root), ready(root, augmentation=FLIPS)
    turned = []
    for epoch in (0, 0, 1):
        for (x, _), (y, _) in zip(batches(plain, epoch), batches(flips, epoch), strict=True):
            same, mirrored = (x == y).all((1, 2, 3)), (x.flip(3) == y).all((1, 2, 3))
            assert (same ^ mirrored).all()
            turned += mirrored.tolist()
    assert turned[:20] == turned[20:40] != turned[40:]
    plain, other = ready(root, seed=1), ready(root, seed=1, augmentation=FLIPS)
    of_seed_1 = torch.cat(
        [(x != y).any(1).any(1).any(1) for (x, _), (y, _) in zip(batches(plain), batches(other), strict=True)]
    )
    assert of_seed_1.tolist() != turned[:20]
    for loader in ("val_dataloader", "test_dataloader"):
        for (x, _), (y, _) in zip(getattr(plain, loader)(), getattr(flips, loader)(), strict=True):
            assert torch.equal(x, y)


def test_weighted_copies_take_turns(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 8)
    for path in list(root.rglob("*.png")):
        path.with_name(f"copy_of_{path.name}").write_bytes(path.read_bytes())
    data = ready(root, copies="weight")
    assert data.source.counts["train"] == dict.fromkeys(CLASSES, 5)
    assert len(data.collection.split.images("train")) == 40
    assert len(batches(data)) == 5


def test_each_image_weighs_one_over_the_size_of_its_group() -> None:
    pixels = np.arange(4, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    dataset = ImageDataset(torch.from_numpy(pixels), torch.arange(4), [[0], [1, 2, 3]], None, 0)
    seen = Counter(
        label for epoch in range(3000) for label in dataset.__getitems__([2 * epoch, 2 * epoch + 1])[1].tolist()
    )
    assert seen[0] == 3000
    assert chisquare([seen[i] for i in (1, 2, 3)], [1000] * 3).pvalue > 0.001


def test_a_sampler_of_someone_elses_still_trains_on_training_images_alone(tmp_path: Path, write_classes: Write) -> None:
    """Lightning swaps samplers, for overfit_batches or for several devices."""
    data = ready(write_classes(tmp_path / "d", 8))
    loader = DataLoader(data.train_dataloader().dataset, 4, collate_fn=data.train_dataloader().collate_fn)
    seen = rows(torch.cat([x for x, _ in loader]))
    assert seen == rows(torch.cat([x for x, _ in batches(data)]))


def test_validation_pictures_cover_the_classes(tmp_path: Path, write_classes: Write) -> None:
    data = ready(write_classes(tmp_path / "d", 8))
    everything = torch.cat([x for x, _ in data.val_dataloader()])
    labels = torch.cat([y for _, y in data.val_dataloader()])
    x, y = data.validation_images(4)
    assert torch.equal(x, everything[[0, 2, 4, 7]])
    assert torch.equal(y, labels[[0, 2, 4, 7]])
    assert len(data.validation_images(100)[0]) == 8


def test_fewer_images_than_a_batch(tmp_path: Path, write_classes: Write) -> None:
    root = write_classes(tmp_path / "d", 8)
    (root / "glioma" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"19 training images are fewer than one batch; lower data.batch_size=20"):
        ready(root, batch_size=20, max_unreadable=1.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 1),
        ("validation_fraction", 0.0),
        ("test_fraction", 1.0),
        ("image_size", 0),
        ("split", "random"),
        ("copies", "keep"),
        ("aspect_ratio", "crop"),
        ("near_copy_correlation", 1.5),
        ("white", 0),
        ("max_unreadable", 5),
        ("max_unreadable", float("nan")),
        ("near_copy_correlation", 1.0),
        ("registered_correlation", 0),
        ("search", "fast"),
        ("seed", -5),
        ("aliases", None),
        ("aliases", {"a": 5}),
        ("cache", ""),
        ("patient", "["),
        ("patient", 5),
        ("patient", "no group"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"data.{option}={value}")):
        ImageFolders(root=tmp_path, **{**FOLDER_OPTIONS, "cache": tmp_path, option: value})


def test_an_approximate_search_without_faiss_is_refused_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"data.search=approximate: needs faiss; pip install -e '.\[large\]'"):
        ImageFolders(root=tmp_path / "missing", cache=tmp_path, **{**FOLDER_OPTIONS, "search": "approximate"})


def test_shares_must_leave_something_to_train_on(tmp_path: Path) -> None:
    shares = {"validation_fraction": 0.5, "test_fraction": 0.5}
    with pytest.raises(ValueError, match="must leave images to train on"):
        ImageFolders(root=tmp_path, cache=tmp_path, **{**FOLDER_OPTIONS, **shares})


@pytest.mark.parametrize("classes", [["glioma", "glioma"], ["no tumor", "NoTumor"], []])
def test_class_names_must_be_distinct(tmp_path: Path, classes: list[str]) -> None:
    with pytest.raises(ValueError, match="must name at least one class, and each only once"):
        ImageFolders(root=tmp_path, cache=tmp_path, **{**FOLDER_OPTIONS, "classes": classes})


def test_phantoms_are_read_like_any_images_and_called_phantoms(tmp_path: Path, write_classes: Write) -> None:
    phantoms = PhantomFolders(
        phantom_seed=0,
        per_class={"Training": 4, "Testing": 1},
        root=tmp_path / "p",
        cache=tmp_path / "cache",
        **FOLDER_OPTIONS,
    )
    phantoms.prepare_data()
    phantoms.setup()
    assert phantoms.source.kind == "phantom"
    assert phantoms.source.caption == "PHANTOMS (drawings, not MRI)"
    # Their folder stays known as phantoms when it is given as if it were real.
    as_real = ready(tmp_path / "p")
    assert as_real.source == phantoms.source
    assert np.array_equal(as_real.collection.prepared.images, phantoms.collection.prepared.images)
    assert ready(tmp_path / "p" / "Training").source.kind == "phantom"
    assert ready(write_classes(tmp_path / "real", 4)).source.kind == "images"


def test_phantoms_need_names(tmp_path: Path) -> None:
    unnamed = {**FOLDER_OPTIONS, "classes": None}
    phantoms = PhantomFolders(
        phantom_seed=0, per_class={"Training": 1}, root=tmp_path / "p", cache=tmp_path / "cache", **unnamed
    )
    with pytest.raises(UserError, match=r"data\.classes: phantoms need class names"):
        phantoms.prepare_data()
