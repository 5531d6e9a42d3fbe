"""List the images in class folders, with their classes and splits."""

import re
import unicodedata
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from vaegan_pl.data import refusals
from vaegan_pl.data.images import SUFFIXES
from vaegan_pl.data.masks import by_name
from vaegan_pl.data.patients import IMPORTED, OF_AN_IMPORT
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import LONGEST_NAME, printable

_KIND = "(set|data|split|images?|imgs?|slices|folder|samples)*"
SPLIT_FOLDERS = {
    "train": re.compile(f"{_KIND}(train|training|trn){_KIND}"),
    "validation": re.compile(f"{_KIND}(validation|valid|val|dev|development|evaluation|eval){_KIND}"),
    "test": re.compile(f"{_KIND}(test|testing|tst|holdout|heldout){_KIND}"),
}
"""Names of split folders, as `plain` returns them."""

_HINTS = {"train": "train", "validation": "val|dev", "test": "test|hold|held"}
"""Parts of the names of folders that are splits if they contain the same class folders as another split."""

NO_SPLIT = "all"
"""The value of `ImageFile.folder` if there are no split folders."""

EXCLUDED, MASK = "left out by data.exclude", "a mask, by its name"
UNCLEAR = "contains the same class folders, but it is not clear which split it is"
"""Reasons in `Listing.ignored` that the console reports."""

_SHOWN = 5
_ANNOTATIONS = re.compile("(mask|label|annotation|seg|segmentation|gt|groundtruth|target|contour)s?")
_NUMBERED = re.compile(r"\D*\d+\D?")
_OF_CLASSES = frozenset({"class", "grade", "type", "stage", "category", "label", "group"})
_MANY, _MANY_NUMBERED, _FEW_IMAGES = 30, 8, 30
"""Folders are taken for patients if there are at least `_MANY` with a median of at most `_FEW_IMAGES` images, or at
least `_MANY_NUMBERED` whose names differ only in a number."""


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


class _MisfitError(Exception):
    """A root whose class folders, or their images, are not where they should be.

    Attributes:
        problem: what is wrong, in words.
        missing: classes without a folder.
        there: names of the other folders with images.
    """

    def __init__(self, problem: str, missing: Sequence[str] = (), there: Sequence[str] = ()) -> None:
        super().__init__(problem)
        self.missing = missing
        self.there = there


def list_images(
    root: Path, classes: Sequence[str] | None, aliases: Mapping[str, str], exclude: str | None, masks: str
) -> Listing:
    """Find the images of each class in split folders (`Training/`, `val/`, ...) or in plain class folders.

    Case, spaces, hyphens and underscores in the names of class folders are ignored. Hidden files and folders are
    skipped, and so are folders inside class folders, folders that cannot be opened, and masks next to their images.

    Args:
        root: the folder with the split folders or the class folders.
        classes: class names in label order; None takes all class folders, in alphabetical order.
        aliases: alternative names of class folders, each with its class.
        exclude: regular expression; files are left out if it is found in their path relative to `root`.
        masks: `drop` leaves out masks by their names, see `masks.by_name`; `keep` takes them for images.

    Raises:
        UserError: if the root is missing, a class has no folder or no image, or there are split folders but none for
            training. The message says which option or command helps, if one does.
    """
    if not root.exists():
        raise UserError(f"data.root={root}: no such folder; set data.root to the folder of your images")
    if not root.is_dir():
        raise UserError(f"data.root={root}: {refusals.file_as_root(root)}")
    try:
        re.compile(exclude or "")
    except re.error as error:
        raise UserError(
            f"data.exclude={exclude}: is not a regular expression ({error}); _T2, for example, leaves out every path "
            "that contains _T2"
        ) from None

    def fits(root: Path, classes: Sequence[str] | None, more: Mapping[str, str]) -> bool:
        try:
            return bool(_listed(root, classes, {**aliases, **more}, _Choice(root, None, masks)).files)
        except (UserError, _MisfitError, OSError):
            return False

    try:
        listing = _listed(root, classes, aliases, _Choice(root, exclude, masks))
    except _MisfitError as misfit:
        raise UserError(f"{misfit}; {_advice(root, classes, misfit, fits)}") from None
    if exclude is not None and all(reason != EXCLUDED for _, reason in listing.ignored):
        raise UserError(
            f"data.exclude={exclude}: is found in the path of no image in {root}; correct it or leave it out"
        )
    return listing


def _advice(root: Path, classes: Sequence[str] | None, misfit: _MisfitError, fits: refusals.Fits) -> str:
    """What helps: the first advice that applies."""
    loose = sum(map(is_image, refusals.visible(root)))
    return (
        refusals.deeper(root, classes, fits)
        or refusals.renamed(root, classes or (), misfit.missing, misfit.there, fits)
        or refusals.loose(root, loose, classes, fits)
        or refusals.imported(root)
        or refusals.listed(root, misfit.there, fits)
        or "see data.classes, data.aliases and data.root"
    )


