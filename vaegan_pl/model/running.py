"""Running networks on many inputs in batches, with a progress bar."""

from collections.abc import Callable

import torch
from torch import Tensor

from vaegan_pl.errors import UserError
from vaegan_pl.progress import track

AT_ONCE = 64


@torch.no_grad()
def in_batches(
    network: Callable[..., Tensor], inputs: Tensor, y: Tensor | None, device: torch.device, description: str
) -> Tensor:
    """Outputs for all inputs, computed on `device` in batches of `AT_ONCE` and collected on the CPU.

    Args:
        network: the function to apply to a batch of inputs and classes.
        inputs: images or latents.
        y: their class indices, which conditional networks need and others ignore; None without labels.
        device: the device that computes.
        description: the label of the progress bar.

    Raises:
        UserError: if an output is not finite.
    """
    xs = inputs.split(AT_ONCE)
    pairs = list(zip(xs, [None] * len(xs) if y is None else y.split(AT_ONCE), strict=True))
    batches = track(pairs, description, "batch")
    outputs = torch.cat([network(x.to(device), y if y is None else y.to(device)).cpu() for x, y in batches])
    if not outputs.isfinite().all():
        raise UserError(f"{description}: the model outputs NaN or infinity; it is damaged, or its training diverged")
    return outputs


def posteriors(
    encoder: Callable[..., tuple[Tensor, Tensor]], x: Tensor, y: Tensor | None, device: torch.device, description: str
) -> tuple[Tensor, Tensor]:
    """The means and the logarithms of the variances of images' posteriors; see `in_batches`.

    Args:
        encoder: the encoder.
        x: images.
        y: their class indices, which conditional encoders need.
        device: the device that computes.
        description: the label of the progress bar.
    """
    mean, log_variance = in_batches(lambda x, y: torch.stack(encoder(x, y), 1), x, y, device, description).unbind(1)
    return mean, log_variance
