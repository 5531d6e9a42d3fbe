"""Jobs of a sweep: recorded, repeated over seeds, and neither repeated nor lost when the sweep is started again."""

import gc
import logging
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from vaegan_pl.cli import commands
from vaegan_pl.console import keep_log
from vaegan_pl.errors import UserError
from vaegan_pl.runs import layout, stored_config
from vaegan_pl.runs.stored_config import FIXED, MOVABLE
from vaegan_pl.storage.files import RefusedError, printable
from vaegan_pl.storage.outputs import claim
from vaegan_pl.sweeps import jobs
from vaegan_pl.sweeps.jobs import PLAN, Job, Objective, Plan, Run

log = logging.getLogger(__name__)

ATTEMPTS = 3
GROUPS = ("model=", "model/", "optimizer=", "data=", "experiment=", "debug=", "trainer.max_", "callbacks.quality.")
"""Options in addition to `stored_config.FIXED` that make another run, or another measure of it."""

OF_A_SEARCH = ("sweep.objective", "sweep.direction", "sweep.worst", "sweep.seeds", "sweep.audit", "hydra.sweeper.")
"""Options that decide what a search proposes next."""

_NOT_OF_TRAINING = ("hydra.", "hydra/", "sweep.", "experiment=sweep_", "callbacks.pruning")
LENGTHENS = "hydra.sweeper.n_trials"
LONGEST_NAME = 128
"""What W&B takes as the name of a run, in characters."""

OF_HYDRA = ("multirun.yaml", "optimization_results.yaml")
"""What Hydra and its sweepers write into a sweep's directory."""

SECONDS_TO_WAIT = 60
"""For another process that looks for a place for its job."""


def job(config: DictConfig, train: Callable[[DictConfig], None]) -> float:
    """Do one job of a sweep, or what is left of it.

    A job that fails is recorded and counts as the worst; nothing but the end of the process stops a sweep.

    Args:
        config: its configuration.
        train: trains once, in `config.directory`, or continues the run in `config.resume`.

    Returns:
        The objective's mean over seeds; the worst if the job failed.

    Raises:
        UserError: if the options of the sweep itself are wrong, its directory holds another sweep, or another process
            does this job.
    """
    if config.resume is not None:
        raise UserError("resume: continues one run; to continue a sweep, start it again with the same sweep.name")
    commands.check_options(config, "train", "sweep")
    if config.sweep.seeds < 1:
        raise UserError(f"sweep.seeds={config.sweep.seeds}: must be at least 1")
    overrides = sorted(HydraConfig.get().overrides.task)
    objective = Objective(config.sweep.objective, config.sweep.direction, config.sweep.worst)
    record, held = _claimed(Path(config.directory), overrides, objective, config.sweep.audit)
    try:
        if not _is_done(record, config):
            _do(record, config, train)
        return record.score
    finally:
        if held is not None:
            os.close(held)


def _claimed(sweep: Path, overrides: list[str], objective: Objective, audit: int) -> tuple[Job, int | None]:
    """The record of the job with these options, as it was left or new, and what holds its directory.

    Runs that were ranked by something else, or audited otherwise, are to be measured again.

    Raises:
        UserError: if another process does this job, or its directory is a link.
    """
    with _locked(sweep):
        plan = jobs.read_plan(sweep) or Plan([])
        swept = _swept(plan.options)
        wanted = identity(overrides, swept)
        name = plan.jobs.get(wanted)
        if name is None:
            there = {identity(jobs.read(folder).overrides, swept): folder.name for folder in jobs.directories(sweep)}
            name = there.get(wanted) or _free(sweep, plan.jobs.values(), 1)[0]
        directory = sweep / name
        if directory.is_symlink():
            raise UserError(
                f"{directory}: is a symbolic link, but must be a folder; nothing was started; remove the link"
            )
        directory.mkdir(exist_ok=True)
        held = layout.lock(directory)
        if not (directory / jobs.RECORD).exists():
            record = Job(directory, overrides, objective, audit=audit)
            record.write()
            return record, held
    record = jobs.read(directory)
    if (record.objective, record.audit) != (objective, audit):
        for run in record.runs:
            run.value = run.step = run.copies = None
    record.overrides, record.objective, record.audit = overrides, objective, audit
    return record, held


