"""Callbacks of a sweep's jobs: one checks that the objective is measured, one stops unpromising jobs."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L

from vaegan_pl.errors import UserError
from vaegan_pl.runs.metrics import METRICS, read_series
from vaegan_pl.sweeps import jobs

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class Objective(L.Callback):
    """Stops a job after its first epoch if the objective was not logged.

    Args:
        metric: the logged metric.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look for the metric.

        Raises:
            UserError: if it was not logged.
        """
        if self.metric not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if "/" in name))
            raise UserError(f"sweep.objective={self.metric}: was not logged; choose one of {known}")


class Pruning(L.Callback):
    """Stops a run early when one of Optuna's pruners says so.

    The pruner sees the learning curves of finished runs, read from their directories, so pruning works wherever jobs
    run.

    Args:
        run: the run's directory, which lies in its job's directory, which lies in the sweep's.
        metric: the logged metric to judge by, the sweep's objective.
        direction: `minimize` or `maximize`.
        pruner: one of Optuna's; its steps are epochs, and its trials are runs.

    Raises:
        ValueError: if the metric is not logged once per epoch, or the pruner needs numbered trials (Hyperband), which
            runs are not.
    """

    def __init__(self, run: str | Path, metric: str, direction: str, pruner: "optuna.pruners.BasePruner") -> None:
        if not metric.startswith("validation/"):
            raise ValueError(f"sweep.objective={metric}: to prune by it, it must be a validation/... metric")
        if not hasattr(pruner, "prune"):
            raise ValueError("callbacks.pruning.pruner: lacks its _target_; set one of optuna.pruners")
        if type(pruner).__name__ == "HyperbandPruner":
            raise ValueError("callbacks.pruning.pruner: Hyperband cannot be used here; use SuccessiveHalvingPruner")
        self.job = Path(run).parent
        self.metric = metric
        self.direction = direction
        self.pruner = pruner
        self.values: list[float] = []

    def state_dict(self) -> dict[str, list[float]]:
        """The objective's values so far."""
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Restore the values so far."""
        self.values = [float(value) for value in state_dict["values"]]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask the pruner, except after the last epoch, and stop the run if it says so."""
        self.values.append(float(trainer.callback_metrics.get(self.metric, math.nan)))
        if trainer.current_epoch + 1 != trainer.max_epochs and self._is_hopeless():
            log.warning("epoch %d: pruned, because other jobs are better", trainer.current_epoch + 1)
            pl_module.log("sweep/pruned", 1.0)
            trainer.should_stop = True

    def _is_hopeless(self) -> bool:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction=self.direction, pruner=self.pruner)
        for folder in jobs.directories(self.job.parent):
            try:
                other = jobs.read(folder)
                for run in other.runs:
                    if other.directory != self.job and run.value is not None and not run.pruned:
                        curve = read_series(folder / run.directory / METRICS).get(self.metric, [])
                        study.tell(_show(study, [value for _, value in curve])[0], run.value)
            except (UserError, OSError) as error:
                log.warning("a job is left out of the comparison: %s", error)
        return _show(study, self.values)[1]


def _show(study: "optuna.Study", values: Sequence[float]) -> "tuple[optuna.Trial, bool]":
    """A trial with these values, and whether the pruner stops it after the last.

    The pruner is asked after every value, because some pruners store their earlier decisions in the trial.
    """
    trial, hopeless = study.ask(), False
    for epoch, value in enumerate(values):
        if math.isfinite(value):
            trial.report(value, epoch)
            hopeless = bool(trial.should_prune())
    return trial, hopeless
