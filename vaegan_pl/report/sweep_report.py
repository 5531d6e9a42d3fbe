"""What a sweep found, on one page: which options are best, how sure that is, and what failed."""

import csv
import json
import math
import shlex
from collections.abc import Callable, Sequence
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

from vaegan_pl import jobs
from vaegan_pl.jobs import Job, Run, Series
from vaegan_pl.report.page import Picture, Section, Table, picture, render
from vaegan_pl.sealed import publish

CSV, JSON, MAPS, PAGE = "sweep.csv", "sweep.json", "sweep.png", "sweep.html"

WIDE = 5
"""Numbers are shown on a logarithmic axis where the greatest is so many times the least, or more."""

SHOWN = 12
STATES = {
    "finished": "finished",
    "pruned": "pruned",
    "failed": "failed",
    "stopped": "stopped",
    "running": "running or lost",
}
_NAMED = 6
_LETTERS = 6
_COLUMNS = 3
_NOT_OF_TRAINING = ("hydra.", "hydra/", "sweep.", "experiment=sweep_", "callbacks.pruning")


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
    """Jobs, the best first, and the options in which they differ."""

    ranked: list[Job]
    parameters: list[Parameter]

    @staticmethod
    def of(found: Sequence[Job]) -> "Sweep":
        """Rank jobs; those that do not count come last."""
        sign = 1 if found[0].objective.direction == "minimize" else -1

        def order(job: Job) -> tuple[bool, float]:
            return not job.counts, sign * job.score

        ranked = sorted(found, key=order)
        return Sweep(ranked, [Parameter(name, values) for name, values in jobs.swept(ranked).items()])

    @property
    def measured(self) -> list[int]:
        """Places in the ranking of the jobs that count."""
        return [i for i, job in enumerate(self.ranked) if job.counts]

    @property
    def metric(self) -> str:
        """Name of the objective."""
        return self.ranked[0].objective.metric

    def settings(self, place: int) -> str:
        """What is particular to a job."""
        return ", ".join(f"{p.name}={p.shown(place)}" for p in self.parameters if p.values[place]) or "no options"


def write(found: Sequence[Job], directory: Path) -> list[Path]:
    """Write `sweep.csv`, `sweep.json`, `sweep.html` and its maps as `sweep.png` into a directory; returns their paths.

    There are maps where at least two options were swept.

    Args:
        found: the sweep's jobs.
        directory: where the files go.
    """
    sweep = Sweep.of(found)
    maps = _maps(sweep)
    files = {CSV: _csv(sweep).encode(), JSON: _json(sweep, directory).encode()}
    if maps is not None:
        files[MAPS] = maps.png
    files[PAGE] = _page(sweep, directory, maps).encode()
    for name, content in files.items():
        publish(directory / name, content, verified=False)
    return [directory / name for name in files]


def command(job: Job) -> str:
    """The command that trains a job again, once, with its first seed."""
    own = [option for option in job.overrides if not option.lstrip("+~").startswith((*_NOT_OF_TRAINING, "seed="))]
    seed = [f"seed={job.runs[0].seed}"] if job.runs else []
    mode = ["hydra.mode=RUN"] if any("experiment=" in option for option in own) else []
    return shlex.join(["python", "-m", "vaegan_pl.train", *own, *seed, *mode])


def _csv(sweep: Sweep) -> str:
    """A row for each run."""
    text = StringIO(newline="")
    names = [parameter.name for parameter in sweep.parameters]
    writer = csv.writer(text)
    writer.writerow(["rank", "job", "seed", *names, sweep.metric, "batch", "state", "copies", "directory"])
    for rank, job in enumerate(sweep.ranked, start=1):
        values = [parameter.values[rank - 1] for parameter in sweep.parameters]
        for run in job.runs or [Run(-1, ".")]:
            seed = run.seed if run.seed >= 0 else ""
            state = "pruned" if run.pruned else job.state
            where = job.directory / run.directory
            writer.writerow([rank, job.number, seed, *values, run.value, run.step, state, run.copies, where])
    return text.getvalue()


