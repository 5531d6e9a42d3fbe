"""Which images train, validate and test: by group of near-copies, or as the folders say."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Int
from numpy import ndarray

SPLITS = ("train", "validation", "test")
COPIES = ("drop", "weight")


@dataclass(frozen=True)
class Split:
    """Images by split.

    Attributes:
        groups: for each split its groups of near-copies, each the indices of the images that may stand for it.
        dropped: images left out because another of their group stands for them.
        conflicts: groups left out because their images carry different labels.
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
    keys: Sequence[str],
    sizes: Sequence[int],
    shares: Mapping[str, float],
    copies: str,
    seed: int,
) -> Split:
    """Split groups of near-copies, so that none is in two splits and each class has its share in each.

    Which split a group falls into follows from its pixels and the seed alone: names, places and order of files do not
    matter, and an added image moves few others. Validation and test keep one image of each group; so does training,
    unless `copies` is `weight`.

    Args:
        groups: the group of each image; negative for images that are left out.
        labels: the class of each image.
        keys: a hash of the pixels of each image.
        sizes: pixels of each image; the largest of a group stands for it.
        shares: share of each class's groups in `validation` and in `test`; the rest trains.
        copies: `drop` or `weight`.
        seed: seed of the split.
    """
    members: dict[int, list[int]] = {}
    for image, group in enumerate(groups.tolist()):
        if group >= 0:
            members.setdefault(group, []).append(image)
    conflicts, of_class = [], dict[int, list[list[int]]]()
    for group in members.values():
        group.sort(key=lambda image: (-sizes[image], keys[image], image))
        if len({int(labels[image]) for image in group}) > 1:
            conflicts.append(sorted(group))
        else:
            of_class.setdefault(int(labels[group[0]]), []).append(group)
    split = Split({name: [] for name in SPLITS}, [], conflicts)
    for _, with_label in sorted(of_class.items()):
        with_label.sort(key=lambda group: _draw(min(keys[image] for image in group), seed))
        start = 0
        for name in ("validation", "test", "train"):
            stop = len(with_label) if name == "train" else start + max(1, round(shares[name] * len(with_label)))
            for group in with_label[start:stop]:
                kept = group if name == "train" and copies == "weight" else group[:1]
                split.groups[name].append(kept)
                split.dropped.extend(group[len(kept) :])
            start = stop
    return split


def _draw(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()


def by_folder(folders: Sequence[str], readable: Bool[ndarray, " image"]) -> Split:
    """Every readable image in the split of its folder. Without a validation folder, the test images validate too."""
    groups: dict[str, list[list[int]]] = {name: [] for name in SPLITS}
    for image, folder in enumerate(folders):
        if readable[image]:
            groups[folder].append([image])
    groups["validation"] = groups["validation"] or groups["test"]
    return Split(groups, [], [])


def leaking(split: Split, groups: Int[ndarray, " image"]) -> dict[str, list[int]]:
    """Images of validation and test with a near-copy among the training images."""
    trained = {int(groups[image]) for image in split.images("train")}
    return {name: [i for i in split.images(name) if int(groups[i]) in trained] for name in ("validation", "test")}