@contextmanager
def _locked(sweep: Path) -> Iterator[None]:
    """Lock a sweep's directory while directories of jobs are chosen."""
    until = monotonic() + SECONDS_TO_WAIT
    held = layout.lock(sweep, until)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _free(sweep: Path, taken: Iterable[str], n: int) -> list[str]:
    """Names of the next `n` directories of jobs, after those that are there or taken."""
    numbers = [int(name) for name in (*taken, *(path.name for path in sweep.iterdir())) if name.isdecimal()]
    first = max(numbers, default=-1) + 1
    return [str(number) for number in range(first, first + n)]


def identity(overrides: Sequence[str], swept: Collection[str] = ()) -> str:
    """The options that distinguish a job from others, with their values; independent of its number.

    Args:
        overrides: the job's options.
        swept: names of options that distinguish jobs because the sweep varies them.
    """
    found = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        line = override.input_line
        if line is not None and (_makes_another(line) or override.key_or_group in swept):
            sign = line[:1] if line[:1] in "+~" else ""
            found[f"{sign.replace('+', '')}{override.key_or_group}"] = repr(override.value())
    return "\n".join(f"{key}={value}" for key, value in sorted(found.items()))


def _swept(options: Sequence[str]) -> set[str]:
    """The names of the options that a command line gives several values."""
    return {option.lstrip("+~").partition("=")[0] for option in options if _is_swept(option)}


def _searches(hydra: HydraConf | DictConfig) -> bool:
    """Whether jobs are proposed one after the other, by what came of those before."""
    return "BasicSweeper" not in hydra.sweeper._target_


def check_others(directory: Path, before: Sequence[str], now: Sequence[str], more: tuple[str, ...] = ()) -> None:
    """Stop where options that make another run differ.

    Args:
        directory: whose options they are.
        before: those it was started with.
        now: those of the command line.
        more: how the names of options begin that may not differ either.

    Raises:
        UserError: if they do.
    """
    differing = {option for option in {*before} ^ {*now} if _makes_another(option) or option.startswith(more)}
    if differing:
        raise UserError(
            f"{directory}: was started with other options ({', '.join(sorted(differing))}); take another sweep.name, "
            "or the options that it was started with"
        )


def _makes_another(option: str) -> bool:
    name = option.lstrip("+~")
    return name.startswith((*FIXED, *GROUPS)) and name.partition("=")[0] not in MOVABLE


def _is_done(record: Job, config: DictConfig) -> bool:
    """Whether nothing is left to do; where a search went on after a failed job, what it proposed followed from that."""
    if record.state == "failed" and _searches(HydraConfig.get()) and _went_on(record):
        log.info("job %s has failed already: %s", record.number, record.reason)
        return True
    measured = sum(run.value is not None for run in record.runs)
    if record.state in ("finished", "pruned") and measured == len(record.runs) >= config.sweep.seeds:
        log.info("job %s is finished already: %s %.4g", record.number, record.objective.metric, record.score)
        return True
    return False


def _went_on(record: Job) -> bool:
    """Whether a later job of the search has ended well."""
    others = map(jobs.read, jobs.directories(record.directory.parent))
    return any(
        other.state in ("finished", "pruned") and int(other.number) > int(record.number)
        for other in others
        if other.number.isdecimal() and record.number.isdecimal()
    )


