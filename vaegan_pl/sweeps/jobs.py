"""Records of a sweep and its jobs, which may come from anyone."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from vaegan_pl.errors import UserError
from vaegan_pl.runs.metrics import Series
from vaegan_pl.storage.files import RefusedError, atomic_write, printable, read_json

RECORD, PLAN = "job.json", "options.json"
"""The files with the record of a job and with the plan of a sweep, in the directory of each."""

State = Literal["running", "stopped", "finished", "pruned", "failed"]

MOST_CHARACTERS = 4000
"""The longest option or reason in a record."""

MOST_OVERRIDES, MOST_RUNS, MOST_NUMBER = 1000, 1000, 1e30
"""The most options and runs of a job, and the largest number in a record."""

_NUMBER = re.compile("[0-9]{1,9}")
"""The name of a job's directory."""


@dataclass(frozen=True)
class Objective:
    """What the runs of a sweep are ranked by.

    Attributes:
        metric: the name of a logged metric.
        direction: whether the lowest or the highest value is best.
        worst: the value given to failed jobs and to runs that copy training images; a positive number, whose sign
            follows the direction.
    """

    metric: str
    direction: Literal["minimize", "maximize"]
    worst: float

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise UserError(f"sweep.direction={self.direction}: must be minimize or maximize")
        if not isinstance(self.metric, str):
            raise UserError(f"sweep.objective={self.metric}: must be the name of a logged metric")
        if type(self.worst) not in (int, float) or not 0 < self.worst < math.inf:
            raise UserError(f"sweep.worst={self.worst}: must be a positive number; its sign follows sweep.direction")

    @property
    def penalty(self) -> float:
        """The value of a failed job, or of a run that copies training images."""
        return self.worst if self.direction == "minimize" else -self.worst

    def best(self, series: Series) -> tuple[int, float]:
        """The batch number and the value of the best epoch.

        Raises:
            UserError: if the metric was not logged or was never finite.
        """
        if self.metric not in series:
            known = ", ".join(sorted(name for name in series if "/" in name))
            raise UserError(f"sweep.objective={self.metric}: was not logged; choose one of {known}")
        finite = [(step, value) for step, value in series[self.metric] if math.isfinite(value)]
        if not finite:
            raise UserError(f"{self.metric} was never a finite number")
        return (min if self.direction == "minimize" else max)(finite, key=lambda pair: pair[1])


@dataclass
class Run:
    """One seed of a job.

    Attributes:
        seed: the seed.
        value: the objective's best value; None until it is known.
        step: the batch at which that value was logged.
        copies: the verdict of the copy audit (PASS, NO POWER, WARN or FAIL); None if there was no audit.
        pruned: whether the pruner stopped it early.
        figures: the validation metrics logged at that batch, by name.
        seconds: training time over all attempts.
        wandb: project and ID of its W&B run; None if it has none.
    """

    seed: int
    value: float | None = None
    step: int | None = None
    copies: str | None = None
    pruned: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    wandb: str | None = None

    @property
    def directory(self) -> str:
        """Its directory, relative to the job's."""
        return f"seed_{self.seed}"


