"""An empirical audit of copies of training images among a model's samples; `attacks` infer membership.

A copy is found by the highest normalised cross-correlation of a sample with any training image, blurred, mirrored or
not, at shifts of up to `SHIFT` pixels each way, among the most promising matches. The threshold is calibrated: 1 % of
the held-out images, which cannot be copies, exceed it.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import betabinom
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize
from torchvision.transforms.functional import affine, gaussian_blur

from vaegan_pl.data.copies import cosines
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation.classifier import Images
from vaegan_pl.evaluation.estimate import Estimate, wilson_ci
from vaegan_pl.progress import track

SHIFT = 4
BLUR = 3
FALSE_POSITIVES = 0.01
TOO_MANY = 0.01
HARDLY, UNLIKELY = 0.01, 0.05
LEAST_HELD_OUT = 100

MOST_REDRAWS = 10

_FREQUENCIES, _COMPARED, _QUERIES = 16, 16, 1024
"""Search settings: frequencies along each axis (at least), full comparisons for each query, queries in a batch."""

_ROUNDING = 1e-5
"""Windows that vary less, relative to their power, are constant but for rounding."""

PASS, NO_POWER, WARN, FAIL = VERDICTS = "PASS", "NO POWER", "WARN", "FAIL"
"""Verdicts, from the best to the worst."""

POWER = 0.5
"""Share of a model's own reconstructions of training images that an audit must recognise to pass its samples."""

Windows = Float[Tensor, "image side side"]


@dataclass(frozen=True)
class Nearest:
    """The training image most similar to each query, as far as `CopyDetector.nearest` finds it.

    Attributes:
        correlation: normalised cross-correlation at the best shift, in [-1, 1].
        image: index of the training image.
        mirrored: whether it matches better when mirrored.
    """

    correlation: Float[Tensor, " query"]
    image: Int64[Tensor, " query"]
    mirrored: Bool[Tensor, " query"]

    def split(self, sizes: Sequence[int]) -> list["Nearest"]:
        """The results of consecutive queries."""
        parts = zip(*(values.split(list(sizes)) for values in vars(self).values()), strict=True)
        return [Nearest(*part) for part in parts]


