"""Find copies in another frame: the same slice cropped, with wider margins, or rotated by a few degrees.

Heads are first brought to one frame by the boxes around them, and compared at low frequencies. Pairs of similar heads
are then registered: an affine map makes one as similar to the other as possible. The correlation after that decides.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int32, Int64
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from vaegan_pl.data.copies import SEARCHES, TURNS, Compared, Pairs, in_blocks, low_frequencies, similar
from vaegan_pl.progress import track

_LEVEL, _SHARE = 0.15, 0.04
"""A row or column is inside the box if this share of it is brighter than this fraction of the brightest pixels."""

_HEAD_SIDE, _FREQUENCIES, _SIMILAR = 48, 8, 0.88
"""Side of heads in the common frame, how many of their frequencies are compared along each axis, and how similar heads
must be to be registered: 0.6 % of pairs of different patients are."""

_MOST_SIMILAR, _MOST_TURNS = 5, 2
"""To how many of the images most similar to it an image is registered, and in how many turns each."""

_STAGES = ((24, 3), (32, 5))
"""Side of the images and number of steps of the coarse and the fine registration."""

_COARSE = 0.1
"""How far below the required correlation a pair may be after the coarse registration."""

_OVERLAP, _SIZES, _STRETCH = 0.7, (0.7, 1.45), 1.4
"""Smallest share of the head that both images must contain, the relative sizes that they may have, and the largest
ratio of the sizes along two axes (images may have been stretched). Otherwise, all ellipses would be copies of each
other."""

_LARGEST_STEP, _DAMPING = 0.15, 1e-3
_PAIRS_AT_ONCE = 1024

Boxes = Float32[Tensor, "image 4"]
Maps = Float32[Tensor, "pair 3 3"]
Images = Float32[Tensor, "pair side side"]


def find_reframed(
    images: Compared,
    groups: Int[ndarray, " image"],
    slices: Int[ndarray, " image"],
    correlation: float | None,
    search: str = SEARCHES[0],
) -> Pairs:
    """Pairs of the same slice in another frame, in one of `TURNS`, between one image of each group.

    The search is not exhaustive; docs/data.md says what it finds.

    Args:
        images: grey values 0..255; may be memory-mapped.
        groups: the group of near-copies of each image.
        slices: number of the published slice that each image shows, negative if none. Different published slices are
            never a pair.
        correlation: the least correlation of a registered pair over the part that both images contain, in (0, 1); None
            finds no pairs.
        search: one of `copies.SEARCHES`, by which similar heads are found.

    Raises:
        UserError: see `copies.similar`.
    """
    found = [np.zeros((3, 0), dtype=np.int32)]
    chosen = np.sort(np.unique(groups, return_index=True)[1])
    chosen = chosen[[images[i].min() < images[i].max() for i in chosen]]
    if correlation is not None and len(chosen) > 1:
        boxes = torch.cat([head_boxes(images[block]) for block in in_blocks(chosen)])
        shown = np.full(groups.max() + 1, -1)
        np.maximum.at(shown, groups[groups >= 0], slices[groups >= 0])
        candidates = _candidates(images, chosen, boxes, shown[groups[chosen]], search)
        starts = range(0, len(candidates), _PAIRS_AT_ONCE)
        for start in track(starts, "registering images", "block") if len(starts) > 1 else starts:
            pairs = candidates[start : start + _PAIRS_AT_ONCE]
            found.append(_registered(images, chosen, boxes, pairs, correlation))
    first, second, turn = np.concatenate(found, axis=1)
    return Pairs(first, second, turn, np.ones(len(first), dtype=bool))


def _candidates(
    images: Compared,
    chosen: Int64[ndarray, " chosen"],
    boxes: Boxes,
    slices: Int[ndarray, " chosen"],
    search: str,
) -> Int64[ndarray, "pair 3"]:
    """Pairs to register: places in `chosen` of the first and second image, and the turn of the first."""
    weights = np.hypot(*np.indices((_FREQUENCIES, _FREQUENCIES))) ** 0.5  # zero for the mean, small for low frequencies
    heads, blocks = [], in_blocks(chosen)
    for block, own in zip(blocks, boxes.split(len(blocks[0])), strict=True):
        sampled, _ = _sample(_tensor(images[block]), _maps(own), _HEAD_SIDE)
        low = low_frequencies(sampled.numpy(), _FREQUENCIES) * weights.astype(np.float32)
        heads.append(low / np.maximum(np.sqrt(np.square(low).sum((1, 2), keepdims=True)), 1e-6))
    pairs = [np.zeros((0, 3), dtype=np.int64)]
    nothing = np.zeros(len(chosen), dtype=np.float32)
    found = similar(np.concatenate(heads), nothing, _SIMILAR, _MOST_SIMILAR, search, "comparing heads")
    for first, second, by_turn in found:
        differ = (slices[first] >= 0) & (slices[second] >= 0) & (slices[first] != slices[second])
        rank = (-by_turn).argsort(1).argsort(1)
        pair, turn = np.nonzero((by_turn >= _SIMILAR) & (rank < _MOST_TURNS) & ~differ[:, None])
        pairs.append(np.stack([first[pair], second[pair], turn], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _registered(
    images: Compared,
    chosen: Int64[ndarray, " chosen"],
    boxes: Boxes,
    pairs: Int64[ndarray, "pair 3"],
    correlation: float,
) -> Int32[ndarray, "3 kept"]:
    """The pairs that correlate after registration, as indices of images."""
    first, second, turn = pairs.T
    turns = list(TURNS.values())
    turned = np.stack([turns[k](images[i]) for i, k in zip(chosen[first].tolist(), turn.tolist(), strict=True)])
    sides, upside_down = torch.from_numpy(turn % 2 == 1), torch.from_numpy(turn >= 2)
    own = boxes[first]
    own[sides, :2] = -own[sides, :2].flip(1)
    own[upside_down, 2:] = -own[upside_down, 2:].flip(1)
    fixed, moving, frames, maps = _tensor(turned), _tensor(images[chosen[second]]), _maps(own), _maps(boxes[second])
    kept = torch.arange(len(pairs))
    for (side, steps), least in zip(_STAGES, (correlation - _COARSE, correlation), strict=True):
        maps[kept], reached = register(fixed[kept], frames[kept], moving[kept], maps[kept], side, steps)
        kept = kept[reached >= least]
    kept = kept[_is_plausible(maps[kept] @ torch.linalg.inv(frames[kept]))]
    return np.stack([chosen[first], chosen[second], turn])[:, kept.numpy()].astype(np.int32)


def _is_plausible(maps: Maps) -> Bool[Tensor, " pair"]:
    """Whether affine maps from one image to another neither shrink, enlarge nor stretch too much."""
    larger, smaller = torch.linalg.svdvals(maps[:, :2, :2]).T
    plausible: Tensor = (larger <= _SIZES[1]) & (smaller >= _SIZES[0]) & (larger <= _STRETCH * smaller)
    return plausible


def register(
    fixed: Images, frames: Maps, moving: Images, maps: Maps, side: int, steps: int
) -> tuple[Maps, Float32[Tensor, " pair"]]:
    """Improve affine maps by steps of the inverse compositional algorithm (Baker and Matthews 2004, section 3.2).

    Images are standardised over the part that both contain, so brightness and contrast do not matter.

    Args:
        fixed: images.
        frames: for each the map from [-1, 1] x [-1, 1] to the part of it that counts.
        moving: images to register to them.
        maps: for each a first map from [-1, 1] x [-1, 1] to the same part of it.
        side: side in pixels to which both are sampled.
        steps: number of steps.

    Returns:
        The improved maps, and the correlations reached; 0 where the images share too little of the frame.
    """
    template, inside = _sample(fixed, frames, side)
    y, x = torch.meshgrid(*[_centres(side)] * 2, indexing="ij")
    along_y, along_x = torch.gradient(_standardised(template, inside), spacing=2 / side, dim=(1, 2))
    slopes = torch.stack([along_x * x, along_x * y, along_x, along_y * x, along_y * y, along_y], dim=1).flatten(2)
    hessian = slopes @ slopes.mT
    damped = hessian + _DAMPING * torch.diag_embed(hessian.diagonal(dim1=1, dim2=2)) + 1e-6 * torch.eye(6)
    inverse = torch.linalg.inv(damped)
    for step in range(steps + 1):
        sampled, present = _sample(moving, maps, side)
        both = inside * present
        target, current = _standardised(template, both), _standardised(sampled, both)
        if step < steps:
            change = inverse @ (slopes @ (current - target).flatten(1)[:, :, None])
            moved = torch.eye(3).repeat(len(maps), 1, 1)
            moved[:, :2] += change.clamp(-_LARGEST_STEP, _LARGEST_STEP).reshape(-1, 2, 3)
            maps = maps @ torch.linalg.inv(moved)
    shared = both.mean((1, 2)) >= _OVERLAP
    return maps, (target * current).sum((1, 2)) * shared


def head_boxes(images: Compared) -> Boxes:
    """Left, right, top and bottom of the bright part of images, in [-1, 1] and finer than a pixel.

    Args:
        images: grey values 0..255, none of them of one value only.
    """
    brightest = np.percentile(images, 99, axis=(1, 2), keepdims=True)
    inside = np.clip(images / np.maximum(_LEVEL * brightest, 1) - 0.5, 0, 1)
    edges = []
    for axis in (1, 2):
        share = inside.mean(axis)
        edges += [_first(share) - 1, 1 - _first(share[:, ::-1])]
    return torch.from_numpy(np.stack(edges, axis=1).astype(np.float32))


def _first(share: ndarray) -> ndarray:
    """Where values along an axis of length 2 first exceed `_SHARE`, interpolated."""
    rows, n = np.arange(len(share)), share.shape[1]
    after = (share > _SHARE).argmax(1)
    before, here = np.where(after > 0, share[rows, after - 1], 0), share[rows, after]
    within = np.where(after > 0, (here - _SHARE) / np.maximum(here - before, 1e-6), 0)
    return np.asarray(2 * (after - within.clip(0, 1)) / n)


def _tensor(images: Compared) -> Images:
    return torch.from_numpy(images.astype(np.float32))


def _maps(boxes: Boxes) -> Maps:
    """The affine maps from [-1, 1] x [-1, 1] to boxes."""
    left, right, top, bottom = boxes.T
    maps = torch.zeros(len(boxes), 3, 3)
    maps[:, 0, 0], maps[:, 0, 2] = (right - left) / 2, (right + left) / 2
    maps[:, 1, 1], maps[:, 1, 2] = (bottom - top) / 2, (bottom + top) / 2
    maps[:, 2, 2] = 1
    return maps


def _centres(side: int) -> Float32[Tensor, " side"]:
    return (2 * torch.arange(side) + 1) / side - 1


def _sample(images: Images, maps: Maps, side: int) -> tuple[Images, Images]:
    """Images sampled through maps, and which pixels lie inside them (1, otherwise 0)."""
    centres = _centres(side)
    along_x, along_y, moved = maps[:, :2, :, None, None].unbind(2)
    places = along_x * centres + along_y * centres[:, None] + moved
    sampled = functional.grid_sample(images[:, None], places.permute(0, 2, 3, 1), align_corners=False)[:, 0]
    return sampled, (places.abs().amax(1) <= 1 - 1 / images.shape[-1]).float()


def _standardised(images: Images, weights: Images) -> Images:
    """Images with mean 0 and norm 1 over the pixels of weight 1, and 0 elsewhere."""
    n = weights.sum((1, 2), keepdim=True).clamp_min(1)
    centred = (images - (images * weights).sum((1, 2), keepdim=True) / n) * weights
    return centred / centred.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-6)