def _do(record: Job, config: DictConfig, train: Callable[[DictConfig], None]) -> None:
    moved = max((path.stat().st_mtime for path in record.directory.glob("*/checkpoints/last.ckpt")), default=0.0)
    lost = record.state == "running" and moved <= record.moved
    record.attempts, record.moved = record.attempts + 1 if lost else 1, moved
    record.state, record.reason = "running", None
    try:
        if record.attempts > ATTEMPTS:
            raise UserError(f"its process died {ATTEMPTS} times without making progress; it may need more memory")
        commands.check_options(config, "train")
        record.write()
        for seed in range(config.seed, config.seed + config.sweep.seeds):
            _run(record, seed, config, train)
        record.state = "pruned" if all(run.pruned for run in record.runs) else "finished"
    except (KeyboardInterrupt, SystemExit):
        record.state = "stopped"
        log.warning("to go on, start the sweep again with sweep.name=%s", record.directory.parent.name)
        raise
    except Exception as error:
        if type(error).__name__ == "UncompletedJobError":  # the time limit of Slurm, through submitit
            record.state = "stopped"
            raise
        record.state, record.reason = "failed", commands.explain(error)
        log.error("job %s failed: %s", record.number, record.reason)
        log.debug("", exc_info=error)
    finally:
        _write(record)
        keep_log(record.directory)
        _release()


def _run(record: Job, seed: int, config: DictConfig, train: Callable[[DictConfig], None]) -> None:
    """Train with one seed, or go on, unless that is done; and measure the objective."""
    run = next((run for run in record.runs if run.seed == seed), None)
    if run is None:
        run = Run(seed)
        record.runs.append(run)
    elif run.value is not None:
        return
    directory = record.directory / run.directory
    if directory.is_symlink():
        raise UserError(f"{directory}: is a symbolic link, but must be a folder; nothing was started; remove the link")
    directory.mkdir(exist_ok=True)
    layout.check_entries(directory)
    changes: dict[str, Any] = {"seed": seed, "directory": str(directory)}
    if OmegaConf.select(config, "logger.csv") is None:
        raise UserError("logger: a sweep is ranked by metrics.csv; take logger=csv, default or tensorboard")
    if OmegaConf.select(config, "logger.wandb") is not None:
        wandb = {"group": record.directory.parent.name, "name": _name(record, seed)}
        changes["logger"] = {"wandb": {key: config.logger.wandb[key] or value for key, value in wandb.items()}}
    started = monotonic()
    try:
        if not (directory / commands.CONFIG).is_file():
            train(_changed(config, changes))
        elif not _finished(directory):
            train(_changed(config, {**changes, "resume": str(directory)}))
    finally:
        run.seconds += monotonic() - started
        with suppress(OSError):
            directory.rmdir()  # of a job that failed before it began
    series = jobs.read_series(directory / jobs.METRICS)
    step, value = record.objective.best(series)
    if config.sweep.audit:
        run.copies = _copies(directory, config)
    run.step, run.value, run.pruned = step, value, "sweep/pruned" in series
    measured = ((name, dict(curve)) for name, curve in series.items() if name.startswith("validation/"))
    run.figures = {name: curve[step] for name, curve in measured if step in curve}
    run.wandb = _wandb(directory)
    record.write()


def _wandb(directory: Path) -> str | None:
    """Project and id of a run's W&B run."""
    with suppress(OSError, RefusedError, TypeError, KeyError):
        stored = stored_config.read_yaml(directory / commands.CONFIG)
        if stored["logger"].get("wandb") is not None:
            project = stored["logger"]["wandb"].get("project") or os.environ.get("WANDB_PROJECT") or "vaegan_pl"
            return f"{project}/{stored['run_id']}"
    return None


def _changed(config: DictConfig, changes: dict[str, Any]) -> DictConfig:
    with open_dict(config):
        merged = OmegaConf.merge(config, changes)
    assert isinstance(merged, DictConfig)
    return merged


def _name(record: Job, seed: int) -> str:
    """What W&B calls the run: the job's number, what is swept, and the seed, in few letters."""
    plan = jobs.read_plan(record.directory.parent)
    given = [] if plan is None else plan.options
    fixed = {option.partition("=")[0] for option in given if not _is_swept(option)}
    own = (option.partition("=") for option in record.overrides)
    words = [f"{name.partition('.')[2] or name}={_short(value)}" for name, _, value in own if name not in fixed]
    return " ".join([record.number, f"seed={seed}", *words])[:LONGEST_NAME]


