"""Quality of reconstructions."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from vaegan_pl.evaluation.classifier import AT_ONCE, Images
from vaegan_pl.evaluation.diversity import ms_ssim
from vaegan_pl.evaluation.estimate import Halved, halved

DIVISIONS = 50
"""How often images are divided into halves for an interval."""


def squared_error(x: Images, x_tilde: Images) -> Float[Tensor, " image"]:
    """Mean squared error of each image, over pixels in [-1, 1]."""
    return (x - x_tilde).square().flatten(1).mean(1)


def quality(x: Images, x_tilde: Images, seed: int) -> dict[str, Halved]:
    """PSNR of the whole set in dB, mean SSIM and mean multi-scale SSIM, with intervals from halves of the images.

    Images are in [-1, 1], so the PSNR of a mean squared error e is 10 log10(4 / e).
    """
    similarity = []
    for a, b in zip(x.split(AT_ONCE), x_tilde.split(AT_ONCE), strict=True):
        value = structural_similarity_index_measure(b, a, data_range=2.0, reduction="none")
        assert isinstance(value, Tensor)
        similarity.append(value.reshape(-1))
    return {
        "PSNR": _halved(squared_error(x, x_tilde), lambda error: 10 * np.log10(4 / error), seed),
        "SSIM": _halved(torch.cat(similarity), lambda mean: mean, seed),
        "MS-SSIM": _halved(ms_ssim(x_tilde, x), lambda mean: mean, seed),
    }


def _halved(values: Float[Tensor, " image"], figure: Callable[[float], float], seed: int) -> Halved:
    """A figure computed from the mean over images, with its interval."""
    random, array = np.random.default_rng(seed), values.double().numpy()
    n = len(array) // 2
    orders = [random.permutation(len(array)) for _ in range(DIVISIONS if n else 0)]
    halves = [[figure(float(array[order[k : k + n]].mean())) for k in (0, n)] for order in orders]
    return halved(float(figure(float(array.mean()))), np.array(halves).reshape(-1, 2))