class CopyDetector:
    """Finds the training image most similar to each query.

    Similarity is the normalised cross-correlation at the best shift, of images averaged over `BLUR` x `BLUR` and then
    2 x 2 pixels.

    Args:
        train: all training images, in [-1, 1].
        device: where images are compared.
    """

    def __init__(self, train: Images, device: torch.device) -> None:
        self.train = _blurred(train.to(device))
        self.device = device

    def nearest(self, x: Images, description: str = "looking for copies") -> Nearest:
        """The nearest training image of each image in [-1, 1], over both orientations and all shifts.

        With P the projection on low frequencies and Q the rest, <a, b> <= <Pa, Pb> + |Qa| |Qb|. The `_COMPARED` matches
        of each query with the largest bounds are compared in full; the others are not.
        """
        queries = self._middle(x)
        even, odd = _for_bounds(queries)
        bounds = torch.full((len(x), _COMPARED), -2.0, device=self.device)
        places = torch.zeros(len(x), _COMPARED, dtype=torch.long, device=self.device)
        halved = self._halved
        shifts = list(itertools.product(range(2 * SHIFT + 1), repeat=2))
        for number, (row, column) in enumerate(track(shifts, description, "shift")):
            # A reflection changes the signs of the odd frequencies; so each window also stands for its mirror image.
            of_train = _for_bounds(self._windows(halved, row, column))
            for start in range(0, len(x), _QUERIES):
                some = slice(start, start + _QUERIES)
                bound = even[some] @ of_train[0].T + (odd[some] @ of_train[1].T).abs_()
                better = (bound.amax(1) > bounds[some, -1]).nonzero()[:, 0]
                value, image = bound[better].topk(min(_COMPARED, bound.shape[1]), dim=1)
                rows = start + better
                bounds[rows], kept = torch.cat([bounds[rows], value], 1).topk(_COMPARED, dim=1)
                places[rows] = torch.cat([places[rows], image * len(shifts) + number], 1).gather(1, kept)
        correlation, mirrored = torch.full_like(bounds, -2.0), torch.zeros_like(bounds, dtype=torch.bool)
        images = places // len(shifts)
        for number, (row, column) in enumerate(shifts):
            query, slot = ((places % len(shifts) == number) & (bounds > -2)).nonzero(as_tuple=True)
            window = self._windows(halved, row, column, images[query, slot])
            either = torch.stack([(_unit(queries[query]) * _unit(w)).sum(1) for w in (window, window.flip(-1))])
            correlation[query, slot], best = either.max(0)
            mirrored[query, slot] = best == 1
        correlation, best = correlation.max(1)
        found = (values.gather(1, best[:, None])[:, 0].cpu() for values in (images, mirrored))
        return Nearest(correlation.cpu(), *found)

    def most_like(self, x: Float[Tensor, "channel side side"], n: int) -> Nearest:
        """The `n` training images most similar to one image in [-1, 1], the most similar first."""
        query, halved = _unit(self._middle(x[None]))[0], self._halved
        best = torch.full((len(self.train),), -2.0, device=self.device)
        mirrored = torch.zeros(len(self.train), dtype=torch.bool, device=self.device)
        for row, column in itertools.product(range(2 * SHIFT + 1), repeat=2):
            windows = self._windows(halved, row, column)
            for flip in (False, True):
                correlation = _unit(windows.flip(-1) if flip else windows) @ query
                mirrored = torch.where(correlation > best, torch.full_like(mirrored, flip), mirrored)
                best = torch.maximum(best, correlation)
        found, image = best.topk(min(n, len(best)))
        return Nearest(found.cpu(), image.cpu(), mirrored[image].cpu())

    def _middle(self, x: Images) -> Windows:
        """The middle of queries, which is compared with the windows of training images at all shifts."""
        return avg_pool2d(_blurred(x.to(self.device))[..., SHIFT:-SHIFT, SHIFT:-SHIFT], 2)[:, 0]

    @property
    def _halved(self) -> list[list[Windows]]:
        """Training images averaged over 2 x 2 pixels, from the first or second row and column on."""
        return [[avg_pool2d(self.train[..., row:, column:], 2)[:, 0] for column in (0, 1)] for row in (0, 1)]

    def _windows(
        self, halved: list[list[Windows]], row: int, column: int, images: Int64[Tensor, " some"] | None = None
    ) -> Windows:
        """The windows of all or some training images that start at a pixel."""
        of_all = halved[row % 2][column % 2]
        side = self.train.shape[-1] // 2 - SHIFT
        of_all = of_all[:, row // 2 : row // 2 + side, column // 2 : column // 2 + side]
        return of_all if images is None else of_all[images]


def _blurred(x: Images) -> Images:
    return avg_pool2d(x, BLUR, stride=1, padding=BLUR // 2, count_include_pad=False)


def _unit(windows: Windows) -> Float[Tensor, "image pixel"]:
    """Windows with mean 0 and norm 1, so that inner products are correlations."""
    flat = windows.flatten(1)
    return normalize(flat - flat.mean(1, keepdim=True))


def _for_bounds(windows: Windows) -> tuple[Float[Tensor, "image even"], Float[Tensor, "image odd"]]:
    """Vectors whose inner products bound those of `_unit`: its low frequencies, and the norm of all others.

    The first contains the frequencies that are even along rows, and the norm; the second those that are odd.
    """
    n = min(max(_FREQUENCIES, windows.shape[-1] // 2), windows.shape[-1])
    basis = torch.from_numpy(cosines(windows.shape[-1], n)).to(windows)
    low = basis @ windows @ basis.T
    power = windows.square().sum((1, 2))
    variation = power - low[:, 0, 0].square()
    varied = variation > _ROUNDING * power
    low[:, 0, 0] = 0
    low = torch.where(varied[:, None, None], low / variation.clamp_min(1e-12).sqrt()[:, None, None], 0)
    rest = torch.where(varied, 1 - low.square().sum((1, 2)), 0).clamp_min(0).sqrt()
    return torch.cat([low[:, :, ::2].flatten(1), rest[:, None]], dim=1), low[:, :, 1::2].flatten(1)


@dataclass(frozen=True)
class Calibration:
    """How often images resemble a training image by chance, estimated from held-out images, none of which is a copy.

    Attributes:
        threshold: the correlation above which an image counts as a copy.
        images: number of held-out images.
        above: number of held-out images above the threshold; a share of `FALSE_POSITIVES`.
    """

    threshold: float
    images: int
    above: int

    def chance(self, copies: int, n: int) -> float:
        """Probability that `copies` or more of `n` images count as copies if they copy no more than held-out images do.

        A beta-binomial distribution: the share of false positives is itself estimated, from the held-out images.
        """
        return float(betabinom(n, self.above + 1, self.images - self.above).sf(copies - 1))


def calibrate(held_out: Nearest) -> Calibration:
    """The threshold that a share of `FALSE_POSITIVES` of the held-out images exceeds."""
    values = held_out.correlation.numpy()
    limit = float(np.quantile(values, 1 - FALSE_POSITIVES, method="higher"))
    return Calibration(limit, len(values), int((values > limit).sum()))


@dataclass(frozen=True)
class Audit:
    """The copies among some samples.

    Attributes:
        copies: number of samples that count as copies.
        rate: their share, with its 95 % interval.
        chance: see `Calibration.chance`.
        verdict: `FAIL` if the whole interval of the share lies above `TOO_MANY` and `chance` is below `HARDLY`, `WARN`
            if `chance` is below `UNLIKELY`, `NO_POWER` if the audit recognises less than a share of `POWER` of the
            model's own reconstructions of training images, else `PASS`.
        nearest: the training image most similar to each sample.
    """

    copies: int
    rate: Estimate
    chance: float
    verdict: str
    nearest: Nearest


def audit(nearest: Nearest, calibration: Calibration, recognised: float | None = None) -> Audit:
    """Count the copies among samples.

    Args:
        nearest: the training images most similar to the samples.
        calibration: the threshold.
        recognised: share of the model's own reconstructions of training images that count as copies; None if it has no
            encoder.
    """
    n = len(nearest.correlation)
    copies = int((nearest.correlation > calibration.threshold).sum())
    rate, chance = wilson_ci(copies, n), calibration.chance(copies, n)
    fails = rate.low > TOO_MANY and chance < HARDLY
    blind = recognised is None or recognised < POWER
    verdict = FAIL if fails else WARN if chance < UNLIKELY else NO_POWER if blind else PASS
    return Audit(copies, rate, chance, verdict, nearest)


def without_copies(draw: Callable[[int], Images], n: int, detector: CopyDetector, limit: float) -> tuple[Images, int]:
    """Draw `n` images, none of which counts as a copy; returns them and how many others were rejected.

    Args:
        draw: draws the given number of images in [-1, 1]; every call draws other images.
        n: number of images wanted.
        detector: of the training images.
        limit: correlation above which an image counts as a copy.

    Raises:
        UserError: if `MOST_REDRAWS` times as many images as wanted were drawn and still too few are no copies.
    """
    kept: list[Tensor] = []
    drawn = have = 0
    while have < n:
        if drawn >= MOST_REDRAWS * n:
            raise UserError(
                f"audit: {drawn - have} of {drawn} samples are copies of training images; do not share them"
            )
        x = draw(n - have)
        kept.append(x[detector.nearest(x).correlation <= limit])
        drawn, have = drawn + len(x), have + len(kept[-1])
    return torch.cat(kept), drawn - have


def _noisy(x: Images, generator: torch.Generator) -> Images:
    return (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def _shifted(pixels: int) -> Callable[[Images, torch.Generator], Images]:
    return lambda x, _: affine(x, 0.0, [pixels, -pixels], 1.0, [0.0], fill=[-1.0])


PLANTED: dict[str, Callable[[Images, torch.Generator], Images]] = {
    "exact": lambda x, _: x,
    "mirrored": lambda x, _: x.flip(-1),
    "shifted by 3 pixels": _shifted(3),
    "mirrored and shifted": lambda x, generator: _shifted(3)(x.flip(-1), generator),
    "with noise of 5 %": _noisy,
    "blurred, 3 x 3": lambda x, _: avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "blurred, Gaussian of 1.5 pixels": lambda x, _: gaussian_blur(x, [9, 9], [1.5, 1.5]),
    "shifted by 6 pixels": _shifted(6),
    "rotated by 5 degrees": lambda x, _: affine(x, 5.0, [0, 0], 1.0, [0.0], fill=[-1.0]),
    "larger by 10 %": lambda x, _: affine(x, 0.0, [0, 0], 1.1, [0.0], fill=[-1.0]),
}
"""Ways to change a planted copy, from exact copies to well-disguised ones."""


def detection(nearest: Callable[[Images], Nearest], planted: Images, limit: float, seed: int) -> dict[str, Estimate]:
    """Share of planted copies of training images that the audit finds, by the way they were changed.

    Args:
        nearest: finds the training image nearest to each image, as `CopyDetector.nearest` does.
        planted: some training images, in [-1, 1].
        limit: correlation above which an image counts as a copy.
        seed: seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = {name: change(planted, generator) for name, change in PLANTED.items()}
    found = nearest(torch.cat(list(changed.values()))).correlation > limit
    return {
        name: wilson_ci(int(some.sum()), len(planted))
        for name, some in zip(changed, found.split(len(planted)), strict=True)
    }
