"""What surrounds the jobs of a sweep: its plan before the first starts, its report after the last has ended."""

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from vaegan_pl.cli import commands
from vaegan_pl.console import drop_timestamps
from vaegan_pl.errors import UserError
from vaegan_pl.runs import layout
from vaegan_pl.storage.files import printable
from vaegan_pl.storage.outputs import claim
from vaegan_pl.sweeps import driver, jobs, options, verdict
from vaegan_pl.sweeps.jobs import PLAN, Job, Objective, Plan
from vaegan_pl.sweeps.ranking import Ranking

log = logging.getLogger(__name__)

OF_HYDRA = ("multirun.yaml", "optimization_results.yaml")
"""Files that Hydra and its sweepers write into a sweep's directory."""


class Bookkeeping(Callback):
    """Checks and plans a sweep before its first job starts, and has its report written when it ends."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Note which folders Hydra will create, so that those left empty can be removed at the end."""
        commands.note_missing(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check what was asked for against the sweep's directory, and write the plan.

        Raises:
            SystemExit: if the sweep cannot be ranked by its objective, or the directory contains another sweep. Hydra
                turns other exceptions of callbacks into warnings.
        """
        directory = Path(config.hydra.sweep.dir)
        try:
            swept = options.swept_names(config.hydra.overrides.task) | {*(config.hydra.sweeper.params or {})}
            if not swept & options.SWITCH_SAMPLES:  # otherwise each job is checked by itself
                options.check_measured(config, config.hydra.runtime.choices)
            _seed_sampler(config)
            commands.note_missing(directory)
            directory.mkdir(parents=True, exist_ok=True)
            with driver.locked(directory):
                new = not (directory / PLAN).exists()
                _plan(config, directory).write(directory)
        except Exception as error:  # no job must start
            sys.exit(f"error: {printable(commands.explain(error))}")
        commands.ON_EXIT.append(partial(conclude, directory, new))


def _seed_sampler(config: DictConfig) -> None:
    """Give the sampler of a search the sweep's seed if it has none; without a seed, a search could not be continued."""
    sampler = OmegaConf.select(config, "hydra.sweeper.sampler")
    if isinstance(sampler, DictConfig) and "seed" in sampler and sampler.seed is None:
        sampler.seed = config.seed


def _plan(config: DictConfig, directory: Path) -> Plan:
    """The plan of a sweep, with a directory for each job.

    Raises:
        UserError: if the directory contains links, or jobs that the command line does not ask for.
    """
    layout.check_entries(directory)
    for name in OF_HYDRA if jobs.read_plan(directory) is None else ():
        if (directory / name).exists():
            raise UserError(
                f"{directory / name}: is in the way of a file that a sweep writes; choose another directory"
            )
    given, before = config.hydra.overrides, jobs.read_plan(directory)
    now = [*given.task, *(option for option in given.hydra if not option.startswith(options.LENGTHENS))]
    objective = Objective(config.sweep.objective, config.sweep.direction, config.sweep.worst)
    if options.searches(config.hydra):
        if before is not None:
            earlier, later = ([o for o in line if not options.is_swept(o)] for line in (before.options, now))
            options.check_same(directory, earlier, later, options.OF_A_SEARCH)
        return Plan(now, objective, config.hydra.sweeper.get("n_trials"))
    params = [f"{name}={value}" for name, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    batches = BasicSweeper.split_arguments(parser.parse_overrides([*params, *given.task]), None)
    swept = options.swept_names(now)
    wanted = list(dict.fromkeys(options.identity(overrides, swept) for batch in batches for overrides in batch))
    return Plan(now, objective, len(wanted), _places(directory, before, wanted, swept))


def _places(directory: Path, before: Plan | None, wanted: Sequence[str], swept: set[str]) -> dict[str, str]:
    """The directory of each job of a grid, by the job's identity: the existing one if it has started.

    Args:
        directory: the sweep's.
        before: its earlier plan, if any.
        wanted: the identities of the jobs that the command line asks for.
        swept: the names of the swept options.

    Raises:
        UserError: if the directory contains a job that is not wanted.
    """
    begun = jobs.directories(directory)
    there = {options.identity(jobs.read(folder).overrides, swept): folder.name for folder in begun}
    planned = {} if before is None else before.jobs
    if any(map(layout.is_held, begun)):  # another process will do what it planned
        there = {key: name for key, name in planned.items() if name not in there.values()} | there
    for known, name in there.items():
        if known not in wanted:
            own = {*known.split("\n")}
            differing = min((own ^ {*other.split("\n")} for other in wanted), key=len)
            raise UserError(
                f"{directory}: was started with other options: this command does not include its job {name} "
                f"({', '.join(sorted(differing))}); add that job's options (finished jobs are not trained again), or "
                "choose another sweep.name"
            )
    places = {key: name for key, name in planned.items() if key in wanted} | there
    new = [key for key in wanted if key not in places]
    free = driver.free_numbers(directory, places.values(), len(new))
    return places | dict(zip(new, free, strict=True))


def conclude(directory: Path, new: bool, ended_by: BaseException | None) -> None:
    """Report on a sweep that has ended or was stopped.

    Args:
        directory: the sweep's.
        new: whether this process started it.
        ended_by: the exception that stopped it; None if all jobs were run.

    Raises:
        UserError: if jobs failed, the process of a job died, or no job wrote anything here.
    """
    drop_timestamps()
    if not jobs.directories(directory):
        if ended_by is None:
            raise UserError(
                f"{directory}: no job wrote anything there; if jobs run on other machines, set output_root to an "
                "absolute path that all of them share"
            )
        if new:
            for name in (PLAN, "multirun.yaml"):
                (directory / name).unlink(missing_ok=True)
        return
    found = jobs.in_directory(directory)
    try:
        report(directory, found, overwrite=False)
    except (OSError, UserError) as error:
        log.warning("the report could not be written: %s", error)
    if ended_by is not None and not isinstance(ended_by, Exception):
        return
    lost = [job.number for job in found if job.state in ("running", "stopped") and not layout.is_held(job.directory)]
    if ended_by is not None and lost:
        raise UserError(
            f"the process of job {', '.join(lost)} died ({commands.explain(ended_by)}); to continue, start the sweep "
            f"again with sweep.name={directory.name}"
        ) from ended_by
    failed = [job for job in found if job.state == "failed"]
    if failed and ended_by is None:
        raise UserError(f"{len(failed)} of {len(found)} jobs failed; job {failed[0].number}: {failed[0].reason}")


def report(directory: Path, found: Sequence[Job], overwrite: bool) -> None:
    """Write the report of a sweep into its directory, and say on the console which job won.

    Args:
        directory: the sweep's.
        found: its jobs.
        overwrite: whether files that somebody else made may be replaced.

    Raises:
        OSError: if a file cannot be written.
        UserError: if such files are in the way, or the sweep's plan is damaged.
    """
    ranking = rank(directory, found)
    try:
        for path in write_report(directory, ranking, overwrite):
            log.info("%s", path)
    finally:
        announce(ranking)


def rank(directory: Path, found: Sequence[Job]) -> Ranking:
    """Rank the jobs of a sweep.

    Args:
        directory: the sweep's.
        found: its jobs.

    Raises:
        OSError: if the plan cannot be read.
        UserError: if the plan is damaged.
    """
    held = {job.number for job in found if layout.is_held(job.directory)}
    return Ranking.of(found, jobs.read_plan(directory), held)


def write_report(directory: Path, ranking: Ranking, overwrite: bool) -> list[Path]:
    """Write the report of a sweep into its directory; returns the files.

    Args:
        directory: the sweep's.
        ranking: its ranked jobs.
        overwrite: whether files that somebody else made may be replaced.

    Raises:
        OSError: if a file cannot be written.
        UserError: if such files are in the way.
    """
    from vaegan_pl.report import sweep_report

    claim(directory, sweep_report.NAMES, overwrite)
    return sweep_report.write(ranking, directory, {job.number: options.training_command(job) for job in ranking.ranked})


def announce(ranking: Ranking) -> None:
    """Say on the console which job won, where its model is and how to use it, or why there is no winner."""
    best = ranking.best
    data = [] if best is None else options.data_options(best)
    again = "" if best is None else options.training_command(best)
    for line in verdict.announcement(ranking, data, again):
        log.info("%s", line)
