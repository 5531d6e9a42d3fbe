"""Stopping jobs of a sweep that are hopeless beside the others."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L

from vaegan_pl import jobs
from vaegan_pl.errors import UserError

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class Pruning(L.Callback):
    """Ends a run, in good order, when one of Optuna's pruners would.

    The pruner is shown the learning curves of the jobs that are done, as their directories keep them, so that it works
    wherever the jobs run.

    Args:
        job: the job's directory; the others lie beside it.
        metric: the logged metric to judge by, the sweep's objective.
        direction: `minimize` or `maximize`.
        pruner: decides; epochs are its steps.
    """

    def __init__(self, job: str | Path, metric: str, direction: str, pruner: "optuna.pruners.BasePruner") -> None:
        self.job = Path(job)
        self.metric = metric
        self.direction = direction
        self.pruner = pruner
        self.values: list[float] = []

    def state_dict(self) -> dict[str, list[float]]:
        """The values of the epochs before."""
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Go on from there."""
        self.values = state_dict["values"]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask the pruner, and end the run if it says so.

        Raises:
            UserError: if the metric is not logged.
        """
        if self.metric not in trainer.callback_metrics:
            raise UserError(f"callbacks.pruning: {self.metric} is not logged; take one of the logged metrics")
        self.values.append(float(trainer.callback_metrics[self.metric]))
        if trainer.strategy.broadcast(self._hopeless()):
            log.warning("epoch %d: pruned, as hopeless beside the other jobs", trainer.current_epoch + 1)
            pl_module.log("sweep/pruned", 1.0)
            trainer.should_stop = True

    def _hopeless(self) -> bool:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction=self.direction, pruner=self.pruner)
        for path in self.job.parent.glob(f"*/{jobs.RECORD}"):
            other = jobs.read(path.parent)
            if other.state != "finished" or path.parent == self.job:
                continue
            for run in other.runs:
                curve = jobs.read_series(path.parent / run.directory / jobs.METRICS).get(self.metric, [])
                if run.value is not None:
                    study.tell(_shown(study, [value for _, value in curve]), run.value)
        return bool(_shown(study, self.values).should_prune())


def _shown(study: "optuna.Study", values: Sequence[float]) -> "optuna.Trial":
    trial = study.ask()
    for epoch, value in enumerate(values):
        if math.isfinite(value):
            trial.report(value, epoch)
    return trial
