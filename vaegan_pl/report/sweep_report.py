"""What a sweep found, on one page: which options are best, how sure that is, and what failed."""

import csv
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from PIL import Image

from vaegan_pl.errors import UserError
from vaegan_pl.report.page import Picture, Section, Table, literal, picture, render
from vaegan_pl.report.pictures import read_picture
from vaegan_pl.storage.files import RefusedError, atomic_write, is_next_to
from vaegan_pl.storage.outputs import MADE_BY
from vaegan_pl.sweeps import jobs
from vaegan_pl.sweeps.jobs import Job, Objective, Plan, Run, Series

CSV, JSON, MAPS, PAGE = "sweep.csv", "sweep.json", "sweep.png", "sweep.html"
NAMES = r"sweep\.(csv|json|png|html)"

log = logging.getLogger(__name__)

MOST_SIDE = 1100
"""Pixels of a side of a job's samples on the page."""

WIDE = 5
"""Numbers are shown on a logarithmic axis where the greatest is so many times the least, or more."""

MOST_MAPPED = 6
"""Options of which maps are drawn, one for each pair."""

MOST_LINED = 12
"""Options that stand side by side in one picture."""

SHOWN = 12
STATES = ("finished", "pruned", "failed", "stopped", "running", "lost")
KID, PSNR = "validation/kid", "validation/psnr"
_NAMED = 6
_LETTERS = 6
_COLUMNS = 3


@dataclass(frozen=True)
class Parameter:
    """An option that was swept.

    Attributes:
        name: the option.
        values: of each job, as on the command line.
    """

    name: str
    values: list[str]

    @cached_property
    def numbers(self) -> list[float] | None:
        """The values as numbers, if they are."""
        try:
            return [float(value) for value in self.values]
        except ValueError:
            return None

    @cached_property
    def levels(self) -> list[str]:
        """The different values, in their order."""
        return sorted(set(self.values), key=(lambda v: (float(v), v)) if self.numbers else (lambda v: (0.0, v)))

    def shown(self, place: int) -> str:
        """A job's value in few letters."""
        value = self.values[place]
        return value if self.numbers is None or len(value) <= _LETTERS else _number(float(value))

    @property
    def scale(self) -> str:
        """`log` or `linear`."""
        numbers = self.numbers
        return "log" if numbers and min(numbers) > 0 and max(numbers) >= WIDE * min(numbers) else "linear"

    @property
    def places(self) -> list[float]:
        """Where each job stands on an axis: its number, or that of its word."""
        return self.numbers or [float(self.levels.index(value)) for value in self.values]


@dataclass(frozen=True)
class Sweep:
    """Jobs, the best first, and the options in which they differ.

    Attributes:
        objective: what they are ranked by.
        ranked: the jobs that are, or will be, measured by it.
        others: those that were measured by something else.
        parameters: the options in which the ranked jobs differ.
        states: of each job, by its number.
        planned: how many jobs there are to be; None if that is not known.
        commands: what trains each job again, by its number.
    """

    objective: Objective
    ranked: list[Job]
    others: list[Job]
    parameters: list[Parameter]
    states: dict[str, str]
    planned: int | None
    commands: dict[str, str]

    @staticmethod
    def of(found: Sequence[Job], plan: Plan | None, held: Collection[str], commands: dict[str, str]) -> "Sweep":
        """Rank jobs; those that do not count come last."""
        objective = plan.objective if plan is not None and plan.objective is not None else found[0].objective
        sign = 1 if objective.direction == "minimize" else -1

        def order(job: Job) -> tuple[bool, float]:
            return not job.counts, sign * job.score

        own = [job for job in found if _same(job.objective, objective)]
        ranked = sorted(own, key=order)
        others = [job for job in found if job not in own]
        parameters = [Parameter(name, values) for name, values in jobs.swept(ranked).items()]
        states = {job.number: _state(job, held) for job in found}
        return Sweep(objective, ranked, others, parameters, states, None if plan is None else plan.planned, commands)

    @property
    def measured(self) -> list[int]:
        """Places in the ranking of the jobs that count."""
        return [i for i, job in enumerate(self.ranked) if job.counts]

    @property
    def metric(self) -> str:
        """Name of the objective."""
        return self.objective.metric

    @property
    def figures(self) -> list[str]:
        """The other validation figures that a job has."""
        names = (name for job in self.ranked for run in job.runs for name in run.figures)
        return [name for name in dict.fromkeys(names) if name != self.metric]

    def settings(self, place: int) -> str:
        """What is particular to a job."""
        return ", ".join(f"{p.name}={p.shown(place)}" for p in self.parameters if p.values[place]) or "no options"