@dataclass(frozen=True)
class _Choice:
    """Which images of a class folder are taken; see `list_images`."""

    root: Path
    exclude: str | None
    masks: str


@dataclass(frozen=True)
class _ClassFolder:
    path: Path
    split: str
    images: list[Path]


def _listed(root: Path, classes: Sequence[str] | None, aliases: Mapping[str, str], choice: _Choice) -> Listing:
    """Like `list_images`, without advice.

    Raises:
        _MisfitError: if class folders or images are missing.
        UserError: for other mistakes.
    """
    ignored: list[tuple[Path, str]] = []
    named = {plain(name) for name in classes or ()}
    splits = _split_folders(root, named, ignored) or {NO_SPLIT: root}
    targets = {plain(alias): plain(name) for alias, name in aliases.items() if plain(name) in named}
    found: dict[str, list[_ClassFolder]] = {}  # class folders, by plain name of their class
    others: list[str] = []
    for split, folder in splits.items():
        for entry in sorted(folder.iterdir()):
            if not _is_visible(entry):
                ignored.append((entry, "hidden"))
                continue
            if not entry.is_dir():
                imported = entry.name in OF_AN_IMPORT and (root / IMPORTED).is_file()
                ignored.append((entry, "written by import_images" if imported else "not in a class folder"))
                continue
            name = plain(entry.name)
            name = name if name in named else targets.get(name, name)
            if classes is not None and name not in named:
                ignored.append((entry, "not a class in data.classes"))
                others.append(entry.name)
                continue
            try:
                images, inside = _images_in(entry, choice)
            except PermissionError:  # such as lost+found
                if classes is not None:
                    raise
                ignored.append((entry, "cannot be opened"))
                continue
            if classes is None and not images:
                ignored.append((entry, "a folder without images"))
                others.append(entry.name)
                continue
            ignored += inside
            found.setdefault(name, []).append(_ClassFolder(entry, split, images))
    if classes is None:
        classes = sorted((folders[0].path.name for folders in found.values()), key=str.lower)
        if not classes:
            raise _MisfitError(f"{root}: contains no folders with images ({refusals.kinds_in(root)})")
        _check_are_classes(root, found, others)
    labels = [shown(name) for name in classes]
    for name in labels:
        if labels.count(name) > 1 or len(name.encode()) > LONGEST_NAME:
            raise UserError(
                f"{root}: the name of class {name[:40]} is used twice or is longer than {LONGEST_NAME} bytes; "
                "rename its folders"
            )
    missing = [name for name in classes if plain(name) not in found]
    if missing:
        there = sorted({plain(name): name for name in others}.values())
        looked = " or ".join(str(folder / missing[0]) for folder in splits.values())
        names = ", ".join(map(printable, there[:_SHOWN])) + (", ..." if len(there) > _SHOWN else "")
        raise _MisfitError(
            f"{looked}: the class folder is missing (there are {names or 'no other folders'})", missing, there
        )
    files: list[ImageFile] = []
    for label, name in enumerate(classes):
        folders = found[plain(name)]
        of_class = [ImageFile(path, label, each.split) for each in folders for path in each.images]
        if not of_class:
            raise _without_images(root, folders[0].path)
        files += of_class
    return Listing(sorted(files, key=lambda file: file.path), labels, sorted(ignored))


def _without_images(root: Path, folder: Path) -> Exception:
    """The error for a class folder without images."""
    below = next((image for image in sorted(folder.rglob("*")) if is_image(image)), None)
    if below is not None:
        return UserError(
            f"{folder}: holds no image itself ({refusals.kinds_in(folder)}); its images are deeper, such as {below}; "
            f"move them into {folder}, or use {refusals.import_command(root)}"
        )
    suffixes = ", ".join(sorted(SUFFIXES))
    return _MisfitError(f"{folder}: holds no image ({suffixes}) but {refusals.kinds_in(folder)}; add some")


