"""An empirical audit of what a model reveals about its training images: copies among samples, and membership.

A copy is found by the highest normalised cross-correlation of a sample with any training image, blurred, mirrored or
not, at shifts of up to `SHIFT` pixels each way. The threshold is calibrated: 1 % of the held-out images,
which cannot be copies, exceed it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import betabinom
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize
from torchvision.transforms.functional import affine, gaussian_blur

from vaegan_pl.errors import UserError
from vaegan_pl.evaluation.classifier import Images
from vaegan_pl.evaluation.estimate import Estimate, bootstrap_ci, wilson_ci
from vaegan_pl.progress import track

SHIFT = 4
BLUR = 3
FALSE_POSITIVES = 0.01
TOO_MANY = 0.01
HARDLY, UNLIKELY = 0.01, 0.05
LEAST_HELD_OUT = 100

RESAMPLES = 1000
MOST_REDRAWS = 10

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"


@dataclass(frozen=True)
class Nearest:
    """The training image most similar to each query.

    Attributes:
        correlation: normalised cross-correlation at the best shift, in [-1, 1].
        image: index of the training image.
        mirrored: whether it matches better when mirrored.
    """

    correlation: Float[Tensor, " query"]
    image: Int64[Tensor, " query"]
    mirrored: Bool[Tensor, " query"]


class CopyDetector:
    """Finds the training image most similar to each query.

    Args:
        train: all training images, in [-1, 1].
        device: where images are compared.
    """

    def __init__(self, train: Images, device: torch.device) -> None:
        self.train = _blurred(train.to(device))
        self.device = device

    def nearest(self, x: Images, description: str = "looking for copies") -> Nearest:
        """The nearest training image of each image in [-1, 1], over both orientations and all shifts."""
        best = torch.full((len(x),), -2.0, device=self.device)
        image = torch.zeros(len(x), dtype=torch.long, device=self.device)
        mirrored = torch.zeros(len(x), dtype=torch.bool, device=self.device)
        for flip, correlations in self._correlations(x, description):
            value, index = correlations.max(1)
            better = value > best
            best, image = torch.where(better, value, best), torch.where(better, index, image)
            mirrored = torch.where(better, torch.full_like(mirrored, flip), mirrored)
        return Nearest(best.cpu(), image.cpu(), mirrored.cpu())

    def most_like(self, x: Float[Tensor, "channel side side"], n: int) -> Nearest:
        """The `n` training images most similar to one image in [-1, 1], the most similar first."""
        best = torch.full((len(self.train),), -2.0, device=self.device)
        mirrored = torch.zeros(len(self.train), dtype=torch.bool, device=self.device)
        for flip, (correlation,) in self._correlations(x[None], "looking for the nearest"):
            mirrored = torch.where(correlation > best, torch.full_like(mirrored, flip), mirrored)
            best = torch.maximum(best, correlation)
        found, image = best.topk(min(n, len(best)))
        return Nearest(found.cpu(), image.cpu(), mirrored[image].cpu())

    def _correlations(self, x: Images, description: str) -> Iterator[tuple[bool, Float[Tensor, "query train"]]]:
        """Correlations of images with all training images, for each orientation and each shift."""
        side = x.shape[-1]
        middle = _unit(_blurred(x.to(self.device))[..., SHIFT : side - SHIFT, SHIFT : side - SHIFT])
        width = side - 2 * SHIFT
        places = [
            (flip, row, column)
            for flip in (False, True)
            for row in range(2 * SHIFT + 1)
            for column in range(2 * SHIFT + 1)
        ]
        for flip, row, column in track(places, description, "shift"):
            train = self.train.flip(-1) if flip else self.train
            yield flip, middle @ _unit(train[..., row : row + width, column : column + width]).T


def _blurred(x: Images) -> Images:
    return avg_pool2d(x, BLUR, stride=1, padding=BLUR // 2, count_include_pad=False)


def _unit(x: Images) -> Float[Tensor, "image pixel"]:
    """Averages of 2 x 2 pixels, with mean 0 and norm 1, so that inner products are correlations."""
    flat = avg_pool2d(x, 2).flatten(1)
    return normalize(flat - flat.mean(1, keepdim=True))


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
            if `chance` is below `UNLIKELY`, else `PASS`.
        nearest: the training image most similar to each sample.
    """

    copies: int
    rate: Estimate
    chance: float
    verdict: str
    nearest: Nearest


def audit(nearest: Nearest, calibration: Calibration) -> Audit:
    """Count the copies among samples.

    Args:
        nearest: the training images most similar to the samples.
        calibration: the threshold.
    """
    n = len(nearest.correlation)
    copies = int((nearest.correlation > calibration.threshold).sum())
    rate, chance = wilson_ci(copies, n), calibration.chance(copies, n)
    fails = rate.low > TOO_MANY and chance < HARDLY
    return Audit(copies, rate, chance, FAIL if fails else WARN if chance < UNLIKELY else PASS, nearest)


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


def membership(members: Float[Tensor, " member"], others: Float[Tensor, " other"], seed: int) -> Estimate:
    """How well a score tells training images from held-out ones: area under the ROC curve, in [0, 1]; 0.5 is chance.

    Args:
        members: scores of training images; higher should mean more likely a member.
        others: scores of held-out images.
        seed: seed of the bootstrap over images.
    """
    random = np.random.default_rng(seed)
    a, b = members.double().numpy(), others.double().numpy()
    truth = np.r_[np.ones(len(a)), np.zeros(len(b))]

    def area(first: np.ndarray, second: np.ndarray) -> float:
        return float(roc_auc_score(truth, np.r_[first, second]))

    draws = [area(random.choice(a, len(a)), random.choice(b, len(b))) for _ in range(RESAMPLES)]
    return bootstrap_ci(area(a, b), draws)


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


def detection(detector: CopyDetector, planted: Images, limit: float, seed: int) -> dict[str, Estimate]:
    """Share of planted copies of training images that the audit finds, by the way they were changed.

    Args:
        detector: of the training images.
        planted: some training images, in [-1, 1].
        limit: correlation above which an image counts as a copy.
        seed: seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = {name: change(planted, generator) for name, change in PLANTED.items()}
    found = detector.nearest(torch.cat(list(changed.values())), "planting copies").correlation > limit
    return {
        name: wilson_ci(int(some.sum()), len(planted))
        for name, some in zip(changed, found.split(len(planted)), strict=True)
    }
