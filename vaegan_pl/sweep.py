"""One job of a sweep: recorded, repeated over seeds, and neither repeated nor lost when the sweep is started again."""

import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from vaegan_pl import commands, jobs
from vaegan_pl.errors import UserError
from vaegan_pl.jobs import Job, Objective, Run

log = logging.getLogger(__name__)

ATTEMPTS = 3


def job(config: DictConfig, train: Callable[[DictConfig], None]) -> float:
    """Do one job of a sweep, or what is left of it.

    A job that fails is recorded and counts as the worst; nothing but the end of the process stops a sweep.

    Args:
        config: its configuration.
        train: trains once, in `config.directory`, or continues the run in `config.resume`.

    Returns:
        The objective's mean over seeds; `config.sweep.worst` if the job failed.

    Raises:
        UserError: if the options of the sweep itself are wrong, or its directory holds another sweep.
    """
    directory = Path(config.directory)
    overrides = sorted(HydraConfig.get().overrides.task)
    objective = Objective(config.sweep.objective, config.sweep.direction, config.sweep.worst)
    record = _record(directory, overrides, objective)
    if record.state in ("finished", "pruned"):
        log.info("job %s is finished already: %s %.4g", record.number, objective.metric, record.score)
        return record.score
    record.attempts = record.attempts + 1 if record.state == "running" else 1
    record.state, record.reason = "running", None
    try:
        if record.attempts > ATTEMPTS:
            raise UserError(f"its process was lost {ATTEMPTS} times (for want of memory?)")
        commands.check_options(config, "train")
        record.write()
        for seed in _seeds(config):
            _run(record, seed, config, train)
        record.state = "pruned" if all(run.pruned for run in record.runs) else "finished"
    except (KeyboardInterrupt, SystemExit):
        record.state = "stopped"
        raise
    except Exception as error:
        record.state, record.reason = "failed", commands.explain(error)
        log.error("job %s failed: %s", record.number, record.reason)
        log.debug("", exc_info=error)
    finally:
        _write(record)
        _release()
    return record.score


def _record(directory: Path, overrides: list[str], objective: Objective) -> Job:
    """The job's record, as it was left; a new one for a new job.

    Raises:
        UserError: if the directory holds a job with other options.
    """
    if not (directory / jobs.RECORD).exists():
        return Job(directory, overrides, objective)
    record = jobs.read(directory)
    if record.overrides != overrides:
        differing = ", ".join(sorted(set(record.overrides) ^ set(overrides)))
        raise UserError(
            f"{directory}: holds a job with other options ({differing}); take another sweep.name, or the options that "
            "the sweep was started with"
        )
    record.objective = objective
    return record


def _seeds(config: DictConfig) -> range:
    if config.sweep.seeds < 1:
        raise UserError(f"sweep.seeds={config.sweep.seeds}: must be at least 1")
    return range(config.seed, config.seed + config.sweep.seeds)


def _run(record: Job, seed: int, config: DictConfig, train: Callable[[DictConfig], None]) -> None:
    """Train with one seed, or go on, unless that is done; and measure the objective."""
    several = config.sweep.seeds > 1
    run = next((run for run in record.runs if run.seed == seed), None)
    if run is None:
        run = Run(seed, f"seed_{seed}" if several else ".")
        record.runs.append(run)
    elif run.value is not None:
        return
    directory = record.directory / run.directory
    directory.mkdir(parents=True, exist_ok=True)
    changes: dict[str, Any] = {"seed": seed, "directory": str(directory)}
    begun = (directory / commands.CONFIG).is_file()
    if begun:
        changes["resume"] = str(directory)
    if OmegaConf.select(config, "logger.wandb") is not None:
        changes["logger"] = {"wandb": {"group": record.directory.parent.name, "name": _name(record, seed, several)}}
    if not begun or not _finished(directory):
        train(OmegaConf.merge(config, changes))
    series = jobs.read_series(directory / jobs.METRICS)
    step, value = record.objective.best(series)
    if config.sweep.audit:
        run.copies = _copies(directory, config)
    run.step, run.value, run.pruned = step, value, "sweep/pruned" in series
    record.write()


def _name(record: Job, seed: int, several: bool) -> str:
    """What W&B calls the run: the job's number, what is swept as far as it is known here, and the seed."""
    path = record.directory.parent / "multirun.yaml"
    fixed = set(OmegaConf.load(path).hydra.overrides.task) if path.exists() else set()
    swept = [override for override in record.overrides if override not in fixed]
    return " ".join([record.number, *swept, *([f"seed={seed}"] if several else [])])


def _finished(directory: Path) -> bool:
    from vaegan_pl.checkpoints import limits_reached, read

    checkpoint = directory / "checkpoints" / "last.ckpt"
    return checkpoint.exists() and limits_reached(read(checkpoint)) is not None


def _copies(directory: Path, config: DictConfig) -> str | None:
    """Verdict of the audit of copies on the best model; None where too few images are held out to audit by."""
    from hydra.utils import instantiate

    from vaegan_pl.evaluation.reference import audit_of
    from vaegan_pl.hardware import pick_device
    from vaegan_pl.model import weights

    data = instantiate(config.data, _convert_="all")
    data.prepare_data()
    best = directory / "vae_gan_model_best.pth"
    model = weights.load(best if best.exists() else directory / "vae_gan_model.pth")
    return audit_of(model, data.collection, config.sweep.audit, config.seed, pick_device(config.trainer.accelerator))


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


class EndOfSweep(Callback):
    """Writes the report when a sweep is over, and ends the command with a failure if a job failed."""

    def on_multirun_end(self, config: DictConfig, **options: Any) -> None:
        """See `report.sweep_report`.

        Raises:
            SystemExit: if a job failed.
        """
        from vaegan_pl.report import sweep_report

        directory = Path(config.hydra.sweep.dir)
        found = jobs.in_directory(directory)
        for path in sweep_report.write(found, directory):
            log.info("%s", path)
        failed = [job for job in found if job.state == "failed"]
        if failed:
            sys.exit(f"error: {len(failed)} of {len(found)} jobs failed: {failed[0].number}: {failed[0].reason}")
