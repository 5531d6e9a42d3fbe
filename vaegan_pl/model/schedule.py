"""The authors' schedule of the learning rates."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PowerDecay:
    """The factor of the authors' annealing, for `torch.optim.lr_scheduler.LambdaLR` (their code, not the paper).

    It falls from 1 in the first epoch towards `stop`, by a power of the share of the epochs that are done.

    Args:
        stop: the factor at the end of the run, in [0, 1].
        exponent: the power, positive.
        epochs: the number of epochs of the run, at least 1.

    Raises:
        ValueError: if an option is out of its range.
    """

    stop: float
    exponent: float
    epochs: int

    def __post_init__(self) -> None:
        if not 0 <= self.stop <= 1:
            raise ValueError(f"optimizer.schedule.lr_lambda.stop={self.stop}: must lie between 0 and 1")
        if not self.exponent > 0:
            raise ValueError(f"optimizer.schedule.lr_lambda.exponent={self.exponent}: must be positive")
        if not self.epochs >= 1:
            raise ValueError(f"optimizer.schedule.lr_lambda.epochs={self.epochs}: must be at least 1")

    def __call__(self, epoch: int) -> float:
        """The factor of each learning rate in an epoch, counted from 0."""
        return 1 - math.pow(epoch / self.epochs, self.exponent) * (1 - self.stop)
