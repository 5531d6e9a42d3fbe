"""The pictures of a sweep's page: maps, parallel coordinates, KID against PSNR, learning curves, samples."""

import logging
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from PIL import Image

from vaegan_pl.errors import UserError
from vaegan_pl.report.page import Picture, literal, picture
from vaegan_pl.report.pictures import read_picture
from vaegan_pl.runs.metrics import METRICS, read_series
from vaegan_pl.storage.files import RefusedError, is_next_to
from vaegan_pl.sweeps.jobs import Job, Run
from vaegan_pl.sweeps.ranking import Parameter, Ranking, pareto_front, short, trade_offs

log = logging.getLogger(__name__)

MOST_SIDE = 1100
"""The largest width and height of a job's samples on the page, in pixels."""

WIDE = 5
"""An axis is logarithmic if its largest value is at least this many times its smallest."""

MOST_MAPPED = 6
"""Maps are drawn for every pair of this many options."""

MOST_LINED = 12
"""The most options in the plot of parallel coordinates."""

SHOWN = 12
"""Samples are shown for this many jobs."""

_NAMED = 6
"""Learning curves are labelled for this many jobs."""

_COLUMNS = 3


def _is_wide(values: Sequence[float]) -> bool:
    """Whether an axis of these values is logarithmic."""
    return 0 < WIDE * min(values) <= max(values)


def _scale(parameter: Parameter) -> str:
    return "log" if parameter.numbers and _is_wide(parameter.numbers) else "linear"


def _positions(parameter: Parameter) -> list[float]:
    """The position of each job on an option's axis: its number, or the rank of its word."""
    return parameter.numbers or [float(parameter.levels.index(value)) for value in parameter.values]


def _colours(ranking: Ranking) -> tuple[Normalize, Colormap]:
    """Colours of scores; the best is dark in either direction."""
    scores = [ranking.ranked[i].score for i in ranking.measured]
    best_low = ranking.objective.direction == "minimize"
    norm = (LogNorm if _is_wide(scores) else Normalize)(min(scores), max(scores))
    return norm, colormaps["viridis" if best_low else "viridis_r"]


def maps(ranking: Ranking) -> Picture | None:
    """The objective against every pair of options; None if fewer than two options were swept or no job counts.

    A map has cells if the pairs of values form a grid, and points if they do not.
    """
    pairs = list(combinations(ranking.parameters[:MOST_MAPPED], 2))
    if not pairs or not ranking.measured:
        return None
    columns = min(2, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(6 * columns, 4.4 * rows), layout="constrained")
    averaged = False
    for place, (x, y) in enumerate(pairs, start=1):
        cells: dict[tuple[int, int], list[float]] = {}
        for i in ranking.measured:
            cell = y.levels.index(y.values[i]), x.levels.index(x.values[i])
            cells.setdefault(cell, []).append(ranking.ranked[i].score)
        axes = figure.add_subplot(rows, columns, place)
        if len(x.levels) * len(y.levels) <= 2 * len(cells):
            _cells(axes, ranking, x, y, cells)
            averaged |= len(pairs) > 1
        else:
            _points(axes, ranking, x, y)
        axes.set_xlabel(literal(x.name))
        axes.set_ylabel(literal(y.name))
    norm, colours = _colours(ranking)
    figure.colorbar(ScalarMappable(norm, colours), ax=figure.axes, label=literal(ranking.metric))
    captions = ["Each cell is the mean over the other options."] if averaged else []
    if len(ranking.parameters) > MOST_MAPPED:
        captions.append(f"Only the first {MOST_MAPPED} of {len(ranking.parameters)} options are shown.")
    return picture(figure, f"{ranking.metric} against every pair of options", " ".join(captions))


def _cells(axes: Axes, ranking: Ranking, x: Parameter, y: Parameter, cells: dict[tuple[int, int], list[float]]) -> None:
    table = np.full((len(y.levels), len(x.levels)), np.nan)
    for place, scores in cells.items():
        table[place] = fmean(scores)
    norm, colours = _colours(ranking)
    axes.imshow(table, cmap=colours, norm=norm, origin="lower", aspect="auto")
    axes.set_xticks(range(len(x.levels)), list(map(literal, x.levels)))
    axes.set_yticks(range(len(y.levels)), list(map(literal, y.levels)))
    for (row, column), value in np.ndenumerate(table):
        known = not math.isnan(value)
        red, green, blue, _ = colours(norm(value)) if known else (1, 1, 1, 1)
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        axes.text(column, row, short(value) if known else "none", ha="center", va="center", color=ink)


def _points(axes: Axes, ranking: Ranking, x: Parameter, y: Parameter) -> None:
    norm, colours = _colours(ranking)
    places = ranking.measured
    scores = [ranking.ranked[i].score for i in places]
    xs, ys = ([_positions(parameter)[i] for i in places] for parameter in (x, y))
    axes.scatter(xs, ys, c=scores, cmap=colours, norm=norm, s=70, edgecolors="black", linewidths=0.5)
    axes.scatter(xs[:1], ys[:1], s=260, facecolors="none", edgecolors="tab:red", label="best")
    for parameter, axis in ((x, "x"), (y, "y")):
        axes.set(**{f"{axis}scale": _scale(parameter)})
        if parameter.numbers is None:
            axes.set(
                **{
                    f"{axis}ticks": range(len(parameter.levels)),
                    f"{axis}ticklabels": list(map(literal, parameter.levels)),
                }
            )
    axes.legend()


