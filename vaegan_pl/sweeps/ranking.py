"""The ranking of a sweep's jobs, and how far the best is ahead."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from vaegan_pl.storage.files import is_next_to
from vaegan_pl.sweeps.jobs import Job, Objective, Plan, Run, swept

KID, PSNR = "validation/kid", "validation/psnr"

LAST_MODEL, BEST_MODEL = "vae_gan_model.pth", "vae_gan_model_best.pth"
"""The model files of a run: of its last epoch, and of the epoch with the lowest KID."""

_LONGEST_VALUE = 6
"""Numbers with more characters than this are rounded where they are displayed."""


def short(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:.3g}"


@dataclass(frozen=True)
class Parameter:
    """An option that differs between jobs.

    Attributes:
        name: the option.
        values: its value in each job, as on the command line; empty where a job does not set it.
    """

    name: str
    values: list[str]

    @cached_property
    def numbers(self) -> list[float] | None:
        """The values as numbers; None if any of them is not a number."""
        try:
            return [float(value) for value in self.values]
        except ValueError:
            return None

    @cached_property
    def levels(self) -> list[str]:
        """The distinct values, sorted."""
        return sorted(set(self.values), key=(lambda v: (float(v), v)) if self.numbers else (lambda v: (0.0, v)))

    def shown(self, place: int) -> str:
        """A job's value, with long numbers rounded."""
        value = self.values[place]
        return value if self.numbers is None or len(value) <= _LONGEST_VALUE else short(float(value))


@dataclass(frozen=True)
class Lead:
    """How far the best job is ahead of the second.

    Attributes:
        gap: the difference of their scores, at least 0.
        spread: the largest difference between two seeds of one of these jobs; None if either has a single seed.
    """

    gap: float
    spread: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the gap is larger than the spread."""
        return self.spread is not None and self.gap > self.spread


@dataclass(frozen=True)
class Ranking:
    """The jobs of a sweep, best first.

    Attributes:
        objective: what they are ranked by.
        ranked: the jobs with this objective; those that do not count come last.
        others: the jobs that were measured with another objective.
        parameters: the options in which the ranked jobs differ.
        states: the state of each job, by its number; `lost` if its process died.
        planned: the total number of jobs; None if unknown.
    """

    objective: Objective
    ranked: list[Job]
    others: list[Job]
    parameters: list[Parameter]
    states: dict[str, str]
    planned: int | None

    @staticmethod
    def of(found: Sequence[Job], plan: Plan | None, held: Collection[str]) -> "Ranking":
        """Rank jobs by the plan's objective, or by the first job's if there is no plan.

        Args:
            found: the jobs of a sweep, at least one.
            plan: what the sweep was started to do.
            held: the numbers of the jobs that a process is working on.
        """
        objective = plan.objective if plan is not None and plan.objective is not None else found[0].objective
        sign = 1 if objective.direction == "minimize" else -1
        own = [job for job in found if _same(job.objective, objective)]
        ranked = sorted(own, key=lambda job: (not job.counts, sign * job.score))
        others = [job for job in found if job not in own]
        parameters = [Parameter(name, values) for name, values in swept(ranked).items()]
        states = {job.number: _state(job, held) for job in found}
        return Ranking(objective, ranked, others, parameters, states, None if plan is None else plan.planned)

    @property
    def measured(self) -> list[int]:
        """Places in the ranking of the jobs that count."""
        return [i for i, job in enumerate(self.ranked) if job.counts]

    @property
    def copiers(self) -> list[Job]:
        """The finished jobs that do not count because a run copies training images."""
        return [job for job in self.ranked if job.state in ("finished", "pruned") and not job.counts]

    @property
    def best(self) -> Job | None:
        """The winner; None if no job counts."""
        return self.ranked[0] if self.measured else None

    @property
    def lead(self) -> Lead | None:
        """How far the best job is ahead; None if fewer than two jobs count."""
        if len(self.measured) < 2:
            return None
        pair = [self.ranked[i] for i in self.measured[:2]]
        gap = abs(pair[0].score - pair[1].score)
        if any(len(job.values) < 2 for job in pair):
            return Lead(gap, None)
        return Lead(gap, max(max(job.values) - min(job.values) for job in pair))

    @property
    def is_complete(self) -> bool:
        """Whether every planned job has ended."""
        ended = all(state in ("finished", "pruned", "failed") for state in self.states.values())
        return ended and not self.others and (self.planned is None or self.planned <= len(self.states))

    @property
    def metric(self) -> str:
        """The name of the objective."""
        return self.objective.metric

    @property
    def figures(self) -> list[str]:
        """The names of the other validation metrics that any job has."""
        names = (name for job in self.ranked for run in job.runs for name in run.figures)
        return [name for name in dict.fromkeys(names) if name != self.metric]

    def best_run(self, job: Job) -> Run:
        """The run with the best value of a job that counts."""
        measured = [(run.value, run) for run in job.runs if run.value is not None]
        return (min if self.objective.direction == "minimize" else max)(measured, key=lambda pair: pair[0])[1]

    def model_file(self, job: Job, run: Run) -> Path | None:
        """The model file of a run; None if there is none.

        It is that of the best epoch if jobs are ranked by KID. For other objectives, runs keep only the last epoch.
        """
        by_kid = (self.metric, self.objective.direction) == (KID, "minimize")
        paths = [job.directory / run.directory / name for name in ([BEST_MODEL] if by_kid else []) + [LAST_MODEL]]
        return next((path for path in paths if is_next_to(path, job.directory)), None)


def _same(one: Objective, other: Objective) -> bool:
    return (one.metric, one.direction) == (other.metric, other.direction)


def _state(job: Job, held: Collection[str]) -> str:
    return "lost" if job.state == "running" and job.number not in held else job.state


def trade_offs(ranking: Ranking) -> dict[str, tuple[float, float]]:
    """KID and PSNR of each job for which both are known and finite, as means over seeds, by the job's number."""
    places: dict[str, tuple[float, float]] = {}
    for i in ranking.measured:
        job = ranking.ranked[i]
        runs = [{**run.figures, ranking.metric: run.value} for run in job.runs]
        kids, psnrs = ([value for run in runs if (value := run.get(name)) is not None] for name in (KID, PSNR))
        if kids and psnrs and math.isfinite(sum(kids) + sum(psnrs)):
            places[job.number] = fmean(kids), fmean(psnrs)
    return places


def pareto_front(places: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of the points that no other beats with both a lower first and a higher second value, left to right."""
    front: list[str] = []
    for name, (_, value) in sorted(places.items(), key=lambda item: (item[1][0], -item[1][1])):
        if not front or value > places[front[-1]][1]:
            front.append(name)
    return front
