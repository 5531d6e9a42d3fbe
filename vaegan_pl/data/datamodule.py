"""The LightningDataModule over class folders of images, real or phantom."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaegan_pl.data.folders import Images, list_images, read_images
from vaegan_pl.data.images import to_unit_range
from vaegan_pl.data.phantoms import PHANTOM_MARKER, draw_folders
from vaegan_pl.errors import UserError

Batch = tuple[Float[Tensor, "batch 1 size size"], Int64[Tensor, " batch"]]


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Decoded images in memory, as (image in [-1, 1], class index)."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "1 size size"], Int64[Tensor, ""]]:
        return to_unit_range(self.images.pixels[index]), self.images.labels[index]


@dataclass(frozen=True)
class Source:
    """What a model was trained on, in words that can be printed, drawn and stored.

    Attributes:
        kind: `phantom` for drawings of this project, `images` for anything else.
        folder: the name of the folder that held them.
        classes: class names in label order.
        counts: images by split, then by class name.
    """

    kind: str
    folder: str
    classes: list[str]
    counts: dict[str, dict[str, int]]

    @property
    def caption(self) -> str:
        """One phrase for pictures and messages."""
        return "PHANTOMS (drawings, not MRI)" if self.kind == "phantom" else f"images of {self.folder}"


class ImageFolders(L.LightningDataModule):
    """Grey images from class folders, decoded once into memory.

    With `Training/` and `Testing/` folders the first trains and the second is held out; of plain class folders a
    seeded, per-class random `validation_fraction` is held out.

    Args:
        root: the folder that holds `Training/` and `Testing/`, or the class folders.
        classes: names of the class folders, in label order.
        image_size: side of the square images in pixels.
        batch_size: images per training batch; an incomplete last batch is dropped.
        validation_fraction: share of each class to hold out where the folders make no split, in (0, 1).
        max_unreadable: share of files that may be unreadable before that is an error, in [0, 1].
        seed: seed of the split and of the batches' order.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        image_size: int,
        batch_size: int,
        validation_fraction: float,
        max_unreadable: float,
        seed: int,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise ValueError(f"data.batch_size={batch_size}: batch norm needs at least 2 images")
        if image_size < 1:
            raise ValueError(f"data.image_size={image_size}: must be at least 1")
        if len(set(map(str, classes))) < len(classes) or not classes:
            raise ValueError(f"data.classes={list(classes)}: must name at least one class, and none twice")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction={validation_fraction}: must lie between 0 and 1")
        self.root = Path(str(root))
        self.classes = [str(name) for name in classes]
        self.image_size = image_size
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.max_unreadable = max_unreadable
        self.seed = seed
        self.ignored: list[Path] = []
        self.images: dict[str, Images] = {}

    def setup(self, stage: str | None = None) -> None:
        """List and decode all images; later calls do nothing.

        Raises:
            UserError: for any folder or file that cannot be used, and for fewer training images than one batch.
        """
        if self.images:
            return
        listing = list_images(self.root, self.classes)
        splits = listing.files if "train" in listing.files else self._hold_out(listing.files["all"])
        images = {split: read_images(files, self.image_size, f"reading {split}") for split, files in splits.items()}
        self._refuse_unreadable(images)
        n = len(images["train"].labels)
        if n < self.batch_size:
            raise UserError(
                f"{self.root}: {n} training images are fewer than one batch; "
                f"lower data.batch_size={self.batch_size} or add images"
            )
        self.ignored = [path for path in listing.ignored if path.name != PHANTOM_MARKER]
        self.images = images

    def _refuse_unreadable(self, images: dict[str, Images]) -> None:
        unreadable = [file for split in images.values() for file in split.unreadable]
        n = len(unreadable) + sum(len(split.labels) for split in images.values())
        if len(unreadable) > self.max_unreadable * n:
            raise UserError(
                f"{len(unreadable)} of {n} image files cannot be read, more than data.max_unreadable="
                f"{self.max_unreadable:g} allows; mend or remove them:\n"
                + "\n".join(f"  {path}: {reason}" for path, reason in unreadable[:10])
                + ("\n  ..." if len(unreadable) > 10 else "")
            )
        for split, of_split in images.items():
            for label, name in enumerate(self.classes):
                if not (of_split.labels == label).any():
                    where = f"{self.root}: not one {split.replace('_', ' ')} image of {name}"
                    raise UserError(f"{where} can be read; mend or remove the class")

    def _hold_out(self, files: Sequence[tuple[Path, int]]) -> dict[str, list[tuple[Path, int]]]:
        generator = torch.Generator().manual_seed(self.seed)
        splits: dict[str, list[tuple[Path, int]]] = {"train": [], "held_out": []}
        for label in range(len(self.classes)):
            of_class = [file for file in files if file[1] == label]
            held_out = max(1, round(self.validation_fraction * len(of_class)))
            if held_out == len(of_class):
                raise UserError(f"{of_class[0][0].parent}: one image is too few to train on and hold out; add images")
            order = torch.randperm(len(of_class), generator=generator).tolist()
            splits["held_out"] += [of_class[i] for i in sorted(order[:held_out])]
            splits["train"] += [of_class[i] for i in sorted(order[held_out:])]
        return splits

    @property
    def source(self) -> Source:
        """What the images are; available after `setup`."""
        root = self.root.resolve()
        return Source(
            kind="phantom" if any((folder / PHANTOM_MARKER).exists() for folder in (root, *root.parents)) else "images",
            folder=root.name,
            classes=self.classes,
            counts={
                split: {name: int((images.labels == label).sum()) for label, name in enumerate(self.classes)}
                for split, images in self.images.items()
            },
        )

    def held_out(self, n: int) -> Float[Tensor, "n 1 size size"]:
        """The same `n` held-out images each time, in [-1, 1], evenly over the held-out set and so over its classes."""
        pixels = self.images["held_out"].pixels
        return to_unit_range(pixels[torch.linspace(0, len(pixels) - 1, min(n, len(pixels))).long()])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled full batches of (images in [-1, 1], class indices)."""
        return self._loader("train", shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(self.seed))

    def val_dataloader(self) -> DataLoader[Batch]:
        """All held-out images in a fixed order."""
        return self._loader("held_out")

    def _loader(self, split: str, **options: Any) -> DataLoader[Batch]:
        return DataLoader(ImageDataset(self.images[split]), self.batch_size, **options)


class PhantomFolders(ImageFolders):
    """Phantoms, drawn once into class folders and from there on read like any other images.

    Args:
        phantom_seed: seed of the drawings.
        per_class: images to draw of each class, as {"Training": n, "Testing": n}.
        **folders: see `ImageFolders`.
    """

    def __init__(self, phantom_seed: int, per_class: dict[str, int], **folders: Any) -> None:
        super().__init__(**folders)
        self.phantom_seed = phantom_seed
        self.per_class = per_class

    def prepare_data(self) -> None:
        """Draw the phantoms unless their folder is there.

        Raises:
            UserError: if `root` holds something else.
        """
        draw_folders(self.root, self.classes, self.per_class, self.phantom_seed)
