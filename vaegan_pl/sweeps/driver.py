"""One job of a sweep: recorded, repeated over seeds, skipped when done and resumed when not."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from vaegan_pl.cli import commands
from vaegan_pl.console import keep_log
from vaegan_pl.data.splits import FOLDS
from vaegan_pl.errors import UserError
from vaegan_pl.runs import layout
from vaegan_pl.runs.metrics import METRICS, read_series
from vaegan_pl.runs.yaml_files import read_yaml
from vaegan_pl.storage.files import RefusedError
from vaegan_pl.sweeps import jobs, options
from vaegan_pl.sweeps.jobs import Job, Objective, Plan, Run
from vaegan_pl.sweeps.ranking import BEST_MODEL, LAST_MODEL

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""A job is given up once its process has died this many times without progress."""

LONGEST_NAME = 128
"""The most characters that W&B accepts in the name of a run."""

SECONDS_TO_WAIT = 60
"""How long to wait while another process chooses the directory of its job."""


def job(config: DictConfig, train: Callable[[DictConfig], None]) -> float:
    """Run one job of a sweep, or what is left of it.

    A failure is recorded and does not stop the sweep.

    Args:
        config: the job's configuration.
        train: trains once, in `config.directory`, or resumes the run in `config.resume`.

    Returns:
        The mean of the objective over seeds; the penalty if the job failed.

    Raises:
        UserError: if an option of the sweep itself is wrong, or another process is doing this job.
    """
    if config.resume is not None:
        raise UserError("resume: continues one run; to continue a sweep, start it again with the same sweep.name")
    if config.rerun is not None:
        raise UserError("rerun: repeats one run, and this command is a sweep; leave one of them out")
    commands.check_options(config, "train", "sweep")
    if config.sweep.folds and config.data.fold is not None:
        raise UserError("sweep.folds, data.fold: give one of them; sweep.folds=true takes the folds in turn")
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
    """The record of the job with these options, existing or new, and the descriptor that locks its directory.

    Runs with another objective or another size of the copy audit are marked to be measured again.

    Raises:
        UserError: if another process is doing this job, or its directory is a symbolic link.
    """
    with locked(sweep):
        plan = jobs.read_plan(sweep) or Plan([])
        swept = options.swept_names(plan.options)
        wanted = options.identity(overrides, swept)
        name = plan.jobs.get(wanted)
        if name is None:
            there = {
                options.identity(jobs.read(folder).overrides, swept): folder.name for folder in jobs.directories(sweep)
            }
            name = there.get(wanted) or free_numbers(sweep, plan.jobs.values(), 1)[0]
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
def locked(sweep: Path) -> Iterator[None]:
    """Lock a sweep's directory while the directories of jobs are chosen."""
    until = monotonic() + SECONDS_TO_WAIT
    held = layout.lock(sweep, until)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def free_numbers(sweep: Path, taken: Iterable[str], n: int) -> list[str]:
    """The next `n` free numbers of jobs.

    Args:
        sweep: the sweep's directory.
        taken: numbers that are taken, in addition to those of existing directories.
        n: how many to return.
    """
    numbers = [int(name) for name in (*taken, *(path.name for path in sweep.iterdir())) if name.isdecimal()]
    first = max(numbers, default=-1) + 1
    return [str(number) for number in range(first, first + n)]


def _is_done(record: Job, config: DictConfig) -> bool:
    """Whether nothing is left to do.

    That includes a failed job of a search that continued after it: later proposals depend on the failure.
    """
    if record.state == "failed" and options.searches(HydraConfig.get()) and _went_on(record):
        log.info("job %s already failed: %s", record.number, record.reason)
        return True
    measured = sum(run.value is not None for run in record.runs)
    if record.state in ("finished", "pruned") and measured == len(record.runs) >= config.sweep.seeds:
        log.info("job %s is already finished: %s %.4g", record.number, record.objective.metric, record.score)
        return True
    return False


def _went_on(record: Job) -> bool:
    """Whether a later job of the search succeeded."""
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
        options.check_measured(config, HydraConfig.get().runtime.choices)
        record.write()
        for seed in range(config.seed, config.seed + config.sweep.seeds):
            _run(record, seed, config, train)
        record.state = "pruned" if all(run.pruned for run in record.runs) else "finished"
    except (KeyboardInterrupt, SystemExit):
        record.state = "stopped"
        log.warning("to continue, start the sweep again with sweep.name=%s", record.directory.parent.name)
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
    """Train with one seed, or resume, and measure the objective; do nothing if that is already done."""
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
    if config.sweep.folds:
        changes["data"] = {"fold": (seed - config.seed) % FOLDS}
    if OmegaConf.select(config, "logger.csv") is None:
        raise UserError("logger: a sweep reads its scores from metrics.csv; set logger=csv, default or tensorboard")
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
            directory.rmdir()  # empty if training failed before it began
    series = read_series(directory / METRICS)
    step, value = record.objective.best(series)
    if config.sweep.audit:
        run.copies = _copies(directory, config)
    run.step, run.value, run.pruned = step, value, "sweep/pruned" in series
    measured = ((name, dict(curve)) for name, curve in series.items() if name.startswith("validation/"))
    run.figures = {name: curve[step] for name, curve in measured if step in curve}
    run.wandb = _wandb(directory)
    record.write()


def _wandb(directory: Path) -> str | None:
    """Project and ID of a run's W&B run; None if it has none."""
    with suppress(OSError, RefusedError, TypeError, KeyError):
        stored = read_yaml(directory / commands.CONFIG)
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
    """The name of a run in W&B: the job's number, the seed, and the options that are not the same in all jobs."""
    plan = jobs.read_plan(record.directory.parent)
    given = [] if plan is None else plan.options
    fixed = {option.partition("=")[0] for option in given if not options.is_swept(option)}
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
    """The worse of the copy-audit verdicts on the best and the last model; None if too few images are held out."""
    from hydra.utils import instantiate

    from vaegan_pl.evaluation import privacy
    from vaegan_pl.evaluation.reference import audit_of
    from vaegan_pl.hardware import pick_device
    from vaegan_pl.model import weights

    data = instantiate(config.data, _convert_="all")
    data.prepare_data()
    device = pick_device(config.trainer.accelerator)
    files = filter(Path.exists, (directory / BEST_MODEL, directory / LAST_MODEL))
    models = {model.training["batches"]: model for model in map(weights.load, files)}
    verdicts = [audit_of(m, data.collection, config.sweep.audit, config.seed, device) for m in models.values()]
    return max(filter(None, verdicts), key=privacy.VERDICTS.index, default=None)


def _write(record: Job) -> None:
    try:
        record.write()
    except OSError as error:
        log.error("job %s cannot be recorded (%s)", record.number, error)


def _release() -> None:
    """Free the memory of a run for the next job in this process."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
