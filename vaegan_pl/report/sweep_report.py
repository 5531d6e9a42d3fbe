"""The files that report on a sweep, and its page: the best options, how sure that is, and what failed."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from vaegan_pl.report import sweep_pictures, sweep_tables
from vaegan_pl.report.page import Picture, Section, Table, render
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.sweeps import verdict
from vaegan_pl.sweeps.jobs import Job
from vaegan_pl.sweeps.ranking import Ranking, short

CSV, JSON, MAPS, PAGE = "sweep.csv", "sweep.json", "sweep.png", "sweep.html"
NAMES = r"sweep\.(csv|json|png|html)"


def write(ranking: Ranking, directory: Path, commands: Mapping[str, str]) -> list[Path]:
    """Write `sweep.csv`, `sweep.json`, `sweep.html` and its maps as `sweep.png`; returns their paths.

    There are maps only if at least two options were swept.

    Args:
        ranking: the ranked sweep.
        directory: where the files go.
        commands: the command that trains each job again, by the job's number.
    """
    maps = sweep_pictures.maps(ranking)
    files: dict[str, str | bytes] = {
        CSV: sweep_tables.csv_text(ranking),
        JSON: sweep_tables.json_text(ranking, directory.name, commands),
    }
    if maps is not None:
        files[MAPS] = maps.png
    files[PAGE] = _page(ranking, directory.name, commands, maps)
    for name, content in files.items():
        atomic_write(directory / name, content, durable=False)
    return [directory / name for name in files]


def _page(ranking: Ranking, name: str, commands: Mapping[str, str], maps: Picture | None) -> str:
    lead = [f"{verdict.progress(ranking)} Ranked by {verdict.criterion(ranking)}."]
    about_lead = verdict.lead(ranking)
    sections = [Section("Ranking", [about_lead] if about_lead else [], [_table(ranking)])]
    best = ranking.best
    if best is not None:
        lead.append(f"Best: {verdict.settings(ranking, 0)}, with {ranking.metric} {short(best.score)}.")
        lead.append(f"To train it again: {commands[best.number]}")
        sections += [
            Section("Pairs of options", pictures=[] if maps is None else [maps]),
            Section("All options at once", pictures=[sweep_pictures.parallel_coordinates(ranking)]),
            Section("Samples against reconstructions", pictures=sweep_pictures.kid_against_psnr(ranking)),
            Section("Learning curves", pictures=[sweep_pictures.learning_curves(ranking)]),
            Section("Samples", [_about_samples(ranking)], pictures=sweep_pictures.samples(ranking)),
        ]
    failed = [(i, job) for i, job in enumerate(ranking.ranked) if job.state == "failed"]
    if failed:
        rows = [[job.number, verdict.settings(ranking, i), str(job.reason)] for i, job in failed]
        sections.append(Section("Failures", tables=[Table(["job", "options", "reason"], rows)]))
    if ranking.others:
        sections.append(_others(ranking))
    kept = [section for section in sections if section.text or section.tables or section.pictures]
    return render(f"Sweep {name}", lead, kept)


def _table(ranking: Ranking) -> Table:
    columns = [
        "rank",
        "job",
        *(p.name for p in ranking.parameters),
        ranking.metric,
        "range over seeds",
        *(name.removeprefix("validation/") for name in ranking.figures),
        "batch",
        "minutes",
        "copies",
        "W&B run",
        "state",
    ]
    rows: list[list[str | int]] = []
    for i, job in enumerate(ranking.ranked):
        steps = [run.step for run in job.runs if run.step is not None]
        rows.append(
            [
                i + 1,
                job.number,
                *(parameter.shown(i) for parameter in ranking.parameters),
                short(job.score) if job.counts else "",
                verdict.spread(job),
                *(_mean(job, name) for name in ranking.figures),
                str(round(fmean(steps))) if steps else "",
                f"{sum(run.seconds for run in job.runs) / 60:.1f}",
                verdict.copies(job),
                ", ".join(run.wandb for run in job.runs if run.wandb is not None),
                ranking.states[job.number],
            ]
        )
    return Table(columns, rows)


def _mean(job: Job, name: str) -> str:
    values = [run.figures[name] for run in job.runs if name in run.figures]
    return short(fmean(values)) if values else ""


def _about_samples(ranking: Ranking) -> str:
    shown = f" of the {sweep_pictures.SHOWN} best jobs" if len(ranking.measured) > sweep_pictures.SHOWN else ""
    return f"Samples{shown} after the best epoch of the first seed, best job first, all from the same z."


def _others(ranking: Ranking) -> Section:
    flags = f"sweep.objective={ranking.metric} sweep.direction={ranking.objective.direction}"
    text = f"These jobs used another objective and are not ranked. To measure them, run the sweep again with {flags}."
    rows = [[job.number, job.objective.metric, short(job.score), ranking.states[job.number]] for job in ranking.others]
    return Section("Measured with another objective", [text], [Table(["job", "objective", "score", "state"], rows)])
