"""Class folders on disk: which files are there, in which class and split, and their pixels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from vaegan_pl.data.images import SUFFIXES, UNREADABLE, read_grey
from vaegan_pl.errors import UserError

SPLITS = {
    "training": "train",
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "testing": "test",
    "test": "test",
}
"""Names of split folders, in lower case, and the split each holds."""


@dataclass(frozen=True)
class Listing:
    """The image files under a root, sorted by path.

    Attributes:
        files: (path, class index) by split: `train` and `held_out`, or `all` where the root makes no such split.
        ignored: everything else that stands beside the class folders or in them.
    """

    files: dict[str, list[tuple[Path, int]]]
    ignored: list[Path]


@dataclass(frozen=True)
class Images:
    """Decoded grey images of one split.

    Attributes:
        pixels: grey values 0..255.
        labels: class indices.
        unreadable: files left out, each with the decoder's reason.
    """

    pixels: UInt8[Tensor, "image 1 size size"]
    labels: Int64[Tensor, " image"]
    unreadable: list[tuple[Path, str]]


def list_images(root: Path, classes: Sequence[str]) -> Listing:
    """Find the images of each class, in `Training/` and `Testing/` or in plain class folders.

    A validation folder is held out in place of the testing one. Hidden files and folders are no images, and folders
    inside class folders are not entered.

    Raises:
        UserError: if the root or a class folder is missing, a class is empty, or there is a Testing without a Training.
    """
    if not root.exists():
        raise UserError(f"data.root={root}: no such folder; set data.root to the folder of your images")
    if not root.is_dir():
        raise UserError(f"data.root={root}: is a file; set data.root to the folder that holds the class folders")
    splits: dict[str, Path] = {}
    for folder in sorted(root.iterdir()):
        split = SPLITS.get(folder.name.lower())
        if folder.is_dir() and split:
            if split in splits:
                raise UserError(f"{splits[split]} and {folder} both hold the {split} split; keep one of them")
            splits[split] = folder
    if splits and "train" not in splits:
        other = next(iter(splits.values())).name
        raise UserError(f"{root} holds {other} but no Training folder; add it or point data.root elsewhere")
    held_out = splits.get("validation", splits.get("test"))
    folders = {"train": splits["train"], "held_out": held_out} if held_out else {"all": splits.get("train", root)}
    ignored = [entry for entry in sorted(root.iterdir()) if splits and entry not in folders.values()]
    files = {split: _list_classes(folder, classes, ignored) for split, folder in folders.items()}
    return Listing(files, ignored)


def _list_classes(folder: Path, classes: Sequence[str], ignored: list[Path]) -> list[tuple[Path, int]]:
    files: list[tuple[Path, int]] = []
    ignored += [entry for entry in sorted(folder.iterdir()) if entry.name not in classes]
    for label, name in enumerate(classes):
        class_folder = folder / name
        if not class_folder.is_dir():
            there = ", ".join(sorted(f.name for f in folder.iterdir() if f.is_dir())) or "no folders at all"
            raise UserError(f"{class_folder}: this class folder is missing ({folder} holds {there}); see data.classes")
        entries = sorted(class_folder.iterdir())
        images = [path for path in entries if _is_image(path)]
        if not images:
            raise UserError(
                f"{class_folder}: holds no image ({', '.join(sorted(SUFFIXES))}); add some or see data.classes"
            )
        files += [(path, label) for path in images]
        ignored += [path for path in entries if not _is_image(path)]
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_images(files: Sequence[tuple[Path, int]], size: int, description: str) -> Images:
    """Decode files in parallel, leaving out those that are truncated or no images.

    Args:
        files: (path, class index) of each image.
        size: side to resize to.
        description: what the progress bar says.
    """

    def read(path: Path) -> Tensor | str:
        try:
            return read_grey(path, size)
        except UNREADABLE as error:
            return str(error)

    pixels, labels, unreadable = [], [], []
    with ThreadPoolExecutor(cpu_count()) as pool:
        decoded = pool.map(read, [path for path, _ in files])
        for (path, label), result in zip(tqdm(files, description, unit="image", leave=False), decoded, strict=True):
            if isinstance(result, str):
                unreadable.append((path, result))
            else:
                pixels.append(result)
                labels.append(label)
    stacked = torch.stack(pixels) if pixels else torch.empty(0, size, size, dtype=torch.uint8)
    return Images(stacked.unsqueeze(1), torch.tensor(labels, dtype=torch.int64), unreadable)


def list_loose_images(path: Path) -> list[Path]:
    """One image file, or the images that lie directly in a folder, sorted by name.

    Raises:
        UserError: if there is no such file or folder, or no image in it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"images={path}: no such file or folder")
    files = [file for file in sorted(path.iterdir()) if _is_image(file)]
    if not files:
        raise UserError(f"images={path}: holds no image ({', '.join(sorted(SUFFIXES))})")
    return files
