"""Split images into training, validation and test: by patient and group of near-copies, or by folder."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int
from numpy import ndarray

from vaegan_pl.data.copies import connected

SPLITS = ("train", "validation", "test")
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
    keys: Sequence[str],
    sizes: Sequence[int],
    shares: Mapping[str, float],
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
        keys: a hash of the pixels of each image.
        sizes: number of pixels of each image; the largest image of a group is kept.
        shares: share of each class's patients in `validation` and in `test`; the rest is for training. A patient counts
            towards the class of most of their groups; in a tie, towards the first such class.
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
        start = 0
        for name in ("validation", "test", "train"):
            stop = len(with_label) if name == "train" else start + max(1, round(shares[name] * len(with_label)))
            for group in (group for together in with_label[start:stop] for group in together):
                kept = group if name == "train" and copies == "weight" else group[:1]
                split.groups[name].append(kept)
                split.dropped.extend(group[len(kept) :])
            start = stop
    return split


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