def _same(one: Objective, other: Objective) -> bool:
    return (one.metric, one.direction) == (other.metric, other.direction)


def _state(job: Job, held: Collection[str]) -> str:
    return "lost" if job.state == "running" and job.number not in held else job.state


def write(
    found: Sequence[Job], directory: Path, plan: Plan | None, held: Collection[str], commands: dict[str, str]
) -> list[Path]:
    """Write `sweep.csv`, `sweep.json`, `sweep.html` and its maps as `sweep.png` into a directory; returns their paths.

    There are maps where at least two options were swept.

    Args:
        found: the sweep's jobs.
        directory: where the files go.
        plan: what the sweep was started to do.
        held: numbers of the jobs that a process is doing.
        commands: for each job's number, the command that trains it again.
    """
    sweep = Sweep.of(found, plan, held, commands)
    maps = _maps(sweep)
    files: dict[str, str | bytes] = {CSV: _csv(sweep), JSON: _json(sweep, directory)}
    if maps is not None:
        files[MAPS] = maps.png
    files[PAGE] = _page(sweep, directory, maps)
    for name, content in files.items():
        atomic_write(directory / name, content, durable=False)
    return [directory / name for name in files]


def _csv(sweep: Sweep) -> str:
    """A row for each run."""
    text = StringIO(newline="")
    parameters = [parameter for parameter in sweep.parameters if parameter.name != "seed"]  # each run has its own
    names, figures = [parameter.name for parameter in parameters], sweep.figures
    writer = csv.writer(text)
    head = ["rank", "job", "seed", *names, sweep.metric, *figures]
    writer.writerow([*head, "batch", "minutes", "state", "copies", "wandb", "directory"])
    for rank, job in enumerate(sweep.ranked, start=1):
        values = [parameter.values[rank - 1] for parameter in parameters]
        state, where = sweep.states[job.number], job.directory
        if not job.runs:
            writer.writerow([rank, job.number, "", *values, "", *("" for _ in figures), "", "", state, "", "", where])
        for run in job.runs:
            row = [rank, job.number, run.seed, *values, run.value, *(run.figures.get(name) for name in figures)]
            row += [run.step, round(run.seconds / 60, 2), "pruned" if run.pruned else state, run.copies, run.wandb]
            writer.writerow([*row, where / run.directory])
    return text.getvalue()


