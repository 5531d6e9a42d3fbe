"""Split images into training, validation and test: by patient and group of near-copies, or by folder."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int
from numpy import ndarray

from vaegan_pl.data.connected import connected

SPLITS = ("train", "validation", "test")
FOLDS = 5
"""Folds of a cross-validation: one tests, the next one validates, and the others train."""

COPIES = ("drop", "weight")


@dataclass(frozen=True)
class Split:
    """Images by split.

    Attributes:
        groups: groups of near-copies by split; each lists the indices of its images.
        dropped: images left out because another image of their group is kept.
        conflicts: groups left out because their images have different labels.
    """

    groups: dict[str, list[list[int]]]
    dropped: list[int]
    conflicts: list[list[int]]

    def images(self, split: str) -> list[int]:
        """All images of a split."""
        return sorted(image for group in self.groups[split] for image in group)


def by_group(
    groups: Int[ndarray, " image"],
    labels: Int[ndarray, " image"],
    patients: Sequence[str],
    folds: Sequence[int],
    keys: Sequence[str],
    sizes: Sequence[int],
    shares: Mapping[str, float],
    fold: int | None,
    copies: str,
    seed: int,
) -> Split:
    """Split groups of near-copies: no group or patient is in two splits, and each class has its share in each.

    The order of patients depends on their pixels and the seed. Names, locations and the order of files do not matter,
    and adding an image moves few others. Validation and test keep one image of each group; so does training, unless
    `copies` is `weight`.

    Args:
        groups: the group of each image; negative for images to leave out.
        labels: the class of each image.
        patients: the patient of each image; groups with an empty name are split one by one.
        folds: the fold of each image, negative where none is given; images of a patient or a group have one fold.
        keys: a hash of the pixels of each image.
        sizes: number of pixels of each image; the largest image of a group is kept.
        shares: share of each class's patients in `validation` and in `test`; the rest is for training. A patient counts
            towards the class of most of their groups; in a tie, towards the first such class.
        fold: the test fold, below `FOLDS`; the next one is for validation. Patients without a fold are dealt to the
            folds, as many of each class to each. None uses `shares`.
        copies: `drop` or `weight`.
        seed: seed of the split.
    """
    members: dict[int, list[int]] = {}
    for image, group in enumerate(groups.tolist()):
        if group >= 0:
            members.setdefault(group, []).append(image)
    conflicts: list[list[int]] = []
    whole: list[list[int]] = []
    for group in members.values():
        group.sort(key=lambda image: (-sizes[image], keys[image], image))
        (whole if len({int(labels[image]) for image in group}) == 1 else conflicts).append(group)
    of_class: dict[int, list[list[list[int]]]] = {}
    for together in _of_one_patient(whole, patients):
        counts = Counter(int(labels[group[0]]) for group in together)
        label = min(counts, key=lambda label: (-counts[label], label))
        of_class.setdefault(label, []).append(together)
    split = Split({name: [] for name in SPLITS}, [], [sorted(group) for group in conflicts])
    for _, with_label in sorted(of_class.items()):
        with_label.sort(key=lambda together: _draw(min(keys[image] for group in together for image in group), seed))
        names = _by_share(len(with_label), shares) if fold is None else _by_fold(with_label, folds, fold)
        for name, together in zip(names, with_label, strict=True):
            for group in together:
                kept = group if name == "train" and copies == "weight" else group[:1]
                split.groups[name].append(kept)
                split.dropped.extend(group[len(kept) :])
    return split


def _by_share(n: int, shares: Mapping[str, float]) -> list[str]:
    """The split of each of `n` patients in order."""
    names = [name for name in ("validation", "test") for _ in range(max(1, round(shares[name] * n)))]
    return (names + ["train"] * (n - len(names)))[:n]


def _by_fold(patients: Sequence[list[list[int]]], folds: Sequence[int], fold: int) -> Iterator[str]:
    """The split of each patient in order, given by its groups."""
    given = [max(folds[image] for group in together for image in group) for together in patients]
    without, dealt = given.count(-1), 0
    for own in given:
        if own < 0:
            own, dealt = dealt * FOLDS // without, dealt + 1
        yield {fold: "test", (fold + 1) % FOLDS: "validation"}.get(own, "train")


def _of_one_patient(groups: Sequence[list[int]], patients: Sequence[str]) -> list[list[list[int]]]:
    """Lists of groups that share a patient, directly or through other groups."""
    first: dict[str, int] = {}
    edges = [
        (first.setdefault(patients[image], i), i)
        for i, group in enumerate(groups)
        for image in group
        if patients[image]
    ]
    together: dict[int, list[list[int]]] = {}
    for i, component in enumerate(connected(len(groups), edges).tolist()):
        together.setdefault(component, []).append(groups[i])
    return list(together.values())


def _draw(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()


def by_folder(folders: Sequence[str], readable: Bool[ndarray, " image"]) -> Split:
    """Every readable image in the split of its folder; without a validation folder, test images are used for both."""
    groups: dict[str, list[list[int]]] = {name: [] for name in SPLITS}
    for image, folder in enumerate(folders):
        if readable[image]:
            groups[folder].append([image])
    groups["validation"] = groups["validation"] or groups["test"]
    return Split(groups, [], [])


def leaking(split: Split, groups: Int[ndarray, " image"]) -> dict[str, list[int]]:
    """Validation and test images with a near-copy in training; test images only, if both are the same."""
    trained = {int(groups[image]) for image in split.images("train")}
    names = ["test"] if split.groups["validation"] == split.groups["test"] else ["validation", "test"]
    return {name: [i for i in split.images(name) if int(groups[i]) in trained] for name in names}
