"""Quality of reconstructions."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from vaegan_pl.evaluation.classifier import AT_ONCE, Images
from vaegan_pl.evaluation.diversity import ms_ssim
from vaegan_pl.evaluation.estimate import Estimate, bootstrap_ci

RESAMPLES = 1000


def squared_error(x: Images, x_tilde: Images) -> Float[Tensor, " image"]:
    """Mean squared error of each image, over pixels in [-1, 1]."""
    return (x - x_tilde).square().flatten(1).mean(1)


def quality(x: Images, x_tilde: Images, seed: int) -> dict[str, Estimate]:
    """PSNR of the whole set in dB, mean SSIM and mean multi-scale SSIM, with bootstrap intervals over images.

    Images are in [-1, 1], so the PSNR of a mean squared error e is 10 log10(4 / e).
    """
    similarity = []
    for a, b in zip(x.split(AT_ONCE), x_tilde.split(AT_ONCE), strict=True):
        value = structural_similarity_index_measure(b, a, data_range=2.0, reduction="none")
        assert isinstance(value, Tensor)
        similarity.append(value.reshape(-1))
    return {
        "PSNR": _bootstrapped(squared_error(x, x_tilde), lambda error: 10 * np.log10(4 / error), seed),
        "SSIM": _bootstrapped(torch.cat(similarity), lambda mean: mean, seed),
        "MS-SSIM": _bootstrapped(ms_ssim(x_tilde, x), lambda mean: mean, seed),
    }


def _bootstrapped(values: Float[Tensor, " image"], figure: Callable[[float], float], seed: int) -> Estimate:
    """A figure computed from the mean over images, with its bootstrap interval."""
    random, array = np.random.default_rng(seed), values.double().numpy()
    draws = [figure(float(random.choice(array, len(array)).mean())) for _ in range(RESAMPLES)]
    return bootstrap_ci(float(figure(float(array.mean()))), draws)
