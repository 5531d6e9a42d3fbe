"""Running the networks of a saved model on the device that Lightning picks, with a progress bar."""

from collections.abc import Callable
from pathlib import Path

import torch
from lightning import Fabric
from torch import Tensor
from tqdm import tqdm

from vaegan_pl.errors import UserError

AT_ONCE = 64


def pick_device(accelerator: str) -> torch.device:
    """The device of one of Lightning's accelerators: auto, cpu, gpu, mps, ...

    Raises:
        UserError: if there is no such accelerator, or none on this machine.
    """
    try:
        return Fabric(accelerator=accelerator, devices=1).device
    except (ValueError, RuntimeError) as error:
        raise UserError(f"accelerator={accelerator}: {error}; take accelerator=auto") from error


@torch.inference_mode()
def in_batches(network: Callable[[Tensor], Tensor], inputs: Tensor, device: torch.device, description: str) -> Tensor:
    """Outputs for all inputs, computed in batches of `AT_ONCE` on `device` and gathered on the CPU."""
    batches = tqdm(inputs.split(AT_ONCE), description, unit="batch", leave=False)
    return torch.cat([network(batch.to(device)).cpu() for batch in batches])


def clear(output: Path, prefix: str) -> None:
    """Remove an earlier call's pictures, `PREFIX_NNNNN*.png`, so that two calls never mix in one folder."""
    for picture in output.glob(f"{prefix}_[0-9][0-9][0-9][0-9][0-9]*.png"):
        picture.unlink()
