"""A folder of images as a whole: its files, near-copies and splits."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy import ndarray

from vaegan_pl.data import dicom, figshare
from vaegan_pl.data.copies import TURNS
from vaegan_pl.data.folders import EXCLUDED, MASK, NO_SPLIT, UNCLEAR, Listing, list_images
from vaegan_pl.data.masks import by_content
from vaegan_pl.data.patients import UNKNOWN, Patients, families, from_paths, from_table, imported_table
from vaegan_pl.data.phantoms import PHANTOM_MARKER
from vaegan_pl.data.prepared import Decoding, Prepared, prepare
from vaegan_pl.data.splits import FOLDS, SPLITS, Split, by_folder, by_group, leaking
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import printable

log = logging.getLogger(__name__)

RESPLIT = ("validation_fraction", "test_fraction", "fold", "copies", "seed")
"""Options of a split that leave groups, patients and published folds as they are."""

_NAMED = 5
_LOOKED_AT = 20
DARK, LIGHT = 64, 224
"""An image is nearly black if its brightest pixel is below the first grey value, nearly white if its mean is above the
second."""

_LEAST_SHARE, _EXAMINED = 0.1, 2000
"""Share of nearly black or white images that is reported, and the number of images that are examined."""

_CHAIN = 0.04
"""How much below the least correlation of near-copies the ends of a chain may be."""


@dataclass(frozen=True)
class Splitting:
    """How images are split.

    Attributes:
        by: `group` pools all folders and splits by groups of near-copies; `official` keeps the folders' own split.
        validation_fraction: share of each class's groups (or patients) for validation, if `by` is `group`.
        test_fraction: share of each class's groups (or patients) for testing, if `by` is `group`.
        patient: regular expression whose first group matches the patient in an image's path inside the folder; None if
            paths do not contain it.
        patients: table of files and patients; see `patients.from_table`. None if there is none.
        unknown_patients: what images are that the table does not list: an `error`, or `alone`, each a patient.
        published: whether to recognise published slices and split them by their authors' folds; see `figshare`.
        families: whether files and their augmentations, by their names, stay together; see `patients.families`.
        fold: the fold that tests; see `splits.by_group`. None uses the fractions, and fold 0 if slices are recognised.
        copies: `drop` or `weight`; see `splits.by_group`.
        seed: seed of the split.
    """

    by: str
    validation_fraction: float
    test_fraction: float
    patient: str | None
    patients: str | None
    unknown_patients: str
    published: bool
    families: bool
    fold: int | None
    copies: str
    seed: int

    @property
    def facts(self) -> dict[str, str | int | float | None]:
        """The options in plain values, for model files and records, without the folder of the table."""
        return {**vars(self), "patients": None if self.patients is None else printable(Path(self.patients).name)}


@dataclass(frozen=True)
class Collection:
    """All images of a folder.

    Attributes:
        root: the folder.
        listing: the files; all indices refer to their order.
        decoding: how they were read.
        prepared: the decoded images.
        masks: the files that are masks by their values, and are left out; see `masks.by_content`.
        groups: the group of near-copies of each file, counted from 0; negative for unreadable files and masks.
        patients: the patient of each file, if known.
        folds: the authors' fold of each file that shows a published slice; -1 for other files.
        fold: the test fold; None if the fractions decide.
        splitting: how they were split.
        split: the images of each split.
    """

    root: Path
    listing: Listing
    decoding: Decoding
    prepared: Prepared
    masks: list[int]
    groups: Int32[ndarray, " file"]
    patients: Patients
    folds: list[int]
    fold: int | None
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
            if self.groups[i] >= 0
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
        return _of_several(self.groups)

    @property
    def _same_frame(self) -> list[list[int]]:
        """`copies` without those that only registration finds."""
        pairs = self.prepared.pairs.same_frame
        if self.patients.known:
            pairs = pairs.between_patients(self.patients.of, self.prepared.keys)
        return _of_several(np.where(self.groups < 0, -1, pairs.groups(len(self.groups))))

    @property
    def conflicts(self) -> list[list[int]]:
        """Groups in `copies` whose images have more than one label, whether or not the split leaves them out."""
        return [group for group in self.copies if len({int(self.labels[image]) for image in group}) > 1]

    def together(self, images: Sequence[int]) -> list[str]:
        """What images belong to: a patient if they are known, otherwise a group of near-copies."""
        codes = [slice_.patient for slice_ in figshare.slices()] + [""]
        published = [codes[self.prepared.slices[i]] if self.folds[i] >= 0 else "" for i in images]
        named = [self.patients.of[i] or code for i, code in zip(images, published, strict=True)]
        return [f"patient {name}" if name else f"group {self.groups[i]}" for i, name in zip(images, named, strict=True)]

    def other_split(self, **options: Any) -> Split:
        """The split that other values of the options in `RESPLIT` give, with the same groups and patients."""
        splitting = replace(self.splitting, **options)
        return _split(self.listing, self.prepared, self.groups, self.patients, self.folds, splitting)[1]

    @cached_property
    def leaking(self) -> dict[str, list[int]]:
        """See `splits.leaking`."""
        return leaking(self.split, self.groups)

    def counts(self, split: str) -> dict[str, int]:
        """Number of groups in a split by class; each epoch uses one image of each group."""
        labels = [self.listing.files[group[0]].label for group in self.split.groups[split]]
        return {name: labels.count(label) for label, name in enumerate(self.listing.classes)}

    @property
    def keeps_apart(self) -> str:
        """What is in one split only: `patients` as far as they are known, `pictures`, or `nothing`."""
        if self.splitting.by == "official":
            return "nothing"
        return "patients" if self.patients.known or max(self.folds) >= 0 else "pictures"

    @property
    def split_by(self) -> str:
        """What the splits keep apart, in a sentence: patients, or only pictures."""
        n, published = len(self.folds), sum(fold >= 0 for fold in self.folds)
        if self.splitting.by == "official":
            return "the folders' own split"
        folds = "" if self.fold is None else f"; fold {self.fold} tests, fold {(self.fold + 1) % FOLDS} validates"
        if published:
            others = f"; the patients of the other {n - published:,} images are unknown" if published < n else ""
            return (
                f"patients: {published:,} images are slices of Cheng et al., in their folds by patient{folds}{others}"
            )
        if self.patients.known:
            unknown = self.patients.of.count(UNKNOWN)
            others = f"; {unknown:,} images of unknown patients count as one patient each" if unknown else ""
            return f"{self.patients}{folds}{others}"
        if self.is_phantom:
            return f"pictures{folds}"
        return (
            f"pictures{folds}; patients unknown: figures on held-out images are those of new pictures, not of new "
            "patients"
        )

    @cached_property
    def warnings(self) -> list[str]:
        """What the user should know of the split: lost images, chains of similar images, augmented files."""
        found = []
        known = self.patients.known
        if known and len(self.folds) > 1 and len(set(self.patients.of)) == len(self.folds):
            found.append("every image has a patient of its own: data.patient or data.patients groups no images")
        published = max(self.folds) >= 0
        for label, name in enumerate(self.listing.classes):
            own = self.groups[(self.labels == label) & (self.groups >= 0)]
            few = len(own) > 1 and 2 * len(np.unique(own)) < len(own)
            if few and not published and self.splitting.by == "group" and self.splitting.copies == "drop":
                found.append(
                    f"{name}: only {len(np.unique(own)):,} of {len(own):,} images are kept, without near-copies. "
                    "If these are slices of volumes, name the patients (data.patients, data.patient): slices of a "
                    "patient are kept"
                )
        chains = [] if published else [group for group in self._same_frame[:_LOOKED_AT] if self._is_chain(group)]
        if chains:
            found.append(
                f"{len(chains)} groups of near-copies are chains: their ends are not alike, such as "
                f"{self.name(chains[0][0])} and {self.name(chains[0][-1])}. If these are slices of volumes, name the "
                "patients; otherwise raise data.near_copy_correlation"
            )
        if not self.splitting.families and not known and not self.is_phantom:
            named = families([self._path(i) for i in range(len(self.folds))])
            several = [i for i, family in enumerate(named) if family]
            if several:
                sibling = next(i for i in several[1:] if named[i] == named[several[0]])
                found.append(
                    f"{len(several):,} files look like augmentations of each other by their names, such as "
                    f"{self.name(several[0])} and {self.name(sibling)}; data.families=true keeps them in one split"
                )
        return [*found, *self._unseen()]

    @property
    def notes(self) -> list[str]:
        """What was left out or changed: masks, unknown folders, colours, and files that `data.exclude` leaves out."""
        ignored = self.listing.ignored
        by_name, excluded, unclear = ([p for p, why in ignored if why == r] for r in (MASK, EXCLUDED, UNCLEAR))
        notes = [f"{self.shown(folder)} is left out: it {UNCLEAR}; rename it to use it" for folder in unclear]
        for masks, how in (
            (by_name, "their names"),
            ([self.listing.files[i].path for i in self.masks], "having two values"),
        ):
            if masks:
                notes.append(
                    f"{len(masks):,} files are left out as masks by {how}, such as {self.shown(masks[0])}; "
                    "data.masks=keep keeps them"
                )
        if excluded:
            notes.append(f"{len(excluded):,} files are left out by data.exclude, such as {self.shown(excluded[0])}")
        coloured = sum(self.prepared.coloured)
        if coloured:
            notes.append(
                f"{coloured:,} of {len(self.folds):,} files are in colour and become grey; there are no RGB models"
            )
        return notes

    def _unseen(self) -> list[str]:
        """Images that come out nearly black or white, with what helps."""
        kinds: dict[str, list[int]] = {}
        for i, file in enumerate(self.listing.files):
            if self.groups[i] >= 0:
                is_slice = file.path.suffix.lower() in dicom.SUFFIXES
                kind = (
                    "DICOM slices" if is_slice else "images of more than 8 bits" if self.prepared.peaks[i] else "other"
                )
                kinds.setdefault(kind, []).append(i)
        found = []
        for kind, own in kinds.items():
            examined = np.array(own[:: -(-len(own) // _EXAMINED)])
            pixels = self.prepared.images[examined]
            for extreme, are in (("black", pixels.max((1, 2)) < DARK), ("white", pixels.mean((1, 2)) > LIGHT)):
                if are.mean() > _LEAST_SHARE:
                    example = self.name(int(examined[are][0]))
                    found.append(
                        f"{are.mean():.0%} of {len(own):,} {kind if kind != 'other' else 'images'} come out nearly "
                        f"{extreme}, such as {example}; {self._instead(kind)}"
                    )
        return found

    def _instead(self, kind: str) -> str:
        """The options that make such images visible, without those that are already set."""
        if kind == "other":
            return "if these are masks or label maps, leave them out with data.exclude=PATTERN"
        options = [] if self.decoding.range == "percentile" else ["data.range=percentile"]
        white = min(2 ** max(self.prepared.peaks).bit_length(), 2**16) - 1
        if kind != "DICOM slices" and self.decoding.range == "fixed" and white != self.decoding.white:
            options.insert(0, f"data.white={white}")
        return f"try {' or '.join(options)}" if options else "look at them in the data report"

    def _is_chain(self, group: list[int]) -> bool:
        """Whether two images of a group of near-copies in the same frame are not alike, in any position."""
        correlation = self.decoding.near_copy_correlation
        if correlation is None or len(group) < 3:
            return False
        images = self.prepared.images[group].astype(np.float32)
        images -= images.mean((1, 2), keepdims=True)
        images /= np.maximum(np.sqrt(np.square(images).sum((1, 2), keepdims=True)), 1e-6)
        alike = [np.einsum("ij,nij->n", turn(images)[0], images) for turn in TURNS.values()]
        return bool(np.max(alike, axis=0).min() < correlation - _CHAIN)

    def summary(self) -> list[str]:
        """The main figures, one line each."""
        lines = [f"  split by   {self.split_by}"]
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
                ("masks", len(self.masks)),
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
        lines += [f"  note       {note}" for note in self.notes]
        lines += [f"  WARNING    {warning}" for warning in self.warnings]
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

    def _path(self, image: int) -> str:
        return self.listing.files[image].path.relative_to(self.root).as_posix()

    def shown(self, path: Path) -> str:
        """A path relative to the folder, safe to print."""
        return printable(path.relative_to(self.root).as_posix())


def _of_several(groups: Int32[ndarray, " file"]) -> list[list[int]]:
    members = defaultdict(list)
    for image, group in enumerate(groups.tolist()):
        if group >= 0:
            members[group].append(image)
    return sorted((m for m in members.values() if len(m) > 1), key=lambda group: (-len(group), group))


def collect(
    root: Path,
    classes: Sequence[str] | None,
    aliases: Mapping[str, str],
    exclude: str | None,
    masks: str,
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
        exclude: what is left out; see `folders.list_images`.
        masks: `drop` leaves out masks, by their names and by their values; `keep` takes them for images.
        decoding: how files become images.
        splitting: how they are split.
        max_unreadable: largest share of files that may be unreadable, in [0, 1].
        cache: where decoded images are kept; see `prepared.prepare`.

    Raises:
        UserError: if a folder or file cannot be used, or a class has too few images to split.
    """
    listing = list_images(root, classes, aliases, exclude, masks)
    folders = [file.folder for file in listing.files]
    given = splitting.patient is not None or splitting.patients is not None or splitting.fold is not None
    if splitting.by == "official" and (given or splitting.copies == "weight"):
        without = "data.patient, data.patients, data.fold and data.copies have no effect with it"
        raise UserError(f"data.split=official: {without}; leave them out")
    if splitting.by == "official" and set(folders) <= {NO_SPLIT, "train"}:
        raise UserError(
            f"data.split=official: {root} has no Testing or validation folder next to Training; use data.split=group"
        )
    paths = [file.path for file in listing.files]
    prepared = prepare(root, paths, decoding, cache)
    _check_unreadable(paths, prepared.unreadable, max_unreadable)
    of_values = by_content(prepared.levels) if masks == "drop" else []
    usable = np.array([bool(key) for key in prepared.keys])
    usable[of_values] = False
    patients = _patients(root, [path.relative_to(root).as_posix() for path in paths], splitting, prepared)
    pairs = prepared.pairs.between_patients(patients.of, prepared.keys) if patients.known else prepared.pairs
    groups = np.where(usable, pairs.groups(len(paths)), -1).astype(np.int32)
    published = splitting.published and splitting.by == "group" and not patients.known
    slices = figshare.slices()
    folds = [slices[i].fold if published and i >= 0 else -1 for i in prepared.slices.tolist()]
    fold, split = _split(listing, prepared, groups, patients, folds, splitting)
    collection = Collection(
        root, listing, decoding, prepared, of_values, groups, patients, folds, fold, splitting, split
    )
    _check_empty(collection)
    return collection


