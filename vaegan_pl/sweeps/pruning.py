"""What jobs of a sweep do besides: look that they can be ranked, and end where they are hopeless beside the others."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L

from vaegan_pl.errors import UserError
from vaegan_pl.sweeps import jobs

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class Objective(L.Callback):
    """Stops a job after its first epoch if what it is to be ranked by was not measured.

    Args:
        metric: the logged metric.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look for it.

        Raises:
            UserError: if it is not there.
        """
        if self.metric not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if "/" in name))
            raise UserError(f"sweep.objective={self.metric}: was not logged; take one of {known}")


class Pruning(L.Callback):
    """Ends a run, in good order, when one of Optuna's pruners would.

    The pruner is shown the learning curves of the runs that are done, as their directories keep them, so that it works
    wherever the jobs run.

    Args:
        run: the run's directory, in that of its job, in that of the sweep.
        metric: the logged metric to judge by, the sweep's objective.
        direction: `minimize` or `maximize`.
        pruner: decides; epochs are its steps, and runs its trials.

    Raises:
        ValueError: if the metric is not one of those that are logged once an epoch, or the pruner goes by the numbers
            of trials (Hyperband), which runs do not have.
    """

    def __init__(self, run: str | Path, metric: str, direction: str, pruner: "optuna.pruners.BasePruner") -> None:
        if not metric.startswith("validation/"):
            raise ValueError(f"sweep.objective={metric}: to prune by it, it must be a validation/... metric")
        if not hasattr(pruner, "prune"):
            raise ValueError("callbacks.pruning.pruner: lacks its _target_; set one of optuna.pruners")
        if type(pruner).__name__ == "HyperbandPruner":
            raise ValueError("callbacks.pruning.pruner: Hyperband cannot be used here; take SuccessiveHalvingPruner")
        self.job = Path(run).parent
        self.metric = metric
        self.direction = direction
        self.pruner = pruner
        self.values: list[float] = []

    def state_dict(self) -> dict[str, list[float]]:
        """The values of the epochs before."""
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Go on from there."""
        self.values = [float(value) for value in state_dict["values"]]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask the pruner, and end the run if it says so; after the last epoch there is nothing to ask."""
        self.values.append(float(trainer.callback_metrics.get(self.metric, math.nan)))
        if trainer.current_epoch + 1 != trainer.max_epochs and self._hopeless():
            log.warning("epoch %d: pruned, as hopeless beside the other jobs", trainer.current_epoch + 1)
            pl_module.log("sweep/pruned", 1.0)
            trainer.should_stop = True

    def _hopeless(self) -> bool:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction=self.direction, pruner=self.pruner)
        for folder in jobs.directories(self.job.parent):
            try:
                other = jobs.read(folder)
                for run in other.runs:
                    if other.directory != self.job and run.value is not None and not run.pruned:
                        curve = jobs.read_series(folder / run.directory / jobs.METRICS).get(self.metric, [])
                        study.tell(_show(study, [value for _, value in curve])[0], run.value)
            except (UserError, OSError) as error:
                log.warning("a job is not compared with: %s", error)
        return _show(study, self.values)[1]


def _show(study: "optuna.Study", values: Sequence[float]) -> "tuple[optuna.Trial, bool]":
    """A trial of these values, and what the pruner says after the last; some keep in a trial what they said before."""
    trial, hopeless = study.ask(), False
    for epoch, value in enumerate(values):
        if math.isfinite(value):
            trial.report(value, epoch)
            hopeless = bool(trial.should_prune())
    return trial, hopeless
