"""A ranked sweep as `sweep.csv` and `sweep.json`."""

import csv
import json
from collections.abc import Mapping
from io import StringIO

from vaegan_pl.storage.outputs import MADE_BY
from vaegan_pl.sweeps.ranking import Ranking


def csv_text(ranking: Ranking) -> str:
    """The ranking as CSV, a row for each run."""
    text = StringIO(newline="")
    parameters = [parameter for parameter in ranking.parameters if parameter.name != "seed"]  # each run has its own
    names, figures = [parameter.name for parameter in parameters], ranking.figures
    writer = csv.writer(text)
    head = ["rank", "job", "seed", *names, ranking.metric, *figures]
    writer.writerow([*head, "batch", "minutes", "state", "copies", "wandb", "directory"])
    for rank, job in enumerate(ranking.ranked, start=1):
        values = [parameter.values[rank - 1] for parameter in parameters]
        state, where = ranking.states[job.number], job.directory
        if not job.runs:
            writer.writerow([rank, job.number, "", *values, "", *("" for _ in figures), "", "", state, "", "", where])
        for run in job.runs:
            row = [rank, job.number, run.seed, *values, run.value, *(run.figures.get(name) for name in figures)]
            row += [run.step, round(run.seconds / 60, 2), "pruned" if run.pruned else state, run.copies, run.wandb]
            writer.writerow([*row, where / run.directory])
    return text.getvalue()


def json_text(ranking: Ranking, name: str, commands: Mapping[str, str]) -> str:
    """The ranking as JSON.

    Args:
        ranking: the ranked sweep.
        name: its name.
        commands: the command that trains each job again, by the job's number.
    """
    ranked = [
        {
            "job": job.number,
            "state": ranking.states[job.number],
            "options": {p.name: p.values[i] for p in ranking.parameters},
            "score": job.score if job.counts else None,
            "values": {run.seed: run.value for run in job.runs},
            "figures": {run.seed: run.figures for run in job.runs},
            "minutes": {run.seed: round(run.seconds / 60, 2) for run in job.runs},
            "wandb": {run.seed: run.wandb for run in job.runs},
            "copies": {run.seed: run.copies for run in job.runs},
            "reason": job.reason,
            "command": commands[job.number],
        }
        for i, job in enumerate(ranking.ranked)
    ]
    others = [{"job": job.number, "objective": vars(job.objective), "score": job.score} for job in ranking.others]
    content = {
        "made_by": MADE_BY,
        "sweep": name,
        "objective": vars(ranking.objective),
        "planned": ranking.planned,
        "jobs": ranked,
        "measured_by_something_else": others,
    }
    return json.dumps(content, indent=1, ensure_ascii=False)
