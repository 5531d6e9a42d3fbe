"""Find near-copies: the same image re-encoded, mirrored, rotated by 180° or changed in brightness."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vaegan_pl.progress import track

COMPARED_SIDE = 64
"""Side in pixels at which images are compared, independent of `data.image_size`."""

TURNS: dict[str, Callable[[ndarray], ndarray]] = {
    "same way up": lambda images: images,
    "mirrored": lambda images: images[..., :, ::-1],
    "upside down": lambda images: images[..., ::-1, :],
    "rotated by 180°": lambda images: images[..., ::-1, ::-1],
}
"""Orientations in which an image can match its copy. Each is its own inverse, so the order of the two is irrelevant."""

_BLOCK = 512
_SLACK = 1e-4

Compared = UInt8[ndarray, "image 64 64"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of near-copies.

    Attributes:
        first: index of the first image of each pair.
        second: index of the second image, larger than `first`.
        turn: index into `TURNS` of the orientation in which they match; a pair can occur once for each.
    """

    first: Int32[ndarray, " pair"]
    second: Int32[ndarray, " pair"]
    turn: Int32[ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.first)

    def groups(self, n: int) -> Int32[ndarray, " image"]:
        """Group number, from 0, of each of `n` images: images connected by pairs or chains of pairs share a group."""
        return connected(n, np.stack([self.first, self.second], axis=1))

    def between_patients(self, patients: Sequence[str], keys: Sequence[str]) -> "Pairs":
        """The pairs of different or unknown patients, and pairs of identical pixels.

        Neighbouring slices of a patient are similar without being copies.
        """
        kept = np.array(
            [
                patients[i] != patients[j] or not patients[i] or keys[i] == keys[j]
                for i, j in zip(self.first.tolist(), self.second.tolist(), strict=True)
            ],
            dtype=bool,
        )
        return Pairs(self.first[kept], self.second[kept], self.turn[kept])

    def only(self, turns: Sequence[str]) -> "Pairs":
        """The pairs that match in one of the given orientations."""
        kept = np.isin(self.turn, [list(TURNS).index(turn) for turn in turns])
        return Pairs(self.first[kept], self.second[kept], self.turn[kept])


def find_pairs(images: Compared, keys: Sequence[str], correlation: float | None) -> Pairs:
    """Pairs whose Pearson correlation, in one of `TURNS`, is at least `correlation`, and pairs with equal keys.

    The correlation is over pixels at `COMPARED_SIDE`, so brightness and contrast do not matter. A constant image has no
    correlation and is a copy only of images of equal key. All pairs are compared, so the time grows with the square of
    the number of images. Averages of 2 x 2 pixels are compared first. With P the projection onto them and Q = 1 - P,
    <a, b> <= <Pa, Pb> + |Qa| |Qb|. This leaves few pairs to compare at full size, and misses none.

    Args:
        images: grey values 0..255; may be memory-mapped.
        keys: a hash of the pixels of each image; empty for unreadable images.
        correlation: smallest correlation of near-copies, in (0, 1); None finds pairs of equal keys only.
    """
    pairs = [_equal_keys(keys)]
    varied = np.flatnonzero([image.min() < image.max() for image in images])
    if correlation is not None and len(varied) > 0:
        blocks = range(0, len(varied), _BLOCK)
        coarse = np.concatenate([_halved(_standardised(images[varied[i : i + _BLOCK]])) for i in blocks])
        rest = np.sqrt((1 - np.square(coarse).sum((1, 2))).clip(0))
        turned = [np.ascontiguousarray(turn(coarse)).reshape(len(coarse), -1) for turn in TURNS.values()]
        for start in track(blocks, "comparing", "block"):
            block = slice(start, start + _BLOCK)
            for turn, others in enumerate(turned):
                bound = turned[0][block] @ others[start:].T + np.outer(rest[block], rest[start:])
                rows, columns = np.nonzero(bound >= correlation - _SLACK)
                first, second = varied[rows + start], varied[columns + start]
                later = second > first
                pairs.append(_confirmed(images, first[later], second[later], turn, correlation))
    first, second, turn = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return Pairs(first, second, turn)


def _equal_keys(keys: Sequence[str]) -> Int32[ndarray, "3 pair"]:
    newest: dict[str, int] = {}
    pairs = []
    for i, key in enumerate(keys):
        if not key:
            continue
        if key in newest:
            pairs.append((newest[key], i, 0))
        newest[key] = i
    return np.array(pairs, dtype=np.int32).reshape(-1, 3).T


def _standardised(images: Compared) -> Float32[ndarray, "image 64 64"]:
    """Images with mean 0 and norm 1, whose inner products are correlations."""
    centred = images.astype(np.float32)
    centred -= centred.mean((1, 2), keepdims=True)
    return np.asarray(centred / np.sqrt(np.square(centred).sum((1, 2), keepdims=True)))


def _halved(images: Float32[ndarray, "image 64 64"]) -> Float32[ndarray, "image 32 32"]:
    """Coordinates in the orthonormal basis of 2 x 2 averages."""
    side = COMPARED_SIDE // 2
    return np.asarray(images.reshape(-1, side, 2, side, 2).sum((2, 4)) / 2)


def _confirmed(
    images: Compared, first: Int64[ndarray, " pair"], second: Int64[ndarray, " pair"], turn: int, correlation: float
) -> Int32[ndarray, "3 pair"]:
    """The candidates that correlate at full size."""
    turned = list(TURNS.values())[turn]
    kept = np.zeros(len(first), dtype=bool)
    for i in range(0, len(first), _BLOCK):
        chunk = slice(i, i + _BLOCK)
        a, b = _standardised(images[first[chunk]]), _standardised(turned(images[second[chunk]]))
        kept[chunk] = np.einsum("nij,nij->n", a, b) >= correlation
    return np.stack([first[kept], second[kept], np.full(kept.sum(), turn)]).astype(np.int32)


def connected(n: int, edges: Sequence[tuple[int, int]] | Int32[ndarray, "edge 2"]) -> Int32[ndarray, " node"]:
    """Number, from 0, of the connected component of each of `n` nodes."""
    first, second = np.asarray(edges, dtype=np.int32).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])
