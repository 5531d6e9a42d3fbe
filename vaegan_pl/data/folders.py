"""List the images in class folders, with their classes and splits."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaegan_pl.data.images import SUFFIXES
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import LONGEST_NAME, printable

SPLIT_FOLDERS = {
    "training": "train",
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "testing": "test",
    "test": "test",
}
"""Names of split folders in lower case, and their splits."""

NO_SPLIT = "all"
"""The value of `ImageFile.folder` if there are no split folders."""


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    Attributes:
        path: where it is.
        label: index of its class.
        folder: the split whose folder contains it: `train`, `validation` or `test`; `all` without split folders.
    """

    path: Path
    label: int
    folder: str


@dataclass(frozen=True)
class Listing:
    """The image files under a root.

    Attributes:
        files: the images, sorted by path.
        classes: class names in label order.
        ignored: everything else next to or inside the class folders, with the reason.
    """

    files: list[ImageFile]
    classes: list[str]
    ignored: list[tuple[Path, str]]


def list_images(root: Path, classes: Sequence[str] | None, aliases: Mapping[str, str]) -> Listing:
    """Find the images of each class in split folders (`Training/`, `val/`, ...) or in plain class folders.

    Case, spaces, hyphens and underscores in the names of class folders are ignored. Hidden files and folders are
    skipped, and so are folders inside class folders.

    Args:
        root: the folder with the split folders or the class folders.
        classes: class names in label order; None takes all class folders, in alphabetical order.
        aliases: alternative names of class folders, each with its class.

    Raises:
        UserError: if the root is missing, a class has no folder or no image, or there are split folders but none for
            training.
    """
    if not root.exists():
        raise UserError(f"data.root={root}: no such folder; set data.root to the folder of your images")
    if not root.is_dir():
        raise UserError(f"data.root={root}: is a file; set data.root to the folder that holds the class folders")
    ignored: list[tuple[Path, str]] = []
    splits = _split_folders(root, ignored) or {NO_SPLIT: root}
    named = {plain(name) for name in classes or ()}
    targets = {plain(alias): plain(name) for alias, name in aliases.items() if plain(name) in named}
    found: dict[str, list[tuple[str, Path]]] = {}  # class folders, by plain name of their class
    for split, folder in splits.items():
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith((".", "__")):
                ignored.append((entry, "hidden"))
            elif not entry.is_dir():
                ignored.append((entry, "not in a class folder"))
            elif classes is None and not any(map(is_image, entry.iterdir())):
                ignored.append((entry, "a folder without images"))
            else:
                name = plain(entry.name)
                found.setdefault(name if name in named else targets.get(name, name), []).append((split, entry))
    if classes is None:
        classes = sorted((folders[0][1].name for folders in found.values()), key=str.lower)
        if not classes:
            raise UserError(f"{root}: contains no folders with images; see data.root")
    labels = [shown(name) for name in classes]
    for name in labels:
        if labels.count(name) > 1 or len(name.encode()) > LONGEST_NAME:
            raise UserError(
                f"{root}: the name of class {name[:40]} is used twice or is longer than {LONGEST_NAME} bytes; "
                "rename its folders"
            )
    files: list[ImageFile] = []
    for label, name in enumerate(classes):
        folders = found.pop(plain(name), [])
        if not folders:
            there = ", ".join(sorted({f.name for fs in found.values() for _, f in fs})) or "no other folders"
            looked = " or ".join(str(folder / name) for folder in splits.values())
            raise UserError(
                f"{looked}: the class folder is missing (there are {there}); "
                "see data.classes, data.aliases and data.root"
            )
        of_class = [ImageFile(path, label, split) for split, folder in folders for path in _images_in(folder, ignored)]
        if not of_class:
            raise UserError(f"{folders[0][1]}: holds no image ({', '.join(sorted(SUFFIXES))}); add some")
        files += of_class
    ignored += [(folder, "not a class in data.classes") for folders in found.values() for _, folder in folders]
    return Listing(sorted(files, key=lambda file: file.path), labels, sorted(ignored))


def _split_folders(root: Path, ignored: list[tuple[Path, str]]) -> dict[str, Path]:
    splits: dict[str, Path] = {}
    others: list[Path] = []
    for entry in sorted(root.iterdir()):
        split = SPLIT_FOLDERS.get(entry.name.lower()) if entry.is_dir() else None
        if split is None:
            others.append(entry)
        elif split in splits:
            raise UserError(f"{splits[split]} and {entry} both hold the {split} split; keep one of them")
        else:
            splits[split] = entry
    if not splits:
        return {}
    if "train" not in splits:
        other = next(iter(splits.values())).name
        raise UserError(f"{root} holds {other} but no Training folder; add it or point data.root elsewhere")
    ignored += [(entry, "hidden" if entry.name.startswith(".") else "not in a split folder") for entry in others]
    return {split: splits[split] for split in dict.fromkeys(SPLIT_FOLDERS.values()) if split in splits}


def plain(name: str) -> str:
    """A folder's name in lower case, without spaces, hyphens and underscores, and with composed accents."""
    return "".join(c for c in unicodedata.normalize("NFC", name).lower() if c not in " _-")


def shown(name: str) -> str:
    """A folder's name as a class name: accents composed, control characters and undecodable bytes escaped."""
    return printable(unicodedata.normalize("NFC", name))


def _images_in(folder: Path, ignored: list[tuple[Path, str]]) -> list[Path]:
    images = []
    for entry in sorted(folder.iterdir()):
        if is_image(entry):
            images.append(entry)
        else:
            hidden, is_folder = entry.name.startswith("."), entry.is_dir()
            ignored.append((entry, "hidden" if hidden else "a folder in a class folder" if is_folder else "no image"))
    return images


def is_image(path: Path) -> bool:
    """Whether a path is a file with the suffix of an image, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def list_loose_images(path: Path) -> list[Path]:
    """A single image file, or the images directly in a folder, sorted by name.

    Raises:
        UserError: if the file or folder does not exist, or contains no image.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"images={path}: no such file or folder")
    files = [file for file in sorted(path.iterdir()) if is_image(file)]
    if not files:
        raise UserError(f"images={path}: holds no image ({', '.join(sorted(SUFFIXES))})")
    return files
