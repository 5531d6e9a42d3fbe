"""Detect losses and gradients that are not finite, without reading a number from the GPU in every batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import get_total_norm

from vaegan_pl.model.generative import Gradients


class FiniteWatch:
    """Records the first batch in which each loss and each network's gradient was not finite.

    Args:
        losses: names of the metrics of a step to watch.
        networks: names of the networks whose gradients to watch.
    """

    def __init__(self, losses: Sequence[str], networks: Sequence[str]) -> None:
        self.losses = losses
        self.networks = networks
        self.names = (*losses, *(f"the {name}'s gradient" for name in networks))
        self.first = torch.full((len(self.names),), torch.inf)

    def finite(self, gradients: Gradients) -> Float[Tensor, " watched"]:
        """Return 1 for each watched value that is finite, 0 for the others."""
        norms = [get_total_norm(getattr(gradients, name)) for name in self.networks]
        return torch.stack([*(gradients.metrics[name] for name in self.losses), *norms]).isfinite().float()

    def note(self, finite: Float[Tensor, " watched"], step: int) -> None:
        """Record what was not finite, on any device, in the batch of this step."""
        first = self.first.to(finite.device)
        self.first = torch.where(finite < 1, first.clamp_max(step), first)

    def found(self) -> tuple[int, list[str]] | None:
        """Return the first batch with values that were not finite, and their names; this reads numbers from the GPU."""
        earliest = self.first.min().item()
        if earliest == torch.inf:
            return None
        at_once = (self.first == earliest).tolist()
        return int(earliest), [name for name, lost in zip(self.names, at_once, strict=True) if lost]

    def forget(self) -> None:
        """Forget what was recorded."""
        self.first.fill_(torch.inf)
