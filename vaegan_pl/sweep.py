"""One job of a sweep: recorded, repeated over seeds, and neither repeated nor lost when the sweep is started again."""

import gc
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from vaegan_pl import commands, jobs, runs
from vaegan_pl.errors import UserError
from vaegan_pl.jobs import Job, Objective, Run
from vaegan_pl.resume import ADDED, FIXED, MOVABLE

log = logging.getLogger(__name__)

PLAN = "options.json"
"""The command line that a sweep was started with, in its directory."""

ATTEMPTS = 3
GROUPS = ("model=", "model/", "optimizer=", "data=", "experiment=", "trainer.max_", "callbacks.quality.")
"""Options beside `resume.FIXED` that make another run, or another measure of it."""

OF_A_SEARCH = ("sweep.objective", "sweep.direction", "sweep.worst", "sweep.seeds", "sweep.audit", "hydra.sweeper.")
"""Options that decide what a search proposes next."""

LENGTHENS = "hydra.sweeper.n_trials"
LONGEST_NAME = 128
"""What W&B takes as the name of a run, in characters."""


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
    directory = Path(config.directory)
    objective = Objective(config.sweep.objective, config.sweep.direction, config.sweep.worst)
    held = runs.lock(directory)
    try:
        record = _record(directory, sorted(HydraConfig.get().overrides.task), objective, config.sweep.audit)
        if not _is_done(record, config):
            _do(record, config, train)
        return record.score
    finally:
        if held is not None:
            os.close(held)


def _record(directory: Path, overrides: list[str], objective: Objective, audit: int) -> Job:
    """The job's record, as it was left; a new one for a new job, and where a search proposes another in its place.

    Runs that were ranked by something else, or audited otherwise, are to be measured again.

    Raises:
        UserError: if the directory holds a job with other options.
    """
    new = Job(directory, overrides, objective, audit=audit)
    if not (directory / jobs.RECORD).exists():
        return new
    record = jobs.read(directory)
    if record.state not in ("finished", "pruned") and _searches(HydraConfig.get()) and record.overrides != overrides:
        for run in record.runs:
            shutil.rmtree(directory / run.directory, ignore_errors=True)
        return new
    refuse_others(directory, record.overrides, overrides)
    if (record.objective, record.audit) != (objective, audit):
        for run in record.runs:
            run.value = run.step = run.copies = None
    record.overrides, record.objective, record.audit = overrides, objective, audit
    return record


def _searches(hydra: HydraConf | DictConfig) -> bool:
    """Whether jobs are proposed one after the other, by what came of those before."""
    return "BasicSweeper" not in hydra.sweeper._target_