def _json(sweep: Sweep, directory: Path) -> str:
    ranked = [
        {
            "job": job.number,
            "state": job.state,
            "options": {p.name: p.values[i] for p in sweep.parameters},
            "score": job.score if i in sweep.measured else None,
            "values": {run.seed: run.value for run in job.runs},
            "copies": {run.seed: run.copies for run in job.runs},
            "reason": job.reason,
            "command": command(job),
        }
        for i, job in enumerate(sweep.ranked)
    ]
    objective = vars(sweep.ranked[0].objective)
    return json.dumps({"sweep": directory.name, "objective": objective, "jobs": ranked}, indent=1, ensure_ascii=False)


def _page(sweep: Sweep, directory: Path, maps: Picture | None) -> str:
    measured = sweep.measured
    states = {state: sum(job.state == state for job in sweep.ranked) for state in STATES}
    counts = [f"{n} {words}" for words, n in zip(STATES.values(), states.values(), strict=True) if n]
    lead = [f"{len(sweep.ranked)} jobs: {', '.join(counts)}. Ranked by {_words(sweep)}."]
    sections = [Section("Ranking", _verdict(sweep), [_table(sweep)])]
    if measured:
        best = sweep.ranked[0]
        lead.append(f"Best: {sweep.settings(0)}, with {sweep.metric} {_number(best.score)}.")
        lead.append(f"To train it again: {command(best)}")
        sections += [
            Section("Pairs of options", pictures=[] if maps is None else [maps]),
            Section("All options at once", pictures=[_parallel(sweep)]),
            Section("Learning curves", pictures=[_curves(sweep)]),
            Section("Samples", _about_samples(sweep), pictures=_samples(sweep)),
        ]
    failed = [job for job in sweep.ranked if job.state == "failed"]
    if failed:
        rows = [[job.number, sweep.settings(sweep.ranked.index(job)), str(job.reason)] for job in failed]
        sections.append(Section("Failures", tables=[Table(["job", "options", "reason"], rows)]))
    kept = [section for section in sections if section.text or section.tables or section.pictures]
    return render(f"Sweep {directory.name}", lead, kept)


def _words(sweep: Sweep) -> str:
    lowest = "lowest" if sweep.ranked[0].objective.direction == "minimize" else "highest"
    seeds = max(len(job.runs) for job in sweep.ranked)
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
        "batch",
        "copies",
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
        rows.append([i + 1, job.number, *options, score, spread, batch, copies, job.state])
    return Table(columns, rows)


def _number(value: float) -> str:
    return f"{value:.3g}"


def _colours(sweep: Sweep) -> tuple[Normalize, Colormap]:
    """The best is dark, whichever way is better."""
    scores = [sweep.ranked[i].score for i in sweep.measured]
    low, high = min(scores), max(scores)
    wide = low > 0 and high >= WIDE * low
    best_low = sweep.ranked[0].objective.direction == "minimize"
    return (LogNorm if wide else Normalize)(low, high), colormaps["viridis" if best_low else "viridis_r"]


def _maps(sweep: Sweep) -> Picture | None:
    """A map for every pair of options: cells where they form a grid, points where they do not."""
    pairs = list(combinations(sweep.parameters, 2))
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
        axes.set_xlabel(x.name)
        axes.set_ylabel(y.name)
    norm, colours = _colours(sweep)
    figure.colorbar(ScalarMappable(norm, colours), ax=figure.axes, label=sweep.metric)
    caption = "Cells are means over the other options." if averaged else ""
    return picture(figure, f"{sweep.metric} against every pair of options", caption)


def _cells(axes: Axes, sweep: Sweep, x: Parameter, y: Parameter, cells: dict[tuple[int, int], list[float]]) -> None:
    table = np.full((len(y.levels), len(x.levels)), np.nan)
    for place, scores in cells.items():
        table[place] = fmean(scores)
    norm, colours = _colours(sweep)
    axes.imshow(table, cmap=colours, norm=norm, origin="lower", aspect="auto")
    axes.set_xticks(range(len(x.levels)), x.levels)
    axes.set_yticks(range(len(y.levels)), y.levels)
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
            axes.set(**{f"{axis}ticks": range(len(parameter.levels)), f"{axis}ticklabels": parameter.levels})
    axes.legend()


