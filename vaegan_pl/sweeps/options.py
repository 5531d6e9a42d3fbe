"""The options of a sweep's jobs: which identify a job, which a sweep may change, which belong in a command to paste."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.runs import next_steps
from vaegan_pl.runs.accepted import MOVABLE, is_known
from vaegan_pl.runs.metrics import BEST
from vaegan_pl.runs.stored_config import FIXED
from vaegan_pl.runs.yaml_files import read_yaml
from vaegan_pl.sweeps.jobs import Job

GROUPS = (
    "model=",
    "model/",
    "optimizer=",
    "optimizer/",
    "data=",
    "experiment=",
    "debug=",
    "trainer.max_",
    "callbacks.quality.",
)
"""Options, in addition to `stored_config.FIXED`, that change a run or how it is measured."""

OF_A_SEARCH = (
    "sweep.objective",
    "sweep.direction",
    "sweep.worst",
    "sweep.seeds",
    "sweep.folds",
    "sweep.audit",
    "hydra.sweeper.",
)
"""Options that determine what a search proposes next."""

LENGTHENS = "hydra.sweeper.n_trials"
"""The option that extends a search."""

OF_SAMPLES = ("validation/kid", "validation/coverage", "validation/variety", "validation/active_dimensions")
"""Metrics that only `callbacks.quality` measures."""

SWITCH_SAMPLES = frozenset({"callbacks.quality.n", "callbacks", "debug", "experiment", "sweep.objective"})
"""Options that decide whether jobs measure their objective."""

_NOT_OF_TRAINING = ("hydra.", "hydra/", "sweep.", "experiment=sweep_", "callbacks.pruning")


def identity(overrides: Sequence[str], swept: Collection[str] = ()) -> str:
    """The options that distinguish a job from others, with their values; independent of its number.

    Args:
        overrides: the job's options.
        swept: names of options that distinguish jobs because the sweep varies them.
    """
    found = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        line = override.input_line
        if line is not None and (_changes_run(line) or override.key_or_group in swept):
            sign = line[:1] if line[:1] in "+~" else ""
            found[f"{sign.replace('+', '')}{override.key_or_group}"] = repr(override.value())
    return "\n".join(f"{key}={value}" for key, value in sorted(found.items()))


def swept_names(options: Sequence[str]) -> set[str]:
    """The names of the options to which a command line gives several values."""
    return {option.lstrip("+~").partition("=")[0] for option in options if is_swept(option)}


def is_swept(option: str) -> bool:
    """Whether an option is given several values."""
    return bool(OverridesParser.create().parse_override(option).is_sweep_override())


def searches(hydra: HydraConf | DictConfig) -> bool:
    """Whether jobs are proposed one at a time, from the results of earlier jobs."""
    return "BasicSweeper" not in hydra.sweeper._target_


def check_same(directory: Path, before: Sequence[str], now: Sequence[str], more: tuple[str, ...] = ()) -> None:
    """Check that a sweep is continued with the options that it was started with, where they change its runs.

    Args:
        directory: the sweep's.
        before: the options that it was started with.
        now: the options of the command line.
        more: prefixes of further options that must not differ.

    Raises:
        UserError: if options differ.
    """
    differing = {option for option in {*before} ^ {*now} if _changes_run(option) or option.startswith(more)}
    if differing:
        raise UserError(
            f"{directory}: was started with other options ({', '.join(sorted(differing))}); choose another sweep.name, "
            "or give the options that it was started with"
        )


def check_measured(config: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Check that jobs will measure what they are ranked by, as far as the configuration shows.

    Args:
        config: the configuration of the sweep, or of one of its jobs.
        choices: Hydra's choice for each group of options.

    Raises:
        UserError: if jobs are ranked by a metric of samples and samples are not measured, or by the worst value.
    """
    metric = config.sweep.objective
    best = {"min": "minimize", "max": "maximize"}.get(BEST.get(metric, ""))
    if best is not None and config.sweep.direction in {"minimize", "maximize"} - {best}:
        raise UserError(
            f"sweep.direction={config.sweep.direction}: would rank the worst {metric} first; set sweep.direction={best}"
        )
    if metric not in OF_SAMPLES or OmegaConf.select(config, "callbacks.quality.n"):
        return
    presets = [f"{group}={choices[group]}" for group in ("debug", "callbacks") if choices.get(group)]
    off = next((preset for preset in presets if preset != "callbacks=default"), "callbacks.quality.n=0")
    raise UserError(
        f"sweep.objective={metric}: would not be measured, because {off} leaves samples unmeasured; leave {off} out, "
        "or rank jobs by their reconstructions with sweep.objective=validation/psnr sweep.direction=maximize"
    )


def _changes_run(option: str) -> bool:
    name = option.lstrip("+~")
    return name.startswith((*FIXED, *GROUPS)) and name.partition("=")[0] not in MOVABLE


def training_command(job: Job) -> str:
    """The command that trains a job again, once, with its first seed; only with options that exist in `conf/`.

    A record may come from anyone, and a command is meant to be pasted.
    """
    own = [option for option in job.overrides if not option.lstrip("+~").startswith((*_NOT_OF_TRAINING, "seed="))]
    kept = [option for option in own if is_known(option)]
    seed = [f"seed={job.runs[0].seed}"] if job.runs else []
    mode = ["hydra.mode=RUN"] if any("experiment=" in option for option in kept) else []
    left_out = f"  # without {len(own) - len(kept)} options that no configuration lists" if len(own) > len(kept) else ""
    return shlex.join(["python", "-m", "vaegan_pl.train", *kept, *seed, *mode]) + left_out


def data_options(job: Job) -> list[str]:
    """The options that tell `evaluate` which images a job used; only options that exist in `conf/`."""
    kept = [option for option in job.overrides if is_known(option)]
    chosen = [option.partition("=")[2] for option in kept if option.lstrip("+").startswith("data=")]
    return next_steps.data_options(chosen[-1] if chosen else _default_data(), kept)


@cache
def _default_data() -> str:
    defaults = read_yaml(commands.CONFIG_DIRECTORY / "train.yaml")["defaults"]
    return str(next(entry["data"] for entry in defaults if "data" in entry))