@dataclass
class Job:
    """The record of one job.

    Attributes:
        directory: its directory.
        overrides: its options.
        objective: what it is ranked by.
        state: the last recorded state; a job whose process died stays `running`.
        attempts: the number of starts since it last made progress or ended properly.
        moved: write time of the newest checkpoint when the job was last started, in seconds since 1970.
        audit: the number of samples per run in the copy audit; 0 for none.
        runs: one per seed.
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
        """The name of its directory."""
        return self.directory.name

    @property
    def values(self) -> list[float]:
        """The value of each measured run; the penalty for runs that copy training images."""
        values = [(run, run.value) for run in self.runs]
        return [self.objective.penalty if run.copies == "FAIL" else v for run, v in values if v is not None]

    @property
    def counts(self) -> bool:
        """Whether it can be ranked: it is done, and no run copies training images."""
        return self.state in ("finished", "pruned") and all(run.copies != "FAIL" for run in self.runs)

    @property
    def score(self) -> float:
        """The mean of its values; the penalty if it failed or has no values."""
        return self.objective.penalty if self.state == "failed" or not self.values else fmean(self.values)

    def write(self) -> None:
        """Write the record into its directory, atomically."""
        content = {**asdict(self), "directory": None, "score": self.score}
        atomic_write(self.directory / RECORD, json.dumps(content, indent=1))


def read(directory: Path) -> Job:
    """Read a job's record.

    Raises:
        OSError: if it cannot be opened.
        UserError: if it is damaged or contains anything that `Job.write` does not write.
    """
    path = directory / RECORD
    try:
        content = read_json(path)
        content.pop("score", None)
        runs = [_run(run) for run in _list(content.pop("runs"))]
        objective = Objective(**content.pop("objective"))
        job = Job(**{**content, "directory": directory}, objective=objective, runs=runs)
        _check(job)
    except (RefusedError, UserError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{printable(path)}: is damaged ({printable(error)[:200]}); move it away to have the job checked again"
        ) from error
    return job


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _run(content: dict[str, Any]) -> Run:
    place = content.pop("directory", None)  # in records of earlier versions
    run = Run(**content)
    if place not in (None, run.directory):
        raise ValueError("a run in another directory")
    return run


def _check(job: Job) -> None:
    """Check the types and ranges of a record's values.

    Raises:
        TypeError: for a value of the wrong type.
        ValueError: for a number out of range, or text that is too long or cannot be displayed.
    """
    if len(_list(job.overrides)) > MOST_OVERRIDES or len(job.runs) > MOST_RUNS:
        raise ValueError("too many options or runs")
    if not job.runs and job.state in ("finished", "pruned"):
        raise ValueError("a finished job without runs")
    _is(str, *_list(job.overrides), job.state, job.objective.metric, job.objective.direction)
    _is((str, type(None)), job.reason)
    _is((int, float), job.moved, job.objective.worst)
    _is(int, job.attempts, job.audit)
    if job.state not in get_args(State):
        raise ValueError(f"state {job.state}")
    if job.reason is not None:
        job.reason = "\n".join(map(printable, job.reason.split("\n")))[:MOST_CHARACTERS]
    for run in job.runs:
        _is(int, run.seed)
        _is((int, type(None)), run.step)
        _is((int, float, type(None)), run.value)
        _is(bool, run.pruned)
        _is(dict, run.figures)
        _is((int, float), run.seconds, *run.figures.values())
        _is(str, *run.figures)
        _is((str, type(None)), run.wandb, run.copies)
        if run.copies not in (None, "PASS", "NO POWER", "WARN", "FAIL") or not 0 <= run.seed < 2**32:
            raise ValueError("an invalid copy verdict or seed")
        if run.value is not None and not math.isfinite(run.value):
            raise ValueError("a value that is not finite")
    of_runs = (text for run in job.runs for text in (*run.figures, run.wandb or ""))
    for text in (*job.overrides, job.objective.metric, *of_runs):
        if len(text) > MOST_CHARACTERS or printable(text) != text:
            raise ValueError("text that is too long or cannot be displayed")


def _is(kind: type | tuple[type, ...], *values: object) -> None:
    for value in values:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"a {type(value).__name__} in the wrong place")
        if isinstance(value, int | float) and not -MOST_NUMBER < value < MOST_NUMBER and value - value == 0:
            raise ValueError("a number that is too large")


def in_directory(sweep: Path) -> list[Job]:
    """Read all jobs of a sweep, ordered by number.

    Raises:
        UserError: if there are none or a record is damaged.
    """
    found = [read(folder) for folder in directories(sweep)]
    if not found:
        raise UserError(f"sweep={sweep}: contains no jobs of a sweep; give the directory that --multirun wrote")
    return sorted(found, key=lambda job: (not job.number.isdecimal(), job.number.zfill(9)))


def directories(sweep: Path) -> list[Path]:
    """The directories of the jobs that have started; symbolic links are left out."""
    found = (path.parent for path in sorted(sweep.glob(f"*/{RECORD}")))
    return [folder for folder in found if _NUMBER.fullmatch(folder.name) and not folder.is_symlink()]


@dataclass
class Plan:
    """What a sweep was started to do.

    Attributes:
        options: the options of its command line.
        objective: what its jobs are ranked by.
        planned: the total number of jobs; None if unknown.
        jobs: the directory of each job, by its identity (see `options.identity`); empty for a search, whose jobs are
            proposed one at a time.
    """

    options: list[str]
    objective: Objective | None = None
    planned: int | None = None
    jobs: dict[str, str] = field(default_factory=dict)

    def write(self, sweep: Path) -> None:
        """Write the plan into the sweep's directory, atomically."""
        atomic_write(sweep / PLAN, json.dumps(asdict(self), indent=1))


def read_plan(sweep: Path) -> Plan | None:
    """Read a sweep's plan; None if it has none.

    Raises:
        OSError: if it cannot be opened.
        UserError: if it is damaged.
    """
    path = sweep / PLAN
    if not path.exists():
        return None
    try:
        content = read_json(path)
        if isinstance(content, list) and directories(sweep):  # of an earlier version
            content = {"options": content}
        if not isinstance(content, dict):
            raise TypeError("not a plan of this project")
        objective = content.pop("objective", None)
        plan = Plan(**content, objective=None if objective is None else Objective(**objective))
        _is(str, *_list(plan.options), *plan.jobs.keys(), *plan.jobs.values())
        _is((int, type(None)), plan.planned)
        if plan.objective is not None:
            _is(str, plan.objective.metric)
        if not all(map(_NUMBER.fullmatch, plan.jobs.values())):
            raise ValueError("jobs in other directories")
        metric = "" if plan.objective is None else plan.objective.metric
        if any(printable(text) != text for key in (*plan.options, *plan.jobs, metric) for text in key.split("\n")):
            raise ValueError("text that cannot be displayed")
    except (RefusedError, UserError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = printable(error)[:200]
        raise UserError(f"{printable(path)}: is damaged ({reason}); use another sweep.name, or restore it") from error
    return plan


def swept(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """For each option in which jobs differ, its value in every job; an empty string where a job does not set it."""
    options = [dict(override.lstrip("+~").partition("=")[::2] for override in job.overrides) for job in jobs]
    names = sorted({name for each in options for name in each})
    table = {name: [each.get(name, "") for each in options] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}
