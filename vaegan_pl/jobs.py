"""Jobs of a sweep, as their directories keep them."""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from vaegan_pl.errors import UserError

RECORD = "job.json"
METRICS = "metrics.csv"

State = Literal["running", "stopped", "finished", "pruned", "failed"]
Series = dict[str, list[tuple[int, float]]]


def read_series(metrics: Path) -> Series:
    """The columns of a `metrics.csv` as pairs of batch and value; not of empty cells, nor of an unfinished row."""
    series: Series = defaultdict(list)
    lines = metrics.read_text().splitlines(keepends=True)
    for row in csv.DictReader(line for line in lines if line.endswith("\n")):
        for name, value in row.items():
            if value:
                series[name].append((int(row["step"]), float(value)))
    return series


@dataclass(frozen=True)
class Objective:
    """What the runs of a sweep are ranked by.

    Attributes:
        metric: name of a logged metric.
        direction: whether the least or the greatest value is best.
        worst: how bad a run counts that has no finite value, or copies training images; a positive number.
    """

    metric: str
    direction: Literal["minimize", "maximize"]
    worst: float

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise UserError(f"sweep.direction={self.direction}: must be minimize or maximize")
        if not 0 < self.worst < math.inf:
            raise UserError(f"sweep.worst={self.worst}: must be a positive number; its sign follows sweep.direction")

    @property
    def penalty(self) -> float:
        """The value of such a run."""
        return self.worst if self.direction == "minimize" else -self.worst

    def best(self, series: Series) -> tuple[int, float]:
        """Batch and value of the best epoch.

        Raises:
            UserError: if the metric was not logged, or never finite.
        """
        if self.metric not in series:
            known = ", ".join(sorted(name for name in series if "/" in name))
            raise UserError(f"sweep.objective={self.metric}: was not logged; take one of {known}")
        finite = [(step, value) for step, value in series[self.metric] if math.isfinite(value)]
        if not finite:
            raise UserError(f"{self.metric} was never a finite number")
        return (min if self.direction == "minimize" else max)(finite, key=lambda pair: pair[1])


@dataclass
class Run:
    """One seed of a job.

    Attributes:
        seed: the seed.
        directory: where it is, from the job's directory.
        value: the objective's best value; None until it is known.
        step: the batch that the value was logged at.
        copies: verdict of the audit of copies; None where none was made.
        pruned: whether it was stopped early, as hopeless.
    """

    seed: int
    directory: str
    value: float | None = None
    step: int | None = None
    copies: str | None = None
    pruned: bool = False


@dataclass
class Job:
    """What is known of one job.

    Attributes:
        directory: its directory.
        overrides: the options it was started with.
        objective: what it is ranked by.
        state: `running` also of a job whose process was lost.
        attempts: how often it was started since it last got on or ended in good order.
        moved: when its last checkpoint was written, in seconds since 1970, as of its last start.
        audit: how many samples of each run were searched for copies.
        runs: one a seed.
        reason: why it failed.
    """

    directory: Path
    overrides: list[str]
    objective: Objective
    state: State = "running"
    attempts: int = 0
    moved: float = 0.0
    audit: int = 0
    runs: list[Run] = field(default_factory=list)
    reason: str | None = None

    @property
    def number(self) -> str:
        """Name of its directory."""
        return self.directory.name

    @property
    def values(self) -> list[float]:
        """Of each run that has one; the worst for those that copy training images."""
        values = [(run, run.value) for run in self.runs]
        return [self.objective.penalty if run.copies == "FAIL" else v for run, v in values if v is not None]

    @property
    def counts(self) -> bool:
        """Whether it can be compared with others: it is done, and copies no training images."""
        return self.state in ("finished", "pruned") and all(run.copies != "FAIL" for run in self.runs)

    @property
    def score(self) -> float:
        """Mean over the runs; the worst while there is none, or the job failed."""
        return self.objective.penalty if self.state == "failed" or not self.values else fmean(self.values)

    def write(self) -> None:
        """Keep it in its directory, in one step."""
        from vaegan_pl import sealed  # which imports torch, and help is not to wait for that

        content = {**asdict(self), "directory": None, "score": self.score}
        sealed.publish(self.directory / RECORD, json.dumps(content, indent=1).encode())


def read(directory: Path) -> Job:
    """A job's record.

    Raises:
        UserError: if it is damaged.
    """
    path = directory / RECORD
    try:
        content = json.loads(path.read_text())
        content.pop("score")
        objective, runs = Objective(**content.pop("objective")), [Run(**run) for run in content.pop("runs")]
        return Job(**{**content, "directory": directory}, objective=objective, runs=runs)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it, and the job is looked at anew") from error


def in_directory(sweep: Path) -> list[Job]:
    """The jobs of a sweep, in the order of their numbers.

    Raises:
        UserError: if there are none, or a record is damaged.
    """
    found = [read(path.parent) for path in sweep.glob(f"*/{RECORD}")]
    if not found:
        raise UserError(f"sweep={sweep}: holds no jobs of a sweep; give the directory that --multirun wrote")
    return sorted(found, key=lambda job: (not job.number.isdigit(), job.number.zfill(9)))


def swept(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """The options in which jobs differ, and each job's value of them; empty where a job has none."""
    options = [dict(override.lstrip("+~").partition("=")[::2] for override in job.overrides) for job in jobs]
    names = sorted({name for each in options for name in each})
    table = {name: [each.get(name, "") for each in options] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}
