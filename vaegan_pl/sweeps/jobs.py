"""Jobs of a sweep, as their directories keep them."""

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import RefusedError, atomic_write, printable, read_json, read_text

RECORD, PLAN = "job.json", "options.json"
"""What a job keeps in its directory, and a sweep in its own."""

METRICS = "metrics.csv"

State = Literal["running", "stopped", "finished", "pruned", "failed"]
Series = dict[str, list[tuple[int, float]]]


MOST_METRICS, MOST_COLUMNS, MOST_VALUES = 2**24, 100, 2**19
"""The most bytes, columns and values of a `metrics.csv`; a thousand epochs have a few megabytes."""

MOST_LETTERS = 4000
"""The most letters of an option or a reason in a record."""

MOST_OVERRIDES, MOST_RUNS, MOST_NUMBER = 1000, 1000, 1e30
"""The most options and runs of a job, and the largest number in a record."""

_NUMBER = re.compile("[0-9]{1,9}")
"""Names of the directories of jobs."""

_STEP = re.compile(r"[0-9]{1,15}")


def read_rows(metrics: Path) -> Iterator[dict[str, str]]:
    """The rows of a `metrics.csv`, without a last one that was not finished.

    Raises:
        OSError: if it cannot be opened.
        UserError: if anything in it is not what a run writes.
    """
    try:
        lines = read_text(metrics, MOST_METRICS).splitlines(keepends=True)
        reader = csv.reader((line for line in lines if line.endswith("\n")), strict=True)
        names, left = next(reader, None), MOST_VALUES
        if names is None:
            return
        _check_names(names)
        for row in reader:
            left -= len(row)
            if left < 0:
                raise RefusedError(f"holds more than {MOST_VALUES:,} values")
            for name, value in zip(names, row, strict=True):
                if value and not (_STEP.fullmatch(value) if name == "step" else _is_number(value)):
                    raise RefusedError(f"is damaged (line {reader.line_num}: {printable(value)[:40]} is not a number)")
            yield dict(zip(names, row, strict=True))
    except (RefusedError, csv.Error, ValueError) as error:
        reason = error if isinstance(error, RefusedError) else f"is damaged ({printable(error)})"
        raise UserError(f"{metrics}: {reason}; move it away, or restore it") from error


def _check_names(names: Sequence[str]) -> None:
    can_be_shown = all(name and len(name) < MOST_COLUMNS and printable(name) == name for name in names)
    once = len({*names}) == len(names) <= MOST_COLUMNS
    if not can_be_shown or not once or "step" not in names:
        raise RefusedError("is damaged (its first line does not name the columns)")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def read_series(metrics: Path) -> Series:
    """The columns of a `metrics.csv` as pairs of batch and value, without empty cells.

    Raises:
        OSError: see `read_rows`.
        UserError: see `read_rows`.
    """
    series: Series = defaultdict(list)
    for row in read_rows(metrics):
        for name, value in row.items():
            if value and row["step"]:
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
        if not isinstance(self.metric, str):
            raise UserError(f"sweep.objective={self.metric}: must be the name of a logged metric")
        if type(self.worst) not in (int, float) or not 0 < self.worst < math.inf:
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
        value: the objective's best value; None until it is known.
        step: the batch that the value was logged at.
        copies: verdict of the audit of copies; None where none was made.
        pruned: whether it was stopped early, as hopeless.
        figures: the other validation figures of that batch, by name.
        seconds: how long it trained, over all attempts.
        wandb: project and id of its W&B run; None without one.
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
        """Where it is, from the job's directory."""
        return f"seed_{self.seed}"


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
        content = {**asdict(self), "directory": None, "score": self.score}
        atomic_write(self.directory / RECORD, json.dumps(content, indent=1))


