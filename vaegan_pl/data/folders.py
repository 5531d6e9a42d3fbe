"""Class folders on disk: which files are there, in which class and split, and their pixels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from vaegan_pl.data.images import SUFFIXES, UNREADABLE, read_grey
from vaegan_pl.errors import UserError

SPLITS = {"training": "train", "train": "train", "testing": "test", "test": "test"}
"""Names of split folders, in lower case, and the split each holds."""


@dataclass(frozen=True)
class Listing:
    """The image files under a root, sorted by path.

    Attributes:
        files: (path, class index) by split: `train` and `test`, or `all` where the root holds class folders only.
        ignored: what stands in a class folder without being an image by its name.
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
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def list_images(root: Path, classes: Sequence[str]) -> Listing:
    """Find the images of each class, in `Training/` and `Testing/` or in plain class folders.

    Hidden files and folders are no images, and folders inside class folders are not entered.

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
    if "test" in splits and "train" not in splits:
        raise UserError(
            f"{root} holds {splits['test'].name} but no Training folder; add it or point data.root elsewhere"
        )
    ignored: list[Path] = []
    folders = dict(sorted(splits.items(), reverse=True)) or {"all": root}
    files = {split: _list_classes(folder, classes, ignored) for split, folder in folders.items()}
    if set(files) == {"train"}:
        files = {"all": files["train"]}
    return Listing(files, ignored)


def _list_classes(folder: Path, classes: Sequence[str], ignored: list[Path]) -> list[tuple[Path, int]]:
    files: list[tuple[Path, int]] = []
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


def read_images(files: Sequence[tuple[Path, int]], size: int, max_unreadable: float, description: str) -> Images:
    """Decode files in parallel, leaving out those that are truncated or no images.

    Args:
        files: (path, class index) of each image.
        size: side to resize to.
        max_unreadable: the largest tolerable fraction of unreadable files, in [0, 1].
        description: what the progress bar says.

    Raises:
        UserError: if more than that fraction cannot be read, or nothing is left of a class.
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
    if len(unreadable) > max_unreadable * len(files):
        raise UserError(
            f"{len(unreadable)} of {len(files)} image files cannot be read, more than data.max_unreadable="
            f"{max_unreadable:g} allows; mend or remove them:\n"
            + "\n".join(f"  {path}: {reason}" for path, reason in unreadable[:10])
            + ("\n  ..." if len(unreadable) > 10 else "")
        )
    for label in {label for _, label in files} - set(labels):
        lost = next(path.parent for path, file_label in files if file_label == label)
        raise UserError(f"{lost}: not one image there can be read; mend or remove this class")
    return Images(torch.stack(pixels).unsqueeze(1), torch.tensor(labels), unreadable)


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