def _short(value: str) -> str:
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value


def _finished(directory: Path) -> bool:
    from vaegan_pl.training.checkpoints import limits_reached, newest

    found = newest(directory / "checkpoints")
    return found is not None and limits_reached(found[1]) is not None


def _copies(directory: Path, config: DictConfig) -> str | None:
    """The worse verdict of the audits of copies on the best model and the last; None without enough held-out images."""
    from hydra.utils import instantiate

    from vaegan_pl.evaluation.reference import audit_of
    from vaegan_pl.hardware import pick_device
    from vaegan_pl.model import weights

    data = instantiate(config.data, _convert_="all")
    data.prepare_data()
    device = pick_device(config.trainer.accelerator)
    files = filter(Path.exists, (directory / "vae_gan_model_best.pth", directory / "vae_gan_model.pth"))
    models = {model.training["batches"]: model for model in map(weights.load, files)}
    verdicts = [audit_of(m, data.collection, config.sweep.audit, config.seed, device) for m in models.values()]
    return max(filter(None, verdicts), key=("PASS", "WARN", "FAIL").index, default=None)


def _write(record: Job) -> None:
    try:
        record.write()
    except OSError as error:
        log.error("job %s cannot be recorded (%s)", record.number, error)


def _release() -> None:
    """Give back the memory of a run, which would be missing to the next job in this process."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Bookkeeping(Callback):
    """Refuses another sweep of the same name, plans a sweep's jobs, and has its report written when it is over."""

    def on_run_start(self, config: DictConfig, **options: Any) -> None:
        """Note which folders Hydra will create, so that those left empty can be removed at the end."""
        commands.note_missing(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **options: Any) -> None:
        """Look at what the directory holds, before any job starts, and write down what is to be done.

        Raises:
            SystemExit: if it holds another sweep; Hydra turns other exceptions of callbacks into warnings.
        """
        directory = Path(config.hydra.sweep.dir)
        try:
            _seed_sampler(config)
            commands.note_missing(directory)
            directory.mkdir(parents=True, exist_ok=True)
            with _locked(directory):
                new = not (directory / PLAN).exists()
                _plan(config, directory).write(directory)
        except Exception as error:  # no job must start
            sys.exit(f"error: {printable(commands.explain(error))}")
        commands.ON_EXIT.append(partial(conclude, directory, new))


def _seed_sampler(config: DictConfig) -> None:
    """Give a search's sampler the sweep's seed if it has none, without which it could not be continued."""
    sampler = OmegaConf.select(config, "hydra.sweeper.sampler")
    if isinstance(sampler, DictConfig) and "seed" in sampler and sampler.seed is None:
        sampler.seed = config.seed