def parallel_coordinates(ranking: Ranking) -> Picture:
    """A line for each job, through its options to its score."""
    scored = [ranking.ranked[i].score for i in ranking.measured]
    shares: list[list[float]] = []
    parameters = ranking.parameters[:MOST_LINED]
    labels = [parameter.name for parameter in parameters] + [ranking.metric]
    figure = Figure(figsize=(max(6.0, 2.4 * len(labels)), 4.2), layout="constrained")
    axes = figure.subplots()
    for i, parameter in enumerate(parameters):
        places = [_positions(parameter)[j] for j in ranking.measured]
        change = math.log if _scale(parameter) == "log" else float
        shares.append(_shares(places, change))
        for text, at in dict(zip((parameter.values[j] for j in ranking.measured), shares[-1], strict=True)).items():
            if len(parameter.levels) <= 8 or at in (0.0, 1.0):
                label = literal(text) if parameter.numbers is None else short(float(text))
                axes.annotate(label, (i, at), xytext=(4, 4), textcoords="offset points", fontsize=8)
    shares.append(_shares(scored, math.log if _is_wide(scored) else float))
    for text, at in ((short(min(scored)), 0.0), (short(max(scored)), 1.0)):
        axes.annotate(text, (len(labels) - 1, at), xytext=(4, 4), textcoords="offset points", fontsize=8)
    norm, colours = _colours(ranking)
    for j in reversed(range(len(scored))):
        heights = [share[j] for share in shares]
        axes.plot(heights, color=colours(norm(scored[j])), linewidth=3 if j == 0 else 1.2, alpha=1 if j == 0 else 0.7)
    axes.set_xticks(range(len(labels)), list(map(literal, labels)))
    axes.set_yticks([])
    for i in range(len(labels)):
        axes.axvline(i, color="grey", linewidth=0.8, zorder=0)
    return picture(figure, "every job as a line through its options to its score", "The thick line is the best job.")


def kid_against_psnr(ranking: Ranking) -> list[Picture]:
    """KID of samples against PSNR of reconstructions with the Pareto front; none if fewer than two jobs have both."""
    places = trade_offs(ranking)
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
    if _is_wide(kids):
        axes.set_xscale("log")
    axes.set_xlabel("KID of samples (lower is better)")
    axes.set_ylabel("PSNR of reconstructions [dB]")
    axes.legend()
    axes.grid(alpha=0.3)
    caption = "Means over seeds, after the best epoch. For each job off the Pareto front, another is better in both."
    return [picture(figure, "KID of samples against PSNR of reconstructions, a point for each job", caption)]


def _shares(values: Sequence[float], change: Callable[[float], float]) -> list[float]:
    """Values rescaled to [0, 1], after a change of scale."""
    changed = [change(value) for value in values]
    low, high = min(changed), max(changed)
    return [(value - low) / (high - low) if high > low else 0.5 for value in changed]


def _curve(ranking: Ranking, job: Job, run: Run) -> list[tuple[int, float]]:
    """The objective over training as pairs of batch number and value; empty if it cannot be read."""
    path = job.directory / run.directory / METRICS
    try:
        return read_series(path).get(ranking.metric, []) if is_next_to(path, job.directory) else []
    except UserError as error:
        log.warning("a learning curve is left out: %s", error)
        return []


def learning_curves(ranking: Ranking) -> Picture:
    """The objective over training, a line for each run of a job that counts."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    norm, colours = _colours(ranking)
    shown: list[float] = []
    for i in reversed(ranking.measured):
        job = ranking.ranked[i]
        for n, run in enumerate(job.runs):
            curve = _curve(ranking, job, run)
            shown += (value for _, value in curve if math.isfinite(value))
            if curve:
                label = f"job {literal(job.number)}" if n == 0 and i < _NAMED else None
                ends = "x" if run.pruned else "."
                axes.plot(*zip(*curve, strict=True), label=label, color=colours(norm(job.score)))
                axes.plot(*curve[-1], ends, color=colours(norm(job.score)))
    axes.set_xlabel("batches")
    axes.set_ylabel(literal(ranking.metric))
    if shown and _is_wide(shown):
        axes.set_yscale("log")
    if shown:
        axes.legend(fontsize=8, reverse=True)
    axes.grid(alpha=0.3)
    return picture(
        figure, f"{ranking.metric} over training, a line for each run", "A cross marks the end of a pruned run."
    )


def samples(ranking: Ranking) -> list[Picture]:
    """Samples of the best jobs side by side; none if no job has any."""
    best = ranking.measured[:SHOWN]
    found = [(i, grid) for i in best if (grid := _samples_of(ranking, ranking.ranked[i])) is not None]
    if not found:
        return []
    rows = math.ceil(len(found) / _COLUMNS)
    figure = Figure(figsize=(4.4 * _COLUMNS, 4.8 * rows), layout="constrained")
    for place, (i, grid) in enumerate(found, start=1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        axes.imshow(np.asarray(grid), cmap="gray", vmin=0, vmax=255)
        title = "\n".join(literal(f"{p.name}={p.shown(i)}") for p in ranking.parameters if p.values[i])
        score = short(ranking.ranked[i].score)
        axes.set_title(f"job {literal(ranking.ranked[i].number)}: {score}\n{title}", fontsize=9)
        axes.axis("off")
    return [picture(figure, "samples of each job")]


def _samples_of(ranking: Ranking, job: Job) -> Image.Image | None:
    """The samples of a job's first run after its best epoch, scaled down to `MOST_SIDE`; None if there are none."""
    run = job.runs[0]
    steps = [step for step, _ in _curve(ranking, job, run)]
    if run.step not in steps:
        return None
    path = job.directory / run.directory / "images" / f"samples_epoch_{steps.index(run.step) + 1:04d}.png"
    try:
        grid = read_picture(path) if is_next_to(path, job.directory) else None
    except (OSError, RefusedError) as error:
        log.warning("samples are left out: %s %s", path, error)
        return None
    if grid is not None:
        grid.thumbnail((MOST_SIDE, MOST_SIDE))
    return grid
