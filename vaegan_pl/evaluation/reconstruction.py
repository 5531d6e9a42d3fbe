"""How well held-out images come back from the latent space."""

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
    """Mean squared error of each image."""
    return (x - x_tilde).square().flatten(1).mean(1)


def quality(x: Images, x_tilde: Images, seed: int) -> dict[str, Estimate]:
    """PSNR in dB of the whole set, mean SSIM and mean multi-scale SSIM, with bootstrap intervals over images."""
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
    """A figure of the mean over images."""
    random, array = np.random.default_rng(seed), values.double().numpy()
    draws = [figure(float(random.choice(array, len(array)).mean())) for _ in range(RESAMPLES)]
    return bootstrap_ci(float(figure(float(array.mean()))), draws)
