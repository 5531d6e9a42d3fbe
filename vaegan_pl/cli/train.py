"""Train a VAE/GAN: `python -m vaegan_pl.train model=larsen trainer.devices=1`."""

import logging
import os
import secrets
import sys
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vaegan_pl.cli import build, checks, commands, continuing
from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.runs import layout, stored_config
from vaegan_pl.runs.next_steps import data_options
from vaegan_pl.sweeps import driver

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lightning as L

    from vaegan_pl.data.datamodule import ImageFolders
    from vaegan_pl.training.callbacks import RunDirectory

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\). is deprecated",  # Lightning 2.6, inside itself
    r"You're resuming from a checkpoint that ended before the epoch ended",  # the data module goes on from there
    r"You requested to overfit but enabled train dataloader shuffling",  # which is what debug=overfit asks for
    r"The '.*_dataloader' does not have many workers",  # the images are in memory
    r"The `srun` command is available on your system but is not used",  # where Slurm is not used
)


def train(config: DictConfig) -> float | None:
    """Train once. In a sweep, run one of its jobs and return the job's objective."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return driver.job(config, fit)
    fit(config)
    return None


def fit(config: DictConfig) -> None:
    """Build everything that the configuration names, train, and leave the results in the run's directory."""
    directory, config = directory_and_config(config)
    checks.check_supported(config)
    warn_if_experiment_missing(HydraConfig.get().runtime.choices.get("model"), HydraConfig.get().overrides.task)
    commands.import_torch()
    import lightning as L

    from vaegan_pl.hardware import choose_precision, pick_device, prepare_cpu
    from vaegan_pl.model.weights import check_storable
    from vaegan_pl.training.callbacks import ModelFile

    silence_expected_warnings()
    device = pick_device(config.trainer.accelerator, "trainer.accelerator")
    config.trainer.precision = choose_precision(config.trainer.precision, device)
    checkpoint = continuing.checkpoint_of(directory, config) if config.resume else None
    checks.check_memory(config)
    L.seed_everything(config.seed, verbose=False)
    data = build.data(config)
    module = build.module(config)
    checks.check_unused(HydraConfig.get().overrides.task, set(module.optimizer_factories) - set(module.model.NETWORKS))
    config.run_id = config.run_id or run_id()
    with ExitStack() as at_the_end:  # W&B is closed first, then the directory is unlocked
        run_directory, callbacks = callbacks_of(config, directory)
        if any(isinstance(callback, ModelFile) for callback in callbacks):
            check_storable(module.model.networks)
        trainer = build.trainer(config, [run_directory, *callbacks])
        checks.check_devices(trainer)
        if device.type == "cpu":
            prepare_cpu(trainer.num_devices)
        if trainer.is_global_zero:
            at_the_end.enter_context(layout.locked(directory))
        if trainer.local_rank == 0:  # other processes start later, or wait until this one has read the images
            load_images(data, trainer)
            checks.check_classes(module.model.networks.classes, data.collection.listing.classes)
        at_the_end.push(finish_wandb)
        with continuing.restoring(checkpoint, run_directory), unhidden_interrupt(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint and checkpoint[0])


@contextmanager
def unhidden_interrupt(trainer: "L.Trainer") -> "Iterator[None]":
    """Let Ctrl-C before the first batch end the command like any other, where Lightning would exit without a word."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted and trainer.global_step == 0:
            raise KeyboardInterrupt from None
        raise


def directory_and_config(config: DictConfig) -> tuple[Path, DictConfig]:
    """The run's directory, and its configuration: as composed, or that of the run to resume or repeat.

    Raises:
        UserError: if the directory is not free, or there is no run that can be resumed or repeated.
    """
    overrides = HydraConfig.get().overrides.task
    if config.resume is not None:
        directory = Path(config.resume)
        layout.check_entries(directory)
        if HydraConfig.get().mode != RunMode.MULTIRUN:  # a job of a sweep is composed as it was before
            checks.check_single_options(f"resume={directory}", overrides)
        config = stored_config.read(directory, config, overrides)
        return directory, config
    directory = Path(config.directory)
    if config.rerun is not None:
        checks.check_single_options(f"rerun={config.rerun}", overrides)
        config = stored_config.repeat(Path(config.rerun), config, overrides)
    if commands.is_first_process():
        if config.rerun is not None:
            changes = " ".join(override for override in overrides if not override.startswith("rerun="))
            log.info("repeats      %s, %s", config.rerun, f"with {changes}" if changes else "with no changes")
        layout.check_free(directory)
        checks.check_outputs(config, directory)
    return directory, config


def warn_if_experiment_missing(model: str | None, overrides: list[str]) -> None:
    """Warn if `model=X` is chosen where `experiment=X` exists, which also sets how the model is trained."""
    experiments = [override for override in overrides if override.startswith("experiment=")]
    if (CONFIG_DIRECTORY / "experiment" / f"{model}.yaml").exists() and str(model) not in str(experiments):
        log.warning("model=%s sets only networks and losses; experiment=%s also sets how it is trained", model, model)


def silence_expected_warnings() -> None:
    """Silence warnings of libraries that do not concern the user."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


def run_id() -> str:
    """The ID of a new W&B run: the one that the agent of a W&B sweep assigns, otherwise a random one."""
    agents = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    return agents or secrets.token_hex(4)


def callbacks_of(config: DictConfig, directory: Path) -> "tuple[RunDirectory, list[L.Callback]]":
    """The callback that sets up the run's directory and gives the Trainer its loggers, and the other callbacks.

    Raises:
        UserError: if a logger or callback is an instance of another class.
    """
    import lightning as L

    from vaegan_pl.sweeps.pruning import Objective
    from vaegan_pl.training.callbacks import Console, RunDirectory

    options = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    loggers = build.parts(config, "logger", L.pytorch.loggers.Logger)
    callbacks = build.parts(config, "callbacks", L.Callback)
    if not callbacks:
        log.warning("callbacks=null: no model, checkpoint or picture is kept")
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        callbacks.append(Objective(config.sweep.objective))

    hydra = HydraConfig.get()
    of_data = data_options(str(hydra.runtime.choices["data"]), hydra.overrides.task)
    if config.resume or config.rerun:
        of_data = stored_config.data_options_of(Path(config.resume or config.rerun), of_data)
    for console in (callback for callback in callbacks if isinstance(callback, Console)):
        console.data_options = of_data

    def describe() -> None:
        stored_config.write(config, directory, hydra.overrides.task)
        for logger in loggers:
            logger.log_hyperparams(options)

    return RunDirectory(directory, Path(config.output_root), loggers, describe), callbacks


def load_images(data: "ImageFolders", trainer: "L.Trainer") -> None:
    """Read the images before anything is written.

    Raises:
        UserError: if a folder or file cannot be used.
    """
    data.trainer = trainer
    data.prepare_data()
    data.setup("fit")


def finish_wandb(error: type[BaseException] | None, *_: object) -> None:
    """Close the W&B run, if there is one, so that the next job of a sweep starts its own; failures are logged."""
    if "wandb" not in sys.modules:
        return
    import wandb

    try:
        wandb.finish(0 if error is None else 1)
    except Exception as failure:
        log.warning("W&B could not finish (%s: %s)", type(failure).__name__, failure)