def _plan(config: DictConfig, directory: Path) -> Plan:
    """What a sweep is to do, with a place for each job.

    Raises:
        UserError: if the directory holds jobs that are not among those asked for, or links.
    """
    layout.check_entries(directory)
    for name in OF_HYDRA if jobs.read_plan(directory) is None else ():
        if (directory / name).exists():
            raise UserError(
                f"{directory / name}: is in the way of a file that a sweep writes; choose another directory"
            )
    given, before = config.hydra.overrides, jobs.read_plan(directory)
    now = [*given.task, *(option for option in given.hydra if not option.startswith(LENGTHENS))]
    objective = Objective(config.sweep.objective, config.sweep.direction, config.sweep.worst)
    if _searches(config.hydra):
        if before is not None:
            earlier, later = ([o for o in options if not _is_swept(o)] for options in (before.options, now))
            check_others(directory, earlier, later, OF_A_SEARCH)
        return Plan(now, objective, config.hydra.sweeper.get("n_trials"))
    params = [f"{name}={value}" for name, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    batches = BasicSweeper.split_arguments(parser.parse_overrides([*params, *given.task]), None)
    swept = _swept(now)
    wanted = list(dict.fromkeys(identity(overrides, swept) for batch in batches for overrides in batch))
    begun = jobs.directories(directory)
    there = {identity(jobs.read(folder).overrides, swept): folder.name for folder in begun}
    if before is not None and any(map(layout.is_held, begun)):  # another process will do what it planned
        there = {key: name for key, name in before.jobs.items() if name not in there.values()} | there
    for known, name in there.items():
        if known not in wanted:
            own = {*known.split("\n")}
            differing = min((own ^ {*other.split("\n")} for other in wanted), key=len)
            raise UserError(
                f"{directory}: was started with other options: this command does not include its job {name} "
                f"({', '.join(sorted(differing))}); add that job's options (finished jobs are not trained again), or "
                "choose another sweep.name"
            )
    places = {key: name for key, name in ({} if before is None else before.jobs).items() if key in wanted} | there
    new = [key for key in wanted if key not in places]
    free = _free(directory, places.values(), len(new))
    return Plan(now, objective, len(wanted), places | dict(zip(new, free, strict=True)))


def _is_swept(option: str) -> bool:
    return bool(OverridesParser.create().parse_override(option).is_sweep_override())


def conclude(directory: Path, new: bool, ended_by: BaseException | None) -> None:
    """Write the report of a sweep that is over, or was stopped.

    Args:
        directory: the sweep's.
        new: whether it was begun by this process.
        ended_by: what ended it before its time.

    Raises:
        UserError: if jobs failed, the process of one was lost, or none left anything here.
    """
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
        for path in write_report(directory, found, overwrite=False):
            log.info("%s", path)
    except (OSError, UserError) as error:
        log.warning("the report could not be written: %s", error)
    if ended_by is not None and not isinstance(ended_by, Exception):
        return
    lost = [job.number for job in found if job.state in ("running", "stopped") and not layout.is_held(job.directory)]
    if ended_by is not None and lost:
        raise UserError(
            f"the process of job {', '.join(lost)} was lost ({commands.explain(ended_by)}); to go on, start the sweep "
            f"again with sweep.name={directory.name}"
        ) from ended_by
    failed = [job for job in found if job.state == "failed"]
    if failed and ended_by is None:
        raise UserError(f"{len(failed)} of {len(found)} jobs failed: {failed[0].number}: {failed[0].reason}")


def write_report(directory: Path, found: Sequence[Job], overwrite: bool) -> list[Path]:
    """Write what a sweep found into its directory; gives the files.

    Args:
        directory: the sweep's.
        found: its jobs.
        overwrite: whether files that somebody else made may be replaced.

    Raises:
        OSError: if a file cannot be written.
        UserError: if there are such files, or the sweep's plan is damaged.
    """
    from vaegan_pl.report import sweep_report

    claim(directory, sweep_report.NAMES, overwrite)
    plan = jobs.read_plan(directory)
    held = {job.number for job in found if layout.is_held(job.directory)}
    commands_ = {job.number: _command(job) for job in found}
    return sweep_report.write(found, directory, plan, held, commands_)


def _command(job: Job) -> str:
    """The command that trains a job again, once, with its first seed; only options that exist in `conf/`.

    A record may come from somebody else, and a command is there to be pasted.
    """
    own = [option for option in job.overrides if not option.lstrip("+~").startswith((*_NOT_OF_TRAINING, "seed="))]
    kept = [option for option in own if stored_config.is_known(option)]
    seed = [f"seed={job.runs[0].seed}"] if job.runs else []
    mode = ["hydra.mode=RUN"] if any("experiment=" in option for option in kept) else []
    left_out = f"  # without {len(own) - len(kept)} options that no configuration lists" if len(own) > len(kept) else ""
    return shlex.join(["python", "-m", "vaegan_pl.train", *kept, *seed, *mode]) + left_out
