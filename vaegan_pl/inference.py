"""Running the networks of a saved model, with a progress bar."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

AT_ONCE = 64


@torch.inference_mode()
def in_batches(network: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device, description: str) -> Tensor:
    """Outputs for all inputs, computed in batches of `AT_ONCE` on `device` and gathered on the CPU."""
    batches = tqdm(inputs.split(AT_ONCE), description, unit="batch", leave=False)
    return torch.cat([network(batch.to(device)).cpu() for batch in batches])


def clear(output: Path, prefix: str) -> None:
    """Remove an earlier call's pictures, `PREFIX_NNNNN*.png`, so that two calls never mix in one folder."""
    for picture in output.glob(f"{prefix}_[0-9][0-9][0-9][0-9][0-9]*.png"):
        picture.unlink()