def _check_are_classes(root: Path, found: Mapping[str, Sequence[_ClassFolder]], others: Sequence[str]) -> None:
    """Check that the folders taken for classes, where none are named, do not look like something else.

    Raises:
        UserError: if some look like masks or labels, or all look like patients.
    """
    names = [folders[0].path.name for folders in found.values()]
    marks = [name for name in [*names, *others] if _ANNOTATIONS.fullmatch(plain(name))]
    classes = [name for name in names if name not in marks]
    if marks and len(marks) < len(names) + len(others):
        instead = f"for the images alone, use {refusals.named(classes)}" if classes else "move them away"
        raise UserError(
            f"{root}: data.classes=null takes all folders for classes, but {printable(marks[0])} looks like masks or "
            f"labels; {instead}"
        )
    numbered = [name for name in names if _NUMBERED.fullmatch(name)]
    stems = {re.sub(r"[\W\d_]", "", name).lower() for name in numbered}
    alike = len(numbered) == len(names) >= _MANY_NUMBERED and len(stems) == 1 and not stems <= _OF_CLASSES
    few = median(sum(len(each.images) for each in folders) for folders in found.values()) <= _FEW_IMAGES
    repeated = any(len(folders) > 1 for folders in found.values())
    if not repeated and (alike or (few and len(names) >= _MANY)):
        some = ", ".join(map(printable, sorted(names)[:_SHOWN]))
        raise UserError(
            f"{root}: data.classes=null takes all folders for classes, but these {len(names)} look like patients "
            f"({some}, ...); if so, use {refusals.import_command(root)}; if they are classes, list them in "
            "data.classes=[...]"
        )


def _split_folders(root: Path, named: Set[str], ignored: list[tuple[Path, str]]) -> dict[str, Path]:
    """The split folders in a root; empty if there are none.

    Args:
        root: the folder.
        named: the plain names of the classes, which are no splits.
        ignored: what else is there, with the reason, is added to this list.
    """
    splits: dict[str, Path] = {}
    others: list[Path] = []
    for entry in sorted(root.iterdir()):
        split = split_of(entry.name) if plain(entry.name) not in named and entry.is_dir() else None
        if split is None:
            others.append(entry)
        elif split in splits:
            raise UserError(f"{splits[split]} and {entry} both hold the {split} split; keep one of them")
        else:
            splits[split] = entry
    if not splits:
        return {}
    classes = {plain(name) for folder in splits.values() for name in _folders_in(folder)}
    for entry in [entry for entry in others if _is_visible(entry) and {*map(plain, _folders_in(entry))} & classes]:
        hinted = [split for split, words in _HINTS.items() if re.search(words, plain(entry.name))]
        if len(hinted) == 1 and hinted[0] not in splits:
            splits[hinted[0]] = entry
            others.remove(entry)
        else:
            ignored.append((entry, UNCLEAR))
            others.remove(entry)
    if "train" not in splits:
        other = next(iter(splits.values())).name
        raise UserError(f"{root} holds {other} but no Training folder; add it or point data.root elsewhere")
    ignored += [(entry, "hidden" if entry.name.startswith(".") else "not in a split folder") for entry in others]
    return {split: _unwrapped(splits[split], split) for split in SPLIT_FOLDERS if split in splits}


def split_of(name: str) -> str | None:
    """The split that a folder's name stands for."""
    return next((split for split, names in SPLIT_FOLDERS.items() if names.fullmatch(plain(name))), None)


def _unwrapped(folder: Path, split: str) -> Path:
    """A split folder or, if it holds nothing but another folder for that split (as some archives do), that folder."""
    inside = refusals.visible(folder)
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and split_of(inside[0].name) == split else folder


def _folders_in(folder: Path) -> list[str]:
    return [entry.name for entry in refusals.visible(folder) if entry.is_dir()] if folder.is_dir() else []


def _is_visible(entry: Path) -> bool:
    return not entry.name.startswith((".", "__"))


def plain(name: str) -> str:
    """A folder's name in lower case, without spaces, hyphens and underscores, and with composed accents."""
    return "".join(c for c in unicodedata.normalize("NFC", name).lower() if c not in " _-")


def shown(name: str) -> str:
    """A folder's name as a class name: accents composed, control characters and undecodable bytes escaped."""
    return printable(unicodedata.normalize("NFC", name))


def _images_in(folder: Path, choice: _Choice) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The images of a class folder, and what else is in it, with the reason why it is left out."""
    ignored: list[tuple[Path, str]] = []
    images = []
    for entry in sorted(folder.iterdir()):
        if not is_image(entry):
            hidden, is_folder = entry.name.startswith("."), entry.is_dir()
            ignored.append((entry, "hidden" if hidden else "a folder in a class folder" if is_folder else "no image"))
        elif choice.exclude is not None and re.search(choice.exclude, entry.relative_to(choice.root).as_posix()):
            ignored.append((entry, EXCLUDED))
        else:
            images.append(entry)
    masks = by_name(image.stem for image in images) if choice.masks == "drop" else {}
    ignored += [(image, MASK) for image in images if image.stem in masks]
    return [image for image in images if image.stem not in masks], ignored


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
        suffixes = ", ".join(sorted(SUFFIXES))
        raise UserError(
            f"images={path}: holds no image ({suffixes}) but {refusals.kinds_in(path)}; give another folder"
        )
    return files
