"""A folder of images as a whole: its files, near-copies and splits."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from numpy import ndarray

from vaegan_pl.data.folders import NO_SPLIT, Listing, list_images
from vaegan_pl.data.phantoms import PHANTOM_MARKER
from vaegan_pl.data.prepared import Decoding, Prepared, prepare
from vaegan_pl.data.splits import SPLITS, Split, by_folder, by_group, leaking
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import printable

_NAMED = 5


@dataclass(frozen=True)
class Splitting:
    """How images are split.

    Attributes:
        by: `group` pools all folders and splits by groups of near-copies; `official` keeps the folders' own split.
        validation_fraction: share of each class's groups (or patients) for validation, if `by` is `group`.
        test_fraction: share of each class's groups (or patients) for testing, if `by` is `group`.
        patient: regular expression whose first group matches the patient in an image's path inside the folder; None if
            paths do not contain it.
        copies: `drop` or `weight`; see `splits.by_group`.
        seed: seed of the split.
    """

    by: str
    validation_fraction: float
    test_fraction: float
    patient: str | None
    copies: str
    seed: int


@dataclass(frozen=True)
class Collection:
    """All images of a folder.

    Attributes:
        root: the folder.
        listing: the files; all indices refer to their order.
        decoding: how they were read.
        prepared: the decoded images.
        groups: the group of near-copies of each file, counted from 0; negative for unreadable files.
        splitting: how they were split.
        split: the images of each split.
    """

    root: Path
    listing: Listing
    decoding: Decoding
    prepared: Prepared
    groups: Int32[ndarray, " file"]
    splitting: Splitting
    split: Split

    @cached_property
    def labels(self) -> Int32[ndarray, " file"]:
        """Class index of each file."""
        return np.array([file.label for file in self.listing.files], dtype=np.int32)

    @property
    def is_phantom(self) -> bool:
        """Whether the images are phantoms: the marker file is in the folder or in one above it."""
        root = self.root.resolve()
        return any((folder / PHANTOM_MARKER).exists() for folder in (root, *root.parents))

    def fingerprint(self, images: Iterable[int] | None = None) -> str:
        """SHA-256 over the sorted classes and pixel hashes of images, all by default; independent of their paths."""
        chosen = range(len(self.listing.files)) if images is None else images
        lines = (
            f"{self.listing.classes[self.listing.files[i].label]} {self.prepared.keys[i]}\n"
            for i in chosen
            if self.prepared.keys[i]
        )
        return hashlib.sha256("".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()

    def order(self) -> str:
        """SHA-256 over the images of each split in order; if two are equal, training sees the same batches."""
        held = {
            split: [
                [(self.prepared.keys[image], int(self.labels[image])) for image in group] for group in sorted(groups)
            ]
            for split, groups in self.split.groups.items()
        }
        return hashlib.sha256(json.dumps([self.listing.classes, held]).encode(errors="surrogateescape")).hexdigest()

    @cached_property
    def copies(self) -> list[list[int]]:
        """Groups of more than one image, largest first."""
        members = defaultdict(list)
        for image, group in enumerate(self.groups.tolist()):
            if group >= 0:
                members[group].append(image)
        return sorted((m for m in members.values() if len(m) > 1), key=lambda group: (-len(group), group))

    @property
    def conflicts(self) -> list[list[int]]:
        """Groups in `copies` whose images have more than one label, whether or not the split leaves them out."""
        return [group for group in self.copies if len({int(self.labels[image]) for image in group}) > 1]

    @cached_property
    def leaking(self) -> dict[str, list[int]]:
        """See `splits.leaking`."""
        return leaking(self.split, self.groups)

    def counts(self, split: str) -> dict[str, int]:
        """Number of groups in a split by class; each epoch uses one image of each group."""
        labels = [self.listing.files[group[0]].label for group in self.split.groups[split]]
        return {name: labels.count(label) for label, name in enumerate(self.listing.classes)}

    def summary(self) -> list[str]:
        """The main figures, one line each."""
        lines = []
        for split in SPLITS:
            counts = self.counts(split)
            classes = ", ".join(f"{n} {name}" for name, n in counts.items())
            lines.append(f"  {split:<10} {sum(counts.values())} images: {classes}")
        conflicting = sum(len(group) for group in self.split.conflicts)
        out = [
            f"{what} {n}"
            for what, n in (
                ("near-copies", len(self.split.dropped)),
                ("images with a copy under another label", conflicting),
                ("unreadable files", len(self.prepared.unreadable)),
                ("other files and folders", len(self.listing.ignored)),
            )
            if n
        ]
        if out:
            lines.append(f"  left out   {', '.join(out)}")
        unreadable = list(self.prepared.unreadable.items())
        lines += [f"  unreadable {self.name(i)}: {reason}" for i, reason in unreadable[:_NAMED]]
        if len(unreadable) > _NAMED:
            lines.append(f"  unreadable ... and {len(unreadable) - _NAMED} more")
        for split, images in self.leaking.items():
            if images:
                n = len(self.split.groups[split])
                lines.append(
                    f"  LEAKS      {len(images)} of {n} {split} images ({len(images) / n:.0%}) have a near-copy among "
                    "the training images, so results on them are too good; data.split=group removes all"
                )
        return lines

    def name(self, image: int) -> str:
        """Path of an image relative to the folder, safe to print."""
        return self.shown(self.listing.files[image].path)

    def shown(self, path: Path) -> str:
        """A path relative to the folder, safe to print."""
        return printable(path.relative_to(self.root).as_posix())


def collect(
    root: Path,
    classes: Sequence[str] | None,
    aliases: Mapping[str, str],
    decoding: Decoding,
    splitting: Splitting,
    max_unreadable: float,
    cache: Path,
) -> Collection:
    """List, read, compare and split the images of a folder.

    Args:
        root: the folder; see `folders.list_images`.
        classes: class names in label order; see `folders.list_images`.
        aliases: other names of class folders; see `folders.list_images`.
        decoding: how files become images.
        splitting: how they are split.
        max_unreadable: largest share of files that may be unreadable, in [0, 1].
        cache: where decoded images are kept; see `prepared.prepare`.

    Raises:
        UserError: if a folder or file cannot be used, or a class has too few images to split.
    """
    listing = list_images(root, classes, aliases)
    folders = [file.folder for file in listing.files]
    if splitting.by == "official" and (splitting.patient is not None or splitting.copies == "weight"):
        raise UserError("data.split=official: data.patient and data.copies have no effect with it; leave them out")
    if splitting.by == "official" and set(folders) <= {NO_SPLIT, "train"}:
        raise UserError(
            f"data.split=official: {root} has no Testing or validation folder next to Training; use data.split=group"
        )
    paths = [file.path for file in listing.files]
    prepared = prepare(root, paths, decoding, cache)
    _check_unreadable(paths, prepared.unreadable, max_unreadable)
    readable = np.array([bool(key) for key in prepared.keys])
    groups = np.where(readable, prepared.pairs.groups(len(paths)), -1).astype(np.int32)
    labels = np.array([file.label for file in listing.files])
    if splitting.by == "official":
        split = by_folder(folders, readable)
    else:
        shares = {"validation": splitting.validation_fraction, "test": splitting.test_fraction}
        sizes = [height * width for height, width in prepared.shapes]
        patients = _patients(root, paths, splitting.patient)
        split = by_group(groups, labels, patients, prepared.keys, sizes, shares, splitting.copies, splitting.seed)
    collection = Collection(root, listing, decoding, prepared, groups, splitting, split)
    _check_empty(collection)
    return collection


def _patients(root: Path, paths: Sequence[Path], pattern: str | None) -> list[str]:
    if pattern is None:
        return [""] * len(paths)
    found = []
    for path in paths:
        match = re.search(pattern, path.relative_to(root).as_posix())
        if match is None or not match[1]:
            raise UserError(
                f"data.patient={pattern}: matches no patient in {path.relative_to(root)}; correct the expression"
            )
        found.append(match[1])
    return found


def _check_unreadable(paths: Sequence[Path], unreadable: Mapping[int, str], allowed: float) -> None:
    if len(unreadable) > allowed * len(paths):
        shown = list(unreadable.items())[:_NAMED]
        raise UserError(
            f"{len(unreadable)} of {len(paths)} image files cannot be read, more than data.max_unreadable={allowed:g} "
            "allows; replace them, move them away, or raise data.max_unreadable:\n"
            + "\n".join(f"  {paths[i]}: {reason}" for i, reason in shown)
            + ("\n  ..." if len(unreadable) > len(shown) else "")
        )


def _check_empty(collection: Collection) -> None:
    how = collection.splitting
    for split in SPLITS:
        if split == "test" and not collection.split.groups[split]:
            continue  # folders with their own validation split need no test split
        for name, n in collection.counts(split).items():
            if n > 0:
                continue
            if how.by == "official":
                raise UserError(
                    f"{collection.root}: the folders contain no readable {split} image of {name}; add some, or use "
                    "data.split=group"
                )
            of_class = collection.groups[collection.labels == collection.listing.classes.index(name)]
            different = len(np.unique(of_class[of_class >= 0]))
            whole = "" if how.patient is None else " and whole patients"
            raise UserError(
                f"{collection.root}: the {different} different images of {name} leave none for {split}, "
                f"with data.validation_fraction={how.validation_fraction:g}, data.test_fraction={how.test_fraction:g}"
                f"{whole}; add images, change the fractions, or leave the class out of data.classes"
            )