def _split(
    listing: Listing,
    prepared: Prepared,
    groups: Int32[ndarray, " file"],
    patients: Patients,
    folds: Sequence[int],
    splitting: Splitting,
) -> tuple[int | None, Split]:
    """The test fold, and the split."""
    fold = 0 if splitting.fold is None and max(folds) >= 0 else splitting.fold
    if splitting.by == "official":
        return fold, by_folder([file.folder for file in listing.files], groups >= 0)
    return fold, by_group(
        groups,
        np.array([file.label for file in listing.files]),
        patients.of,
        folds,
        prepared.keys,
        [height * width for height, width in prepared.shapes],
        {"validation": splitting.validation_fraction, "test": splitting.test_fraction},
        fold,
        splitting.copies,
        splitting.seed,
    )


def _patients(root: Path, paths: Sequence[str], splitting: Splitting, prepared: Prepared) -> Patients:
    """The patients of images by the first source that there is: options, the folder's import, DICOM files, file names.

    Raises:
        UserError: for a table or an expression that does not fit the images.
    """
    if splitting.patients is not None:
        return Patients(from_table(Path(splitting.patients), paths, splitting.unknown_patients == "alone"), "table")
    if splitting.patient is not None:
        return Patients(from_paths(splitting.patient, paths), "paths")
    table = imported_table(root) if splitting.by == "group" else None
    if table is not None:
        log.info("patients are those of %s, which import_images wrote", table)
        return Patients(from_table(table, paths, unknown_alone=True), "table")
    if len(set(prepared.patients) - {UNKNOWN}) > 1:  # a single ID stands for none: files are anonymised like that
        return Patients(prepared.patients, "DICOM")
    if splitting.families and any(named := families(paths)):
        return Patients(named, "families")
    return Patients([UNKNOWN] * len(paths), "")


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
            whole = " and whole patients" if collection.patients.source else ""
            shares = f"data.validation_fraction={how.validation_fraction:g}, data.test_fraction={how.test_fraction:g}"
            parts = shares if collection.fold is None else f"{FOLDS} folds (data.fold={collection.fold})"
            raise UserError(
                f"{collection.root}: the {different} different images of {name} leave none for {split}, "
                f"with {parts}{whole}; add images, change these options, or leave the class out of data.classes"
            )