def read(directory: Path) -> Job:
    """A job's record.

    Raises:
        OSError: if it cannot be opened.
        UserError: if it is damaged, or holds anything but what `Job.write` writes.
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
        raise ValueError("a run that lies elsewhere")
    return run


def _check(job: Job) -> None:
    """Refuse values of other types than a job's, and text that cannot be shown.

    Raises:
        TypeError: for such a value.
        ValueError: for a number out of its range.
    """
    if len(_list(job.overrides)) > MOST_OVERRIDES or len(job.runs) > MOST_RUNS:
        raise ValueError("too many options or runs")
    if not job.runs and job.state in ("finished", "pruned"):
        raise ValueError("a job that is done without a run")
    _is(str, *_list(job.overrides), job.state, job.objective.metric, job.objective.direction)
    _is((str, type(None)), job.reason)
    _is((int, float), job.moved, job.objective.worst)
    _is(int, job.attempts, job.audit)
    if job.state not in get_args(State):
        raise ValueError(f"state {job.state}")
    if job.reason is not None:
        job.reason = "\n".join(map(printable, job.reason.split("\n")))[:MOST_LETTERS]
    for run in job.runs:
        _is(int, run.seed)
        _is((int, type(None)), run.step)
        _is((int, float, type(None)), run.value)
        _is(bool, run.pruned)
        _is(dict, run.figures)
        _is((int, float), run.seconds, *run.figures.values())
        _is(str, *run.figures)
        _is((str, type(None)), run.wandb, run.copies)
        if run.copies not in (None, "PASS", "WARN", "FAIL") or not 0 <= run.seed < 2**32:
            raise ValueError("an invalid copy verdict or seed")
        if run.value is not None and not math.isfinite(run.value):
            raise ValueError("a value that is not finite")
    of_runs = (text for run in job.runs for text in (*run.figures, run.wandb or ""))
    for text in (*job.overrides, job.objective.metric, *of_runs):
        if len(text) > MOST_LETTERS or printable(text) != text:
            raise ValueError("text that is too long, or cannot be shown")


def _is(kind: type | tuple[type, ...], *values: object) -> None:
    for value in values:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"a {type(value).__name__} in the wrong place")
        if isinstance(value, int | float) and not -MOST_NUMBER < value < MOST_NUMBER and value - value == 0:
            raise ValueError("a number that is too large")


def in_directory(sweep: Path) -> list[Job]:
    """The jobs of a sweep, in the order of their numbers.

    Raises:
        UserError: if there are none, or a record is damaged.
    """
    found = [read(folder) for folder in directories(sweep)]
    if not found:
        raise UserError(f"sweep={sweep}: holds no jobs of a sweep; give the directory that --multirun wrote")
    return sorted(found, key=lambda job: (not job.number.isdecimal(), job.number.zfill(9)))


def directories(sweep: Path) -> list[Path]:
    """The directories of the jobs of a sweep that have begun; links are none."""
    found = (path.parent for path in sorted(sweep.glob(f"*/{RECORD}")))
    return [folder for folder in found if _NUMBER.fullmatch(folder.name) and not folder.is_symlink()]


@dataclass
class Plan:
    """What a sweep was started to do.

    Attributes:
        options: the command line.
        objective: what its jobs are ranked by.
        planned: how many jobs there are to be.
        jobs: where jobs lie, by what tells them from others; empty where they are proposed one after the other.
    """

    options: list[str]
    objective: Objective | None = None
    planned: int | None = None
    jobs: dict[str, str] = field(default_factory=dict)

    def write(self, sweep: Path) -> None:
        """Keep it in the sweep's directory, in one step."""
        atomic_write(sweep / PLAN, json.dumps(asdict(self), indent=1))


def read_plan(sweep: Path) -> Plan | None:
    """A sweep's plan; None if it has none.

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
            raise ValueError("jobs that lie elsewhere")
        metric = "" if plan.objective is None else plan.objective.metric
        if any(printable(text) != text for key in (*plan.options, *plan.jobs, metric) for text in key.split("\n")):
            raise ValueError("text that cannot be shown")
    except (RefusedError, UserError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = printable(error)[:200]
        raise UserError(f"{printable(path)}: is damaged ({reason}); take another sweep.name, or restore it") from error
    return plan


def swept(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """The options in which jobs differ, and each job's value of them; empty where a job has none."""
    options = [dict(override.lstrip("+~").partition("=")[::2] for override in job.overrides) for job in jobs]
    names = sorted({name for each in options for name in each})
    table = {name: [each.get(name, "") for each in options] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}
