"""What the page and the console say about a ranked sweep."""

from collections.abc import Sequence

from vaegan_pl.runs import next_steps
from vaegan_pl.sweeps.jobs import Job
from vaegan_pl.sweeps.ranking import BEST_MODEL, Ranking, short

STATES = ("finished", "pruned", "failed", "stopped", "running", "lost")


def progress(ranking: Ranking) -> str:
    """How many jobs are planned, and how many are in each state."""
    states = list(ranking.states.values())
    counts = [f"{n} {state}" for state in STATES if (n := states.count(state))]
    n = len(states)
    if ranking.planned is not None and ranking.planned > n:
        return f"{ranking.planned} jobs planned: {', '.join([*counts, f'{ranking.planned - n} not started'])}."
    return f"{_jobs(n)}: {', '.join(counts)}."


def criterion(ranking: Ranking) -> str:
    """What the jobs are ranked by, e.g. `the lowest validation/kid of any epoch, mean over 2 seeds`."""
    lowest = "lowest" if ranking.objective.direction == "minimize" else "highest"
    seeds = max((len(job.runs) for job in ranking.ranked), default=0)
    return f"the {lowest} {ranking.metric} of any epoch" + (f", mean over {seeds} seeds" if seeds > 1 else "")


def lead(ranking: Ranking) -> str:
    """Whether the best job leads by more than the spread over seeds; empty if fewer than two jobs count."""
    found = ranking.lead
    if found is None:
        return ""
    gap = short(found.gap)
    if found.spread is None:
        return (
            f"The best job leads by {gap}. With one seed per job, small differences may be chance; sweep.seeds=3 shows "
            "how much seeds differ."
        )
    if found.is_clear:
        return f"The best job leads by {gap}, more than the spread over seeds ({short(found.spread)})."
    return (
        f"The best job leads by {gap}, no more than the spread over seeds ({short(found.spread)}): the two best jobs "
        "cannot be told apart."
    )


def settings(ranking: Ranking, place: int) -> str:
    """The options that distinguish a job, with long numbers rounded."""
    return ", ".join(f"{p.name}={p.shown(place)}" for p in ranking.parameters if p.values[place]) or "no options"


def copies(job: Job) -> str:
    """The verdicts of the copy audit over a job's runs."""
    return ", ".join(sorted({run.copies for run in job.runs if run.copies is not None})) or "not audited"


def spread(job: Job) -> str:
    """The lowest and highest value over seeds; empty for a single seed."""
    return f"{short(min(job.values))} to {short(max(job.values))}" if len(job.values) > 1 else ""


def announcement(ranking: Ranking, data: Sequence[str], again: str) -> list[str]:
    """The lines that name the winner on the console, its model file and what to do with it; or why there is none.

    Args:
        ranking: the ranked sweep.
        data: the options of the winner's data; see `next_steps.data_options`.
        again: the command that trains the winner again.
    """
    best = ranking.best
    if best is None:
        return [f"{'no winner' if ranking.is_complete else 'none so far':13}{_why_none(ranking)}"]
    run = ranking.best_run(best)
    over_seeds = f", mean over {len(best.values)} seeds ({spread(best)})" if len(best.values) > 1 else ""
    lines = [
        f"{'winner' if ranking.is_complete else 'best so far':13}job {best.number}: {_exact_settings(ranking, 0)}",
        f"{'':13}{ranking.metric} {short(best.score)}{over_seeds}; copies: {copies(best)}",
    ]
    if ranking.lead is not None:
        second = ranking.ranked[1]
        lines += [
            f"{'second':13}job {second.number}: {_exact_settings(ranking, 1)}; {ranking.metric} {short(second.score)}",
            f"{'':13}{lead(ranking)}",
        ]
    if ranking.copiers:
        numbers = ", ".join(job.number for job in ranking.copiers)
        lines.append(f"{'left out':13}job {numbers}: copies training images (audit: FAIL)")
    path = ranking.model_file(best, run)
    if path is None:
        return [*lines, f"{'the model':13}none was kept; to train it again: {again}"]
    of_seed = [f"seed {run.seed}, the best of {len(best.values)}"] if len(best.values) > 1 else []
    of_last = [] if path.name == BEST_MODEL else ["last epoch, because runs keep a best model only for KID"]
    notes = f" ({'; '.join(of_seed + of_last)})" if of_seed + of_last else ""
    return [
        *lines,
        f"{'the model':13}{path}{notes}",
        f"{'measure it':13}{next_steps.evaluate(path, data)}",
        f"{'sample it':13}{next_steps.sample(path)}",
    ]


def _exact_settings(ranking: Ranking, place: int) -> str:
    """The options that distinguish a job, as on the command line."""
    return " ".join(f"{p.name}={p.values[place]}" for p in ranking.parameters if p.values[place]) or "no options differ"


def _why_none(ranking: Ranking) -> str:
    states = [ranking.states[job.number] for job in ranking.ranked]
    reasons = [
        (len(ranking.copiers), "copied training images (audit: FAIL)"),
        *((states.count(state), state) for state in STATES[2:]),
        (len(ranking.others), "measured with another objective"),
    ]
    counts = [f"{n} {reason}" for n, reason in reasons if n]
    return f"none of {_jobs(len(ranking.states))} can be ranked: {', '.join(counts)}"


def _jobs(n: int) -> str:
    return "1 job" if n == 1 else f"{n} jobs"
