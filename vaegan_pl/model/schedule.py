"""How learning rates fall over a run."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PowerDecay:
    """The authors' annealing: from 1 to `stop`, by a power of the share of the epochs that is done (their code).

    Args:
        stop: share of each learning rate that is left at the end, in [0, 1].
        exponent: the power, positive.

    Raises:
        ValueError: if an option is out of its range.
    """

    stop: float
    exponent: float

    def __post_init__(self) -> None:
        if not 0 <= self.stop <= 1:
            raise ValueError(f"optimizer.schedule.stop={self.stop}: must lie between 0 and 1")
        if not self.exponent > 0:
            raise ValueError(f"optimizer.schedule.exponent={self.exponent}: must be positive")

    def __call__(self, epoch: int, epochs: int) -> float:
        """Share of each learning rate for an epoch, counted from 0."""
        return 1 - math.pow(epoch / epochs, self.exponent) * (1 - self.stop)