def _json(sweep: Sweep, directory: Path) -> str:
    ranked = [
        {
            "job": job.number,
            "state": sweep.states[job.number],
            "options": {p.name: p.values[i] for p in sweep.parameters},
            "score": job.score if i in sweep.measured else None,
            "values": {run.seed: run.value for run in job.runs},
            "figures": {run.seed: run.figures for run in job.runs},
            "minutes": {run.seed: round(run.seconds / 60, 2) for run in job.runs},
            "wandb": {run.seed: run.wandb for run in job.runs},
            "copies": {run.seed: run.copies for run in job.runs},
            "reason": job.reason,
            "command": sweep.commands[job.number],
        }
        for i, job in enumerate(sweep.ranked)
    ]
    others = [{"job": job.number, "objective": vars(job.objective), "score": job.score} for job in sweep.others]
    content = {
        "made_by": MADE_BY,
        "sweep": directory.name,
        "objective": vars(sweep.objective),
        "planned": sweep.planned,
        "jobs": ranked,
        "measured_by_something_else": others,
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def _lead(sweep: Sweep) -> str:
    """How far the sweep is."""
    counts = [f"{n} {state}" for state in STATES if (n := list(sweep.states.values()).count(state))]
    n = len(sweep.states)
    if sweep.planned is not None and sweep.planned > n:
        return f"{sweep.planned} jobs planned: {', '.join([*counts, f'{sweep.planned - n} not begun'])}."
    return f"{n} jobs: {', '.join(counts)}."


def _page(sweep: Sweep, directory: Path, maps: Picture | None) -> str:
    measured = sweep.measured
    lead = [f"{_lead(sweep)} Ranked by {_words(sweep)}."]
    sections = [Section("Ranking", _verdict(sweep), [_table(sweep)])]
    if measured:
        best = sweep.ranked[0]
        lead.append(f"Best: {sweep.settings(0)}, with {sweep.metric} {_number(best.score)}.")
        lead.append(f"To train it again: {sweep.commands[best.number]}")
        sections += [
            Section("Pairs of options", pictures=[] if maps is None else [maps]),
            Section("All options at once", pictures=[_parallel(sweep)]),
            Section("Samples against reconstructions", pictures=_trade_off(sweep)),
            Section("Learning curves", pictures=[_curves(sweep)]),
            Section("Samples", _about_samples(sweep), pictures=_samples(sweep)),
        ]
    failed = [job for job in sweep.ranked if job.state == "failed"]
    if failed:
        rows = [[job.number, sweep.settings(sweep.ranked.index(job)), str(job.reason)] for job in failed]
        sections.append(Section("Failures", tables=[Table(["job", "options", "reason"], rows)]))
    if sweep.others:
        flags = f"sweep.objective={sweep.metric} sweep.direction={sweep.objective.direction}"
        text = [
            f"These jobs used another objective and are not ranked. To measure them, run the sweep again with {flags}."
        ]
        rows = [
            [job.number, job.objective.metric, _number(job.score), sweep.states[job.number]] for job in sweep.others
        ]
        sections.append(
            Section("Measured with another objective", text, [Table(["job", "by", "score", "state"], rows)])
        )
    kept = [section for section in sections if section.text or section.tables or section.pictures]
    return render(f"Sweep {directory.name}", lead, kept)


def _words(sweep: Sweep) -> str:
    lowest = "lowest" if sweep.objective.direction == "minimize" else "highest"
    seeds = max((len(job.runs) for job in sweep.ranked), default=0)
    return f"the {lowest} {sweep.metric} of any epoch" + (f", mean over {seeds} seeds" if seeds > 1 else "")


def _verdict(sweep: Sweep) -> list[str]:
    """Whether the best is better than the next by more than seeds differ."""
    if len(sweep.measured) < 2:
        return []
    first, second = (sweep.ranked[i] for i in sweep.measured[:2])
    if len(first.values) < 2 or len(second.values) < 2:
        return ["With one seed a job, small differences are chance; sweep.seeds=3 tells how much."]
    spread = max(max(job.values) - min(job.values) for job in (first, second))
    gap = abs(first.score - second.score)
    if gap <= spread:
        return [f"The first two lie {_number(gap)} apart, their seeds {_number(spread)}: they cannot be told apart."]
    return [f"The first two lie {_number(gap)} apart, their seeds no more than {_number(spread)}."]


def _table(sweep: Sweep) -> Table:
    columns = [
        "rank",
        "job",
        *(p.name for p in sweep.parameters),
        sweep.metric,
        "over seeds",
        *(name.removeprefix("validation/") for name in sweep.figures),
        "batch",
        "minutes",
        "copies",
        "W&B run",
        "state",
    ]
    rows: list[list[str | int]] = []
    for i, job in enumerate(sweep.ranked):
        values = job.values
        spread = f"{_number(min(values))} to {_number(max(values))}" if len(values) > 1 else ""
        steps = [run.step for run in job.runs if run.step is not None]
        copies = ", ".join(sorted({run.copies for run in job.runs if run.copies is not None})) or "not audited"
        score = _number(job.score) if i in sweep.measured else ""
        batch = str(round(fmean(steps))) if steps else ""
        options = [parameter.shown(i) for parameter in sweep.parameters]
        figures = [_mean(job, name) for name in sweep.figures]
        minutes = f"{sum(run.seconds for run in job.runs) / 60:.1f}"
        wandb = ", ".join(run.wandb for run in job.runs if run.wandb is not None)
        state = sweep.states[job.number]
        rows.append([i + 1, job.number, *options, score, spread, *figures, batch, minutes, copies, wandb, state])
    return Table(columns, rows)


def _mean(job: Job, name: str) -> str:
    values = [run.figures[name] for run in job.runs if name in run.figures]
    return _number(fmean(values)) if values else ""


def _number(value: float) -> str:
    return f"{value:.3g}"


def _colours(sweep: Sweep) -> tuple[Normalize, Colormap]:
    """The best is dark, whichever way is better."""
    scores = [sweep.ranked[i].score for i in sweep.measured]
    low, high = min(scores), max(scores)
    wide = low > 0 and high >= WIDE * low
    best_low = sweep.objective.direction == "minimize"
    return (LogNorm if wide else Normalize)(low, high), colormaps["viridis" if best_low else "viridis_r"]


def _maps(sweep: Sweep) -> Picture | None:
    """A map for every pair of options: cells where they form a grid, points where they do not."""
    pairs = list(combinations(sweep.parameters[:MOST_MAPPED], 2))
    if not pairs or not sweep.measured:
        return None
    columns = min(2, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(6 * columns, 4.4 * rows), layout="constrained")
    averaged = False
    for place, (x, y) in enumerate(pairs, start=1):
        cells: dict[tuple[int, int], list[float]] = {}
        for i in sweep.measured:
            cell = y.levels.index(y.values[i]), x.levels.index(x.values[i])
            cells.setdefault(cell, []).append(sweep.ranked[i].score)
        axes = figure.add_subplot(rows, columns, place)
        if len(x.levels) * len(y.levels) <= 2 * len(cells):
            _cells(axes, sweep, x, y, cells)
            averaged |= len(pairs) > 1
        else:
            _points(axes, sweep, x, y)
        axes.set_xlabel(literal(x.name))
        axes.set_ylabel(literal(y.name))
    norm, colours = _colours(sweep)
    figure.colorbar(ScalarMappable(norm, colours), ax=figure.axes, label=literal(sweep.metric))
    captions = ["Cells are means over the other options."] if averaged else []
    if len(sweep.parameters) > MOST_MAPPED:
        captions.append(f"Of {len(sweep.parameters)} options, the first {MOST_MAPPED}.")
    return picture(figure, f"{sweep.metric} against every pair of options", " ".join(captions))


def _cells(axes: Axes, sweep: Sweep, x: Parameter, y: Parameter, cells: dict[tuple[int, int], list[float]]) -> None:
    table = np.full((len(y.levels), len(x.levels)), np.nan)
    for place, scores in cells.items():
        table[place] = fmean(scores)
    norm, colours = _colours(sweep)
    axes.imshow(table, cmap=colours, norm=norm, origin="lower", aspect="auto")
    axes.set_xticks(range(len(x.levels)), list(map(literal, x.levels)))
    axes.set_yticks(range(len(y.levels)), list(map(literal, y.levels)))
    for (row, column), value in np.ndenumerate(table):
        known = not math.isnan(value)
        red, green, blue, _ = colours(norm(value)) if known else (1, 1, 1, 1)
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        axes.text(column, row, _number(value) if known else "none", ha="center", va="center", color=ink)


def _points(axes: Axes, sweep: Sweep, x: Parameter, y: Parameter) -> None:
    norm, colours = _colours(sweep)
    places = sweep.measured
    scores = [sweep.ranked[i].score for i in places]
    xs, ys = ([parameter.places[i] for i in places] for parameter in (x, y))
    axes.scatter(xs, ys, c=scores, cmap=colours, norm=norm, s=70, edgecolors="black", linewidths=0.5)
    axes.scatter(xs[:1], ys[:1], s=260, facecolors="none", edgecolors="tab:red", label="best")
    for parameter, axis in ((x, "x"), (y, "y")):
        axes.set(**{f"{axis}scale": parameter.scale})
        if parameter.numbers is None:
            axes.set(
                **{
                    f"{axis}ticks": range(len(parameter.levels)),
                    f"{axis}ticklabels": list(map(literal, parameter.levels)),
                }
            )
    axes.legend()


def _parallel(sweep: Sweep) -> Picture:
    """A line for each job through its options to its score."""
    scored = [sweep.ranked[i].score for i in sweep.measured]
    wide = min(scored) > 0 and max(scored) >= WIDE * min(scored)
    shares: list[list[float]] = []
    parameters = sweep.parameters[:MOST_LINED]
    labels = [parameter.name for parameter in parameters] + [sweep.metric]
    figure = Figure(figsize=(max(6.0, 2.4 * len(labels)), 4.2), layout="constrained")
    axes = figure.subplots()
    for i, parameter in enumerate(parameters):
        places = [parameter.places[j] for j in sweep.measured]
        change = math.log if parameter.scale == "log" else float
        shares.append(_shares(places, change))
        for text, at in dict(zip((parameter.values[j] for j in sweep.measured), shares[-1], strict=True)).items():
            if len(parameter.levels) <= 8 or at in (0.0, 1.0):
                label = literal(text) if parameter.numbers is None else _number(float(text))
                axes.annotate(label, (i, at), xytext=(4, 4), textcoords="offset points", fontsize=8)
    shares.append(_shares(scored, math.log if wide else float))
    for text, at in ((_number(min(scored)), 0.0), (_number(max(scored)), 1.0)):
        axes.annotate(text, (len(labels) - 1, at), xytext=(4, 4), textcoords="offset points", fontsize=8)
    norm, colours = _colours(sweep)
    for j in reversed(range(len(scored))):
        heights = [share[j] for share in shares]
        axes.plot(heights, color=colours(norm(scored[j])), linewidth=3 if j == 0 else 1.2, alpha=1 if j == 0 else 0.7)
    axes.set_xticks(range(len(labels)), list(map(literal, labels)))
    axes.set_yticks([])
    for i in range(len(labels)):
        axes.axvline(i, color="grey", linewidth=0.8, zorder=0)
    return picture(figure, "every job as a line through its options to its score", "The thick line is the best job.")


def _trade_off(sweep: Sweep) -> list[Picture]:
    """KID of samples against PSNR of reconstructions, and the jobs that no other beats in both."""
    places: dict[str, tuple[float, float]] = {}
    for i in sweep.measured:
        runs = [{**run.figures, sweep.metric: run.value} for run in sweep.ranked[i].runs]
        kids, psnrs = ([value for run in runs if (value := run.get(name)) is not None] for name in (KID, PSNR))
        if kids and psnrs and math.isfinite(sum(kids) + sum(psnrs)):
            places[sweep.ranked[i].number] = fmean(kids), fmean(psnrs)
    if len(places) < 2:
        return []
    front = pareto_front(places)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*zip(*places.values(), strict=True), color="0.6", label="jobs")
    axes.plot(*zip(*(places[name] for name in front), strict=True), "o-", color="tab:blue", label="Pareto front")
    for name, place in places.items():
        axes.annotate(literal(name), place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    kids = [kid for kid, _ in places.values()]
    if 0 < WIDE * min(kids) <= max(kids):
        axes.set_xscale("log")
    axes.set_xlabel("KID of samples (lower is better)")
    axes.set_ylabel("PSNR of reconstructions [dB]")
    axes.legend()
    axes.grid(alpha=0.3)
    words = "Means over seeds, after the best epoch. For each job off the Pareto front, another job is better in both."
    return [picture(figure, "KID of samples against PSNR of reconstructions, a point for each job", words)]


def pareto_front(places: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of the places that none has a lower first and a higher second value than, from left to right."""
    front: list[str] = []
    for name, (_, value) in sorted(places.items(), key=lambda item: (item[1][0], -item[1][1])):
        if not front or value > places[front[-1]][1]:
            front.append(name)
    return front


def _shares(values: Sequence[float], change: Callable[[float], float]) -> list[float]:
    changed = [change(value) for value in values]
    low, high = min(changed), max(changed)
    return [(value - low) / (high - low) if high > low else 0.5 for value in changed]


def _curve(sweep: Sweep, job: Job, run: Run) -> list[tuple[int, float]]:
    path = job.directory / run.directory / jobs.METRICS
    try:
        series: Series = jobs.read_series(path) if is_next_to(path, job.directory) else {}
    except UserError as error:
        log.warning("a curve is left out: %s", error)
        series = {}
    return series.get(sweep.metric, [])


def _curves(sweep: Sweep) -> Picture:
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    norm, colours = _colours(sweep)
    shown: list[float] = []
    for i in reversed(sweep.measured):
        job = sweep.ranked[i]
        for n, run in enumerate(job.runs):
            curve = _curve(sweep, job, run)
            shown += (value for _, value in curve if math.isfinite(value))
            if curve:
                label = f"job {literal(job.number)}" if n == 0 and i < _NAMED else None
                ends = "x" if run.pruned else "."
                axes.plot(*zip(*curve, strict=True), label=label, color=colours(norm(job.score)))
                axes.plot(*curve[-1], ends, color=colours(norm(job.score)))
    axes.set_xlabel("batches")
    axes.set_ylabel(literal(sweep.metric))
    if shown and 0 < WIDE * min(shown) <= max(shown):
        axes.set_yscale("log")
    if shown:
        axes.legend(fontsize=8, reverse=True)
    axes.grid(alpha=0.3)
    return picture(figure, f"{sweep.metric} over training, a line for each run", "A cross ends a run that was pruned.")


def _about_samples(sweep: Sweep) -> list[str]:
    n = len(sweep.measured)
    shown = f" of the {SHOWN} best jobs" if n > SHOWN else ""
    return [f"Samples{shown} after the best epoch of the first seed, the best job first. All are of the same z."]


def _samples(sweep: Sweep) -> list[Picture]:
    found = [(i, samples) for i in sweep.measured[:SHOWN] if (samples := _sample(sweep, sweep.ranked[i])) is not None]
    if not found:
        return []
    rows = math.ceil(len(found) / _COLUMNS)
    figure = Figure(figsize=(4.4 * _COLUMNS, 4.8 * rows), layout="constrained")
    for place, (i, samples) in enumerate(found, start=1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        axes.imshow(np.asarray(samples), cmap="gray", vmin=0, vmax=255)
        title = "\n".join(literal(f"{p.name}={p.shown(i)}") for p in sweep.parameters if p.values[i])
        score = _number(sweep.ranked[i].score)
        axes.set_title(f"job {literal(sweep.ranked[i].number)}: {score}\n{title}", fontsize=9)
        axes.axis("off")
    return [picture(figure, "samples of each job")]


def _sample(sweep: Sweep, job: Job) -> Image.Image | None:
    """The picture of a job's samples after its best epoch, no larger than it is shown."""
    run = job.runs[0]
    steps = [step for step, _ in _curve(sweep, job, run)]
    if run.step not in steps:
        return None
    path = job.directory / run.directory / "images" / f"samples_epoch_{steps.index(run.step) + 1:04d}.png"
    try:
        picture = read_picture(path) if is_next_to(path, job.directory) else None
    except (OSError, RefusedError) as error:
        log.warning("samples are left out: %s %s", path, error)
        return None
    if picture is not None:
        picture.thumbnail((MOST_SIDE, MOST_SIDE))
    return picture
