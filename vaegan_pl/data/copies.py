"""Near-copies: images that are the same picture re-encoded, mirrored, turned or changed in brightness."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vaegan_pl.progress import track

COMPARED_SIDE = 64
"""Side in pixels at which images are compared, whatever size they are trained at."""

TURNS: dict[str, Callable[[ndarray], ndarray]] = {
    "same way up": lambda images: images,
    "mirrored": lambda images: images[..., :, ::-1],
    "upside down": lambda images: images[..., ::-1, :],
    "turned by 180°": lambda images: images[..., ::-1, ::-1],
}
"""How one image may lie against its copy. Each undoes itself, so the order of the two does not matter."""

_BLOCK = 512
_SLACK = 1e-4

Compared = UInt8[ndarray, "image 64 64"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of near-copies.

    Attributes:
        first: index of one image of each pair, smaller than that of
        second: the other.
        turn: index into `TURNS` of how they lie against each other; a pair may occur once for each.
    """

    first: Int32[ndarray, " pair"]
    second: Int32[ndarray, " pair"]
    turn: Int32[ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.first)

    def groups(self, n: int) -> Int32[ndarray, " image"]:
        """The group of each of `n` images, from 0: pairs, and whatever chains of pairs connect, are together."""
        return connected(n, np.stack([self.first, self.second], axis=1))

    def only(self, turns: Sequence[str]) -> "Pairs":
        """The pairs that lie in one of the given ways."""
        kept = np.isin(self.turn, [list(TURNS).index(turn) for turn in turns])
        return Pairs(self.first[kept], self.second[kept], self.turn[kept])


def find_pairs(images: Compared, keys: Sequence[str], correlation: float | None) -> Pairs:
    """All pairs whose Pearson correlation, in one of `TURNS`, is at least `correlation`, and all with equal keys.

    Correlation is over pixels at `COMPARED_SIDE`, so brightness and contrast do not count. An image of one value has
    none and is a copy only of those with its key. The search is exhaustive: its time grows with the square of the
    number of images. Averages of 2 x 2 pixels come first: with P the projection on them and Q the rest,
    <a, b> <= <Pa, Pb> + |Qa| |Qb|, which leaves few pairs to be compared whole, and loses none.

    Args:
        images: grey values 0..255; may be memory-mapped.
        keys: for each image a hash of its pixels, or nothing.
        correlation: the least correlation of a near-copy, in (0, 1); None leaves pairs of equal keys alone.
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
    """Mean 0 and norm 1, so that inner products are correlations."""
    centred = images.astype(np.float32)
    centred -= centred.mean((1, 2), keepdims=True)
    return np.asarray(centred / np.sqrt(np.square(centred).sum((1, 2), keepdims=True)))


def _halved(images: Float32[ndarray, "image 64 64"]) -> Float32[ndarray, "image 32 32"]:
    """Coordinates on the orthonormal basis of 2 x 2 averages."""
    side = COMPARED_SIDE // 2
    return np.asarray(images.reshape(-1, side, 2, side, 2).sum((2, 4)) / 2)


def _confirmed(
    images: Compared, first: Int64[ndarray, " pair"], second: Int64[ndarray, " pair"], turn: int, correlation: float
) -> Int32[ndarray, "3 pair"]:
    """Of the candidates, those whose whole images correlate."""
    turned = list(TURNS.values())[turn]
    kept = np.zeros(len(first), dtype=bool)
    for i in range(0, len(first), _BLOCK):
        chunk = slice(i, i + _BLOCK)
        a, b = _standardised(images[first[chunk]]), _standardised(turned(images[second[chunk]]))
        kept[chunk] = np.einsum("nij,nij->n", a, b) >= correlation
    return np.stack([first[kept], second[kept], np.full(kept.sum(), turn)]).astype(np.int32)


def connected(n: int, edges: Sequence[tuple[int, int]] | Int32[ndarray, "edge 2"]) -> Int32[ndarray, " node"]:
    """For each of `n` nodes the number, from 0, of the component that edges connect it to."""
    first, second = np.asarray(edges, dtype=np.int32).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])