def _parallel(sweep: Sweep) -> Picture:
    """A line for each job through its options to its score."""
    scored = [sweep.ranked[i].score for i in sweep.measured]
    wide = min(scored) > 0 and max(scored) >= WIDE * min(scored)
    shares: list[list[float]] = []
    labels = [parameter.name for parameter in sweep.parameters] + [sweep.metric]
    figure = Figure(figsize=(max(6.0, 2.4 * len(labels)), 4.2), layout="constrained")
    axes = figure.subplots()
    for i, parameter in enumerate(sweep.parameters):
        places = [parameter.places[j] for j in sweep.measured]
        change = math.log if parameter.scale == "log" else float
        shares.append(_shares(places, change))
        for text, at in dict(zip((parameter.values[j] for j in sweep.measured), shares[-1], strict=True)).items():
            if len(parameter.levels) <= 8 or at in (0.0, 1.0):
                label = text if parameter.numbers is None else _number(float(text))
                axes.annotate(label, (i, at), xytext=(4, 4), textcoords="offset points", fontsize=8)
    shares.append(_shares(scored, math.log if wide else float))
    for text, at in ((_number(min(scored)), 0.0), (_number(max(scored)), 1.0)):
        axes.annotate(text, (len(labels) - 1, at), xytext=(4, 4), textcoords="offset points", fontsize=8)
    norm, colours = _colours(sweep)
    for j in reversed(range(len(scored))):
        heights = [share[j] for share in shares]
        axes.plot(heights, color=colours(norm(scored[j])), linewidth=3 if j == 0 else 1.2, alpha=1 if j == 0 else 0.7)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks([])
    for i in range(len(labels)):
        axes.axvline(i, color="grey", linewidth=0.8, zorder=0)
    return picture(figure, "every job as a line through its options to its score", "The thick line is the best job.")


def _shares(values: Sequence[float], change: Callable[[float], float]) -> list[float]:
    changed = [change(value) for value in values]
    low, high = min(changed), max(changed)
    return [(value - low) / (high - low) if high > low else 0.5 for value in changed]


def _curve(sweep: Sweep, job: Job, run: Run) -> list[tuple[int, float]]:
    path = job.directory / run.directory / jobs.METRICS
    series: Series = jobs.read_series(path) if path.exists() else {}
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
                label = f"job {job.number}" if n == 0 and i < _NAMED else None
                ends = "x" if run.pruned else "."
                axes.plot(*zip(*curve, strict=True), label=label, color=colours(norm(job.score)))
                axes.plot(*curve[-1], ends, color=colours(norm(job.score)))
    axes.set_xlabel("batches")
    axes.set_ylabel(sweep.metric)
    if shown and 0 < WIDE * min(shown) <= max(shown):
        axes.set_yscale("log")
    axes.legend(fontsize=8, reverse=True)
    axes.grid(alpha=0.3)
    return picture(figure, f"{sweep.metric} over training, a line for each run", "A cross ends a run that was pruned.")


def _about_samples(sweep: Sweep) -> list[str]:
    n = len(sweep.measured)
    shown = f" of the {SHOWN} best jobs" if n > SHOWN else ""
    return [f"Samples{shown} after the best epoch of the first seed, the best job first. All are of the same z."]


def _samples(sweep: Sweep) -> list[Picture]:
    found = [(i, path) for i in sweep.measured[:SHOWN] for path in [_sample(sweep, sweep.ranked[i])] if path]
    if not found:
        return []
    rows = math.ceil(len(found) / _COLUMNS)
    figure = Figure(figsize=(4.4 * _COLUMNS, 4.8 * rows), layout="constrained")
    for place, (i, path) in enumerate(found, start=1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        with Image.open(path) as samples:
            axes.imshow(np.asarray(samples.convert("L")), cmap="gray", vmin=0, vmax=255)
        title = sweep.settings(i).replace(", ", "\n")
        axes.set_title(f"job {sweep.ranked[i].number}: {_number(sweep.ranked[i].score)}\n{title}", fontsize=9)
        axes.axis("off")
    return [picture(figure, "samples of each job")]


def _sample(sweep: Sweep, job: Job) -> Path | None:
    """The picture of a job's samples after its best epoch."""
    run = job.runs[0]
    steps = [step for step, _ in _curve(sweep, job, run)]
    if run.step not in steps:
        return None
    path = job.directory / run.directory / "images" / f"samples_epoch_{steps.index(run.step) + 1:04d}.png"
    return path if path.exists() else None