def refuse_others(directory: Path, before: Sequence[str], now: Sequence[str], more: tuple[str, ...] = ()) -> None:
    """Stop where options that make another run differ.

    Args:
        directory: whose options they are.
        before: those it was started with.
        now: those of the command line.
        more: how the names of options begin that may not differ either.

    Raises:
        UserError: then.
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
    others = (jobs.read(path.parent) for path in record.directory.parent.glob(f"*/{jobs.RECORD}"))
    return any(
        other.state in ("finished", "pruned") and int(other.number) > int(record.number)
        for other in others
        if other.number.isdigit() and record.number.isdigit()
    )


def _do(record: Job, config: DictConfig, train: Callable[[DictConfig], None]) -> None:
    moved = max((path.stat().st_mtime for path in record.directory.glob("*/checkpoints/last.ckpt")), default=0.0)
    lost = record.state == "running" and moved <= record.moved
    record.attempts, record.moved = record.attempts + 1 if lost else 1, moved
    record.state, record.reason = "running", None
    try:
        if record.attempts > ATTEMPTS:
            raise UserError(f"its process ended {ATTEMPTS} times without getting on; it may need more memory")
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
        _release()


def _run(record: Job, seed: int, config: DictConfig, train: Callable[[DictConfig], None]) -> None:
    """Train with one seed, or go on, unless that is done; and measure the objective."""
    run = next((run for run in record.runs if run.seed == seed), None)
    if run is None:
        run = Run(seed, f"seed_{seed}")
        record.runs.append(run)
    elif run.value is not None:
        return
    directory = record.directory / run.directory
    directory.mkdir(exist_ok=True)
    objective = {"_target_": ADDED, "metric": record.objective.metric}
    changes: dict[str, Any] = {"seed": seed, "directory": str(directory), "callbacks": {"objective": objective}}
    if OmegaConf.select(config, "logger.csv") is None:
        raise UserError("logger: a sweep is ranked by metrics.csv; take logger=csv, default or tensorboard")
    if OmegaConf.select(config, "logger.wandb") is not None:
        wandb = {"group": record.directory.parent.name, "name": _name(record, seed)}
        changes["logger"] = {"wandb": {key: config.logger.wandb[key] or value for key, value in wandb.items()}}
    if not (directory / commands.CONFIG).is_file():
        train(_changed(config, changes))
    elif not _finished(directory):
        train(_changed(config, {**changes, "resume": str(directory)}))
    series = jobs.read_series(directory / jobs.METRICS)
    step, value = record.objective.best(series)
    if config.sweep.audit:
        run.copies = _copies(directory, config)
    run.step, run.value, run.pruned = step, value, "sweep/pruned" in series
    record.write()


def _changed(config: DictConfig, changes: dict[str, Any]) -> DictConfig:
    with open_dict(config):
        merged = OmegaConf.merge(config, changes)
    assert isinstance(merged, DictConfig)
    return merged


def _name(record: Job, seed: int) -> str:
    """What W&B calls the run: the job's number, what is swept, and the seed, in few letters."""
    path = record.directory.parent / PLAN
    given = json.loads(path.read_text()) if path.exists() else []
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
    from vaegan_pl.checkpoints import limits_reached, read

    checkpoint = directory / "checkpoints" / "last.ckpt"
    return checkpoint.exists() and limits_reached(read(checkpoint)) is not None


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
    """Refuses another sweep of the same name, and has the report written when the sweep is over."""

    def on_multirun_start(self, config: DictConfig, **options: Any) -> None:
        """Look at what the directory holds.

        Raises:
            SystemExit: if it holds another sweep; Hydra turns other exceptions of callbacks into warnings.
        """
        directory = Path(config.hydra.sweep.dir)
        given = config.hydra.overrides
        path, now = directory / PLAN, [*given.task, *(o for o in given.hydra if not o.startswith(LENGTHENS))]
        try:
            if path.exists():
                before, after = ([o for o in c if not _is_swept(o)] for c in (json.loads(path.read_text()), now))
                refuse_others(directory, before, after, OF_A_SEARCH if _searches(config.hydra) else ())
            directory.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(now, indent=1))
        except (UserError, OSError, ValueError) as error:
            sys.exit(f"error: {commands.explain(error)}")
        commands.AT_END.append(partial(conclude, directory))


def _is_swept(option: str) -> bool:
    return bool(OverridesParser.create().parse_override(option).is_sweep_override())


def conclude(directory: Path, ended_by: BaseException | None) -> None:
    """Write the report of a sweep that is over, or was stopped.

    Args:
        directory: the sweep's.
        ended_by: what ended it before its time.

    Raises:
        UserError: if jobs failed, the process of one was lost, or none left anything here.
    """
    from vaegan_pl.report import sweep_report

    if not any(directory.glob(f"*/{jobs.RECORD}")):
        if ended_by is None:
            raise UserError(
                f"{directory}: no job wrote anything there; if jobs run on other machines, give an output_root "
                "that all of them share, from / on"
            )
        return
    found = jobs.in_directory(directory)
    try:
        for path in sweep_report.write(found, directory):
            log.info("%s", path)
    except OSError as error:
        log.warning("the report could not be written: %s", error)
    if ended_by is not None and not isinstance(ended_by, Exception):
        return
    lost = [job.number for job in found if job.state in ("running", "stopped") and not runs.is_held(job.directory)]
    if ended_by is not None and lost:
        raise UserError(
            f"the process of job {', '.join(lost)} was lost ({commands.explain(ended_by)}); to go on, start the sweep "
            f"again with sweep.name={directory.name}"
        ) from ended_by
    failed = [job for job in found if job.state == "failed"]
    if failed and ended_by is None:
        raise UserError(f"{len(failed)} of {len(found)} jobs failed: {failed[0].number}: {failed[0].reason}")
