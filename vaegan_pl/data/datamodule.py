"""The LightningDataModule over class folders of images, real or phantom."""

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaegan_pl.data.augmentation import Augmentation, draw
from vaegan_pl.data.collection import Collection, Splitting, collect
from vaegan_pl.data.copies import NO_FAISS, SEARCHES
from vaegan_pl.data.folders import plain
from vaegan_pl.data.grey import RANGES
from vaegan_pl.data.images import ASPECT_RATIOS, PREPROCESSING, to_unit_range
from vaegan_pl.data.masks import MASKS
from vaegan_pl.data.phantoms import draw_folders
from vaegan_pl.data.prepared import Decoding
from vaegan_pl.data.sampling import EpochSampler, in_order
from vaegan_pl.data.splits import COPIES, FOLDS, SPLITS
from vaegan_pl.data.tensors import images_of, labels_of
from vaegan_pl.errors import UserError, check_part
from vaegan_pl.model.trained_on import TrainedOn
from vaegan_pl.storage.files import printable

MOST_PHANTOMS = 100_000
"""Largest number of phantoms of one class in one folder."""

Batch = tuple[Float[Tensor, "batch 1 size size"], Int64[Tensor, " batch"]]


class ImageDataset(Dataset[Batch]):
    """Groups of decoded images, served as whole batches of (images in [-1, 1], class indices).

    Batches are made on the device that holds the images.

    Args:
        images: grey values 0..255, on the device used for training; on the CPU they may be memory-mapped.
        labels: class index of each image, on the same device.
        groups: the images of each item; each epoch uses one at random.
        augmentation: augmentation of the images; None for none.
        seed: seed of the choice and of the augmentation.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "image size size"],
        labels: Int64[Tensor, " image"],
        groups: Sequence[Sequence[int]],
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        self.images = images
        self.labels = labels
        self.groups = groups
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.groups)

    def choose(self, numbers: Sequence[int]) -> tuple[list[int], Float32[np.ndarray, "image draw"]]:
        """The images chosen for numbers `epoch * len(self) + group` of one epoch, and their random numbers."""
        epochs, groups = np.divmod(np.asarray(numbers), len(self))
        draws = draw(self.seed, int(epochs[0]), len(self))[groups]
        members = (self.groups[group] for group in groups)
        return [group[int(share * len(group))] for group, share in zip(members, draws[:, 0], strict=True)], draws

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """The batch for numbers that `EpochSampler` yields."""
        chosen, draws = self.choose(numbers)
        images = torch.tensor(chosen).to(self.images.device)
        x = to_unit_range(self.images[images])[:, None]
        if self.augmentation is not None:
            x = self.augmentation(x, torch.from_numpy(draws[:, 1:]).to(x.device))
        return x, self.labels[images]


def _has_a_group(pattern: object) -> bool:
    try:
        return isinstance(pattern, str) and re.compile(pattern).groups > 0
    except re.error:
        return False


def _identity(batch: Any) -> Any:
    return batch


class ImageFolders(L.LightningDataModule):
    """Grey images from class folders, split without near-copies across splits.

    The defaults are in `conf/data`; `vaegan_pl.build` applies them.

    Args:
        root: the folder with the class folders, or with `Training/` and `Testing/` that contain class folders.
        classes: class names in label order; None takes all folders.
        aliases: alternative names of class folders, each with its class.
        image_size: side of the square images in pixels.
        aspect_ratio: `pad` or `squash`; see `images.fit`.
        white: the value of more than 8 bits that becomes white; see `images.read_file`.
        range: which values of more than 8 bits become black to white, one of `grey.RANGES`.
        exclude: regular expression for the paths of files to leave out; see `folders.list_images`.
        masks: `drop` or `keep`; see `collection.collect`.
        split: `group` or `official`; see `Splitting.by`.
        validation_fraction: share of each class's groups for validation, in (0, 1).
        test_fraction: share of each class's groups for testing, in (0, 1).
        patient: see `Splitting.patient`.
        patients: see `Splitting.patients`.
        unknown_patients: see `Splitting.unknown_patients`.
        published: see `Splitting.published`.
        families: see `Splitting.families`.
        fold: see `Splitting.fold`.
        split_seed: seed of the split.
        copies: `drop` or `weight`; see `splits.by_group`.
        near_copy_correlation: smallest correlation of near-copies, in (0, 1); None compares pixel hashes only.
        registered_correlation: smallest correlation of near-copies in another frame after registration, in (0, 1); None
            does not look for them; without effect if `near_copy_correlation` is None.
        search: `exhaustive` or `approximate`; see `copies.similar`.
        batch_size: images per training batch and device; an incomplete last batch is dropped.
        augmentation: augmentation of training images.
        max_unreadable: largest share of files that may be unreadable, in [0, 1].
        cache: the folder where decoded images are stored.
        seed: seed of the order of batches and of the augmentation.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None,
        aliases: Mapping[str, str],
        image_size: int,
        aspect_ratio: str,
        white: int,
        range: str,  # noqa: A002 (data.range)
        exclude: str | None,
        masks: str,
        split: str,
        validation_fraction: float,
        test_fraction: float,
        patient: str | None,
        patients: str | None,
        unknown_patients: str,
        published: bool,
        families: bool,
        fold: int | None,
        split_seed: int,
        copies: str,
        near_copy_correlation: float | None,
        registered_correlation: float | None,
        search: str,
        batch_size: int,
        augmentation: Augmentation,
        max_unreadable: float,
        cache: str | Path,
        seed: int,
    ) -> None:
        super().__init__()
        for name, value, low, high in (
            ("batch_size", batch_size, 2, math.inf),  # batch norm needs two
            ("image_size", image_size, 1, math.inf),
            ("white", white, 1, 65535),
            ("max_unreadable", max_unreadable, 0, 1),
            ("seed", seed, 0, math.inf),
        ):
            if not low <= value <= high:
                limits = f"must be at least {low}" + (f" and at most {high}" if high < math.inf else "")
                raise ValueError(f"data.{name}={value}: {limits}")
        check_part("data.augmentation", augmentation, Augmentation)
        for name, share in (
            ("validation_fraction", validation_fraction),
            ("test_fraction", test_fraction),
            ("near_copy_correlation", near_copy_correlation),
            ("registered_correlation", registered_correlation),
        ):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"data.{name}={share}: must lie between 0 and 1")
        if validation_fraction + test_fraction >= 1:
            raise ValueError("data.validation_fraction and data.test_fraction: must leave images to train on")
        for name, choice, choices in (
            ("aspect_ratio", aspect_ratio, ASPECT_RATIOS),
            ("range", range, RANGES),
            ("masks", masks, MASKS),
            ("split", split, ("group", "official")),
            ("copies", copies, COPIES),
            ("search", search, SEARCHES),
            ("unknown_patients", unknown_patients, ("error", "alone")),
        ):
            if choice not in choices:
                raise ValueError(f"data.{name}={choice}: must be one of {', '.join(choices)}")
        if classes is not None and (len({plain(str(name)) for name in classes}) < len(classes) or not classes):
            raise ValueError(f"data.classes={list(classes)}: must name at least one class, and each only once")
        if not isinstance(aliases, Mapping) or not all(isinstance(name, str) for name in aliases.values()):
            raise ValueError(f"data.aliases={aliases}: must map each alternative name to the name of a class")
        if patient is not None and not _has_a_group(patient):
            raise ValueError(f"data.patient={patient}: must be a regular expression with a group, such as '(P[0-9]+)_'")
        if patient is not None and patients is not None:
            raise ValueError("data.patient, data.patients: both say whose images are; give one of them")
        if search == "approximate" and importlib.util.find_spec("faiss") is None:
            raise UserError(NO_FAISS)
        if fold is not None and not 0 <= fold < FOLDS:
            raise ValueError(f"data.fold={fold}: must be null or a whole number from 0 to {FOLDS - 1}")
        if not cache:
            raise ValueError(f"data.cache={cache}: must be a folder")
        self.root = Path(str(root))
        self.classes = None if classes is None else [str(name) for name in classes]
        self.aliases = aliases
        self.exclude = exclude
        self.masks = masks
        self.decoding = Decoding(
            image_size, aspect_ratio, white, range, near_copy_correlation, registered_correlation, search
        )
        self.splitting = Splitting(
            by=split,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            patient=patient,
            patients=patients,
            unknown_patients=unknown_patients,
            published=published,
            families=families,
            fold=fold,
            copies=copies,
            seed=split_seed,
        )
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.max_unreadable = max_unreadable
        self.cache = Path(str(cache))
        self.seed = seed
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._start = 0, 0

    def setup(self, stage: str | None = None) -> None:
        """Read the folder.

        Raises:
            UserError: as `collection` does, and if there are fewer training images than one batch.
        """
        n, (_, _, devices) = len(self.collection.split.groups["train"]), self._place()
        if n < self.batch_size * devices:
            each = f" on each of {devices} devices" if devices > 1 else ""
            raise UserError(
                f"{self.root}: {n} training images are fewer than one batch{each}; "
                f"lower data.batch_size={self.batch_size} or add images"
            )
        for split in ("validation", "test"):
            if 0 < len(self.collection.split.groups[split]) < devices:
                raise UserError(
                    f"{self.root}: has fewer {split} images than devices ({devices}); lower trainer.devices"
                )

    @cached_property
    def collection(self) -> Collection:
        """The images of the folder, with their near-copies and splits; read on first use.

        Raises:
            UserError: if a folder or file cannot be used.
        """
        return collect(
            self.root,
            self.classes,
            self.aliases,
            self.exclude,
            self.masks,
            self.decoding,
            self.splitting,
            self.max_unreadable,
            self.cache,
        )

    @property
    def source(self) -> TrainedOn:
        """A description of the images."""
        collection = self.collection
        folder = printable(self.root.resolve().name)
        return TrainedOn(
            kind="phantom" if collection.is_phantom else "images",
            folder=folder,
            classes=collection.listing.classes,
            counts={split: collection.counts(split) for split in SPLITS},
            caption="PHANTOMS (drawings, not MRI)" if collection.is_phantom else f"images of {folder}",
            split={**self.splitting.facts, "keeps_apart": collection.keeps_apart},
            fingerprint=collection.fingerprint(),
            training_images=collection.fingerprint(collection.split.images("train")),
        )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How files are turned into network inputs, in plain values."""
        own = {
            "aspect_ratio": self.decoding.aspect_ratio,
            "white": self.decoding.white,
            "grey_range": self.decoding.range,
        }
        return {**PREPROCESSING, **own}

    def validation_images(self, n: int) -> Batch:
        """The same `n` validation images and labels each time, spread evenly over the split and its classes."""
        images = self.collection.split.images("validation")
        chosen = [images[i] for i in np.linspace(0, len(images) - 1, min(n, len(images))).astype(int)]
        return images_of(self.collection, chosen), labels_of(self.collection, chosen)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled full batches of augmented images, with one image of each group in every epoch."""
        dataset = self._dataset("train", self.augmentation)
        _, rank, devices = self._place()
        epoch, batch = self._start
        sampler = EpochSampler(len(dataset), self.seed, rank, devices, start=(epoch, batch * self.batch_size))
        return DataLoader(dataset, self.batch_size, sampler=sampler, drop_last=True, collate_fn=_identity)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the position in the order of batches, and a hash of the images and splits."""
        assert self.trainer is not None
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total.completed
        epoch, batch = divmod(batches, int(self.trainer.num_training_batches))
        return {"epoch": epoch, "batch": batch, "devices": self._place()[2], "order": self.collection.order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batches of a checkpoint.

        Raises:
            UserError: if the images, their splits or the number of devices have changed.
            ValueError: if the state is not from `state_dict`.
        """
        if state_dict["devices"] != self._place()[2]:
            n = state_dict["devices"]
            raise UserError(f"trainer.devices: the number of devices was {n} when this run was started; use as many")
        if state_dict["order"] != self.collection.order():
            raise UserError(
                f"{self.root}: the images or their splits have changed since this run was started; "
                "restore them, or start a new run"
            )
        start = state_dict["epoch"], state_dict["batch"]
        if not all(type(place) is int and 0 <= place < 2**53 for place in start):
            raise ValueError("the stored epoch or batch number is invalid")
        self._start = start

    def files_of_batch(self, batch: int) -> list[Path]:
        """The files of a training batch, for messages; batches are counted from 0 over all epochs."""
        dataset = self._dataset("train", self.augmentation)
        devices = self._place()[2]
        sampler = EpochSampler(len(dataset), self.seed)
        assert self.trainer is not None
        epoch, batch = divmod(batch, int(self.trainer.num_training_batches))
        sampler.set_epoch(epoch)
        size = self.batch_size * devices
        in_turn = bool(self.trainer.overfit_batches)  # type: ignore[attr-defined]
        numbers = list(range(len(dataset)) if in_turn else sampler)[batch * size : (batch + 1) * size]
        return [self.collection.listing.files[image].path for image in dataset.choose(numbers)[0]]

    def val_dataloader(self) -> DataLoader[Batch]:
        """All validation images in a fixed order, without augmentation."""
        return self._in_order("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """All test images in a fixed order, without augmentation."""
        return self._in_order("test")

    def _in_order(self, split: str) -> DataLoader[Batch]:
        dataset = self._dataset(split)
        batches = in_order(len(dataset), self.batch_size, *self._place()[1:])
        return DataLoader(dataset, batch_sampler=batches, collate_fn=_identity)

    def _place(self) -> tuple[torch.device, int, int]:
        """The device of this process, its rank, and the number of devices."""
        trainer = self.trainer
        if trainer is None:
            return torch.device("cpu"), 0, 1
        return trainer.strategy.root_device, trainer.global_rank, trainer.world_size

    def _dataset(self, split: str, augmentation: Augmentation | None = None) -> ImageDataset:
        groups = sorted(self.collection.split.groups[split])
        return ImageDataset(*self._resident(self._place()[0]), groups, augmentation, self.seed)

    def _resident(self, device: torch.device) -> tuple[UInt8[Tensor, "image size size"], Int64[Tensor, " image"]]:
        """All images and labels on a device, copied there once."""
        if device not in self._copies:
            images, labels = self.collection.prepared.images, self.collection.labels.astype(np.int64)
            self._copies[device] = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        return self._copies[device]


class PhantomFolders(ImageFolders):
    """Phantoms, drawn once into class folders and read like any other images.

    Args:
        phantom_seed: seed of the drawings.
        per_class: number of images of each class, as {"Training": n, "Testing": n}.
        **folders: see `ImageFolders`.
    """

    def __init__(self, phantom_seed: int, per_class: dict[str, int], **folders: Any) -> None:
        super().__init__(**folders)
        for folder, n in per_class.items():
            if (
                Path(folder).name != folder
                or folder in ("", ".", "..")
                or type(n) is not int
                or not 0 < n <= MOST_PHANTOMS
            ):
                raise ValueError(
                    f"data.per_class.{folder}={n}: must be the name of a folder, with 1 to {MOST_PHANTOMS:,} images"
                )
        if not 0 <= phantom_seed < 2**63:
            raise ValueError(f"data.phantom_seed={phantom_seed}: must not be negative")
        self.phantom_seed = phantom_seed
        self.per_class = per_class

    def prepare_data(self) -> None:
        """Draw the phantoms unless their folder exists.

        Raises:
            UserError: if `root` contains other files, or `classes` is None.
        """
        if self.classes is None:
            raise UserError("data.classes: phantoms need class names; set, for example, data.classes=[glioma,notumor]")
        draw_folders(self.root, self.classes, self.per_class, self.phantom_seed)
