"""Find near-copies: the same image re-encoded, mirrored, rotated by 180° or changed in brightness."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from vaegan_pl.data.connected import connected
from vaegan_pl.errors import UserError
from vaegan_pl.progress import announce, track

COMPARED_SIDE = 64
"""Side in pixels at which images are compared, independent of `data.image_size`."""

TURNS: dict[str, Callable[[ndarray], ndarray]] = {
    "same way up": lambda images: images,
    "mirrored": lambda images: images[..., :, ::-1],
    "upside down": lambda images: images[..., ::-1, :],
    "rotated by 180°": lambda images: images[..., ::-1, ::-1],
}
"""Orientations in which an image can match its copy. Each is its own inverse, so the order of the two is irrelevant."""

SEARCHES = ("exhaustive", "approximate")
"""Ways to search for similar images; see `similar`."""

NO_FAISS = "data.search=approximate: needs faiss; pip install -e '.[large]'"

_BLOCK, _TILE = 512, 1024
_QUERIED, _NEAREST, _PROBED, _TRAINED_ON = 8192, 8, 8, 64
"""Of the approximate search: images at once, neighbours of each, cells searched, and images a cell to train on."""

_FEWEST = 2000
"""Fewer images are always compared exhaustively."""

_SECONDS_TO_SORT = 5e-5
"""Time per image to sort it into a cell, on two CPU cores."""

_PAIRS_AT_ONCE = 2**18
_FREQUENCIES = 12
_SLACK = 1e-4
_BY_TURN = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=np.float32)
"""Signs of the inner products of the four parts of `by_parity`, by turn."""

Compared = UInt8[ndarray, "image 64 64"]
SimilarPairs = tuple[Int64[ndarray, " pair"], Int64[ndarray, " pair"], Float32[ndarray, "pair 4"]]


@dataclass(frozen=True)
class Pairs:
    """Pairs of near-copies.

    Attributes:
        first: index of the first image of each pair.
        second: index of the second image, larger than `first`.
        turn: index into `TURNS` of the orientation in which they match; a pair can occur once for each.
        registered: whether they match only after registration, because the frame is another.
    """

    first: Int32[ndarray, " pair"]
    second: Int32[ndarray, " pair"]
    turn: Int32[ndarray, " pair"]
    registered: Bool[ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.first)

    def __add__(self, other: "Pairs") -> "Pairs":
        return Pairs(*(np.concatenate([own, vars(other)[name]]) for name, own in vars(self).items()))

    def _where(self, kept: Bool[ndarray, " pair"]) -> "Pairs":
        return Pairs(*(values[kept] for values in vars(self).values()))

    @property
    def same_frame(self) -> "Pairs":
        """The pairs that match without registration."""
        return self._where(~self.registered)

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
        return self._where(kept)

    def only(self, turns: Sequence[str]) -> "Pairs":
        """The pairs that match in one of the given orientations."""
        kept = np.isin(self.turn, [list(TURNS).index(turn) for turn in turns])
        return self._where(kept)


def find_pairs(images: Compared, keys: Sequence[str], correlation: float | None, search: str = SEARCHES[0]) -> Pairs:
    """All pairs whose Pearson correlation, in one of `TURNS`, is at least `correlation`, and all with equal keys.

    The correlation is over pixels at `COMPARED_SIDE`, so brightness and contrast do not matter. A constant image has no
    correlation and pairs only with images that have the same key. Low frequencies come first: with P the projection on
    them and Q the rest, <a, b> <= <Pa, Pb> + |Qa| |Qb|. This leaves few pairs to compare in full, and an exhaustive
    search misses none.

    Args:
        images: grey values 0..255; may be memory-mapped.
        keys: for each image a hash of its pixels, or an empty string.
        correlation: the least correlation of a near-copy, in (0, 1); None finds only pairs with equal keys.
        search: one of `SEARCHES`; see `similar`.

    Raises:
        UserError: see `similar`.
    """
    pairs = [_equal_keys(keys)]
    varied = np.flatnonzero([image.min() < image.max() for image in images])
    if correlation is not None and len(varied) > 0:
        blocks = [_for_bound(_standardised(images[block])) for block in in_blocks(varied)]
        coefficients, rest = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        for first, second, bounds in similar(
            coefficients, rest, correlation - _SLACK, None, search, "comparing images"
        ):
            for turn in range(len(TURNS)):
                likely = bounds[:, turn] >= correlation - _SLACK
                pairs.append(_confirmed(images, varied[first[likely]], varied[second[likely]], turn, correlation))
    first, second, turn = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return Pairs(first, second, turn, np.zeros(len(first), dtype=bool))


def in_blocks(images: ndarray) -> list[ndarray]:
    """Indices of images in blocks that fit into memory."""
    return [images[i : i + _BLOCK] for i in range(0, len(images), _BLOCK)]


def similar(
    coefficients: Float32[ndarray, "image n n"],
    added: Float32[ndarray, " image"],
    least: float,
    most: int | None,
    search: str,
    what: str,
) -> Iterator[SimilarPairs]:
    """Pairs i < j whose inner product <c_i, c_j> + added_i added_j, with i turned in one of `TURNS`, is large enough.

    The time of an exhaustive search grows with the square of the number of images. An approximate one looks in the
    nearest cells of an inverted file (Jegou et al., PAMI 33, 2011; the library faiss) for the `_NEAREST` images most
    similar to each; it is used for `_FEWEST` images or more.

    Args:
        coefficients: the lowest frequencies of each image; see `low_frequencies`.
        added: another coordinate, which no turn changes.
        least: the least inner product, in at least one turn.
        most: how many pairs to take for each image, those of the largest inner products; None takes all.
        search: one of `SEARCHES`.
        what: what the progress bar says.

    Yields:
        For some of the images: indices of the first and second image of each pair, and the inner products by turn. A
        pair is yielded once, or, in an approximate search, once or twice.

    Raises:
        UserError: for an approximate search without faiss.
    """
    parts = by_parity(coefficients)
    parts[0] = torch.cat([parts[0], torch.from_numpy(added)[:, None]], dim=1)
    exhaustive = search == SEARCHES[0] or len(coefficients) < _FEWEST
    found = _exhaustive(parts, least, most, what) if exhaustive else _approximate(parts, least, most, what)
    for pairs in found:
        for first, second in (some.T for some in pairs.split(_PAIRS_AT_ONCE)):
            products = [(part[first] * part[second]).sum(1) for part in parts]
            yield first.numpy(), second.numpy(), torch.stack(products, dim=1).numpy() @ _BY_TURN


def _exhaustive(
    parts: Sequence[Tensor], least: float, most: int | None, what: str
) -> Iterator[Int64[Tensor, "pair 2"]]:
    n = len(parts[0])
    nearest = None if most is None else _Nearest(n, most, least)
    starts = range(0, n, _BLOCK)
    for start in track(starts, what, "block") if len(starts) > 1 else starts:
        end = min(start + _BLOCK, n)
        found = []
        for left in range(start, n, _TILE):
            right = min(left + _TILE, n)
            largest = largest_by_turn(*[part[start:end] @ part[left:right].T for part in parts])
            if left < end:
                largest.masked_fill_(torch.arange(left, right) <= torch.arange(start, end)[:, None], -1)
            if nearest is None:
                found.append((largest >= least).nonzero() + torch.tensor([start, left]))
            else:
                nearest.update(largest, start, left)
                nearest.update(largest.T, left, start)
        if nearest is None:
            yield torch.cat(found)
    if nearest is not None:
        yield nearest.pairs()


class _Nearest:
    """For each of `n` images, up to `most` images most similar to it, with inner products above `least`."""

    def __init__(self, n: int, most: int, least: float) -> None:
        self.products = torch.full((n, most), least)
        self.images = torch.full((n, most), -1)

    def update(self, products: Float32[Tensor, "row column"], row: int, column: int) -> None:
        """Take in the inner products of the images from `row` on with those from `column` on."""
        rows = (products.amax(1) > self.products[row : row + len(products), -1]).nonzero()[:, 0]
        if len(rows) > 0:
            values, columns = products[rows].topk(min(self.products.shape[1], products.shape[1]), dim=1)
            rows = rows + row
            values, places = torch.cat([self.products[rows], values], dim=1).topk(self.products.shape[1], dim=1)
            self.products[rows] = values
            self.images[rows] = torch.cat([self.images[rows], columns + column], dim=1).gather(1, places)

    def pairs(self) -> Int64[Tensor, "pair 2"]:
        """Each image with those most similar to it; each pair once, the smaller index first."""
        rows, ranks = (self.images >= 0).nonzero(as_tuple=True)
        return _in_order(torch.stack([rows, self.images[rows, ranks]], dim=1))


def _approximate(
    parts: Sequence[Tensor], least: float, most: int | None, what: str
) -> Iterator[Int64[Tensor, "pair 2"]]:
    try:
        import faiss
    except ImportError as error:
        raise UserError(NO_FAISS) from error
    vectors = torch.cat(list(parts), dim=1).numpy()
    n, width = vectors.shape
    cells = max(1, min(round(4 * n**0.5), n // 39))  # faiss asks for 39 vectors a cell to train on
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    announce(f"sorting {n:,} images into cells", n * _SECONDS_TO_SORT)
    index.train(vectors[:: max(1, n // (_TRAINED_ON * cells))])
    index.add(vectors)
    index.nprobe = _PROBED
    signs = np.repeat(_BY_TURN, [part.shape[1] for part in parts], axis=0).T
    nearest = 1 + (_NEAREST if most is None else most)  # and the image itself
    starts = range(0, n, _QUERIED)
    for start in track(starts, what, "block") if len(starts) > 1 else starts:
        found = []
        for turn in signs:
            products, images = index.search(vectors[start : start + _QUERIED] * turn, nearest)
            rows, columns = np.nonzero((products >= least) & (images >= 0))
            found.append(np.stack([rows + start, images[rows, columns]], axis=1))
        pairs = torch.from_numpy(np.concatenate(found))
        yield _in_order(pairs[pairs[:, 0] != pairs[:, 1]])


def _in_order(pairs: Int64[Tensor, "pair 2"]) -> Int64[Tensor, "different 2"]:
    """Each pair once, the smaller index first."""
    different: Tensor = torch.unique(pairs.sort(dim=1).values, dim=0)
    return different


def by_parity(coefficients: Float32[ndarray, "image n n"]) -> list[Float32[Tensor, "image part"]]:
    """Frequencies that are even along both axes, odd along the second, odd along the first, and odd along both.

    A reflection changes the signs of the odd frequencies along its axis. So the inner products of these four parts give
    those of all four turns.
    """
    rows, columns = np.indices(coefficients.shape[1:]) % 2
    return [torch.from_numpy(coefficients[:, (rows == i) & (columns == j)]) for i in (0, 1) for j in (0, 1)]


def largest_by_turn(even: Tensor, second: Tensor, first: Tensor, odd: Tensor) -> Tensor:
    """The largest inner product over `TURNS`, given those of the four parts of `by_parity`."""
    return torch.maximum(even + odd + (second + first).abs_(), even - odd + (second - first).abs_())


def low_frequencies(images: ndarray, n: int) -> Float32[ndarray, "image n n"]:
    """The lowest `n` x `n` coefficients of the orthonormal discrete cosine transform of square images."""
    basis = cosines(images.shape[-1], n)
    return np.asarray(np.matmul(np.matmul(basis, images.astype(np.float32)), basis.T))


def cosines(side: int, n: int) -> Float32[ndarray, "n side"]:
    """The first `n` vectors of the orthonormal discrete cosine transform (DCT-II) of `side` values."""
    angles = np.pi * (np.arange(side) + 0.5) * np.arange(n)[:, None] / side
    basis = np.cos(angles) * np.sqrt(np.where(np.arange(n) == 0, 1, 2) / side)[:, None]
    return np.asarray(basis, dtype=np.float32)


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


def _for_bound(
    images: Float32[ndarray, "image 64 64"],
) -> tuple[Float32[ndarray, "image n n"], Float32[ndarray, " image"]]:
    """Pa and |Qa| of standardised images."""
    low = low_frequencies(images, _FREQUENCIES)
    return low, np.sqrt((1 - np.square(low).sum((1, 2))).clip(0))


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
