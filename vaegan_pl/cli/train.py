"""Train a VAE/GAN: `python -m vaegan_pl.train model=larsen trainer.devices=1`."""

import logging
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vaegan_pl.cli import commands
from vaegan_pl.data.folders import list_images
from vaegan_pl.errors import UserError
from vaegan_pl.runs import layout, stored_config
from vaegan_pl.storage.files import printable
from vaegan_pl.sweeps import driver

if TYPE_CHECKING:
    import lightning as L

    from vaegan_pl.data.datamodule import ImageFolders
    from vaegan_pl.model.generative import GenerativeModel
    from vaegan_pl.training.callbacks import RunDirectory

log = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\). is deprecated",  # Lightning 2.6, inside itself
    r"You're resuming from a checkpoint that ended before the epoch ended",  # the data module goes on from there
    r"The '.*_dataloader' does not have many workers",  # the images are in memory
    r"The `srun` command is available on your system but is not used",  # no hint, where Slurm is not asked for
)


OUTPUTS = ("directory", "path", "best", "picture")
"""Options of loggers and callbacks that say where something is written."""

BYTES_PER_PARAMETER = 12
"""Of a float32 parameter, its gradient and one number of its optimizer."""


def train(config: DictConfig) -> float | None:
    """Train once; in a sweep, do one of its jobs and return its objective."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return driver.job(config, fit)
    fit(config)
    return None


def fit(config: DictConfig) -> None:
    """Build everything that the configuration names and train; leave the results in the run's directory."""
    directory, resumed = Path(config.directory), config.resume is not None
    if resumed:
        directory = Path(config.resume)
        layout.check_entries(directory)
        config = stored_config.read(directory, config, HydraConfig.get().overrides.task)
    elif commands.is_first_process():
        layout.check_free(directory)
        check_outputs(config, directory)
    refuse_unsupported(config)
    import lightning as L
    from hydra.utils import instantiate

    from vaegan_pl.hardware import alone, choose_precision, pick_device, prepare_cpu
    from vaegan_pl.model.weights import check_storable
    from vaegan_pl.sweeps.pruning import Objective
    from vaegan_pl.training.callbacks import RunDirectory
    from vaegan_pl.training.checkpoints import PlainCheckpointIO
    from vaegan_pl.training.lightning_module import VAEGANModule
    from vaegan_pl.training.sync_batch_norm import SyncAllBatchNorms

    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    device = pick_device(config.trainer.accelerator, "trainer.accelerator")
    config.trainer.precision = choose_precision(config.trainer.precision, device)
    found = to_continue(directory, config) if resumed else None
    check_memory(config)
    L.seed_everything(config.seed, verbose=False)
    data: ImageFolders = instantiate(config.data, _convert_="all")
    model, optimizers, schedule = built(config)
    check_storable(model.networks)
    refuse_unused(HydraConfig.get().overrides.task, set(optimizers) - set(model.NETWORKS))
    graph = bool(config.trainer.get("graph", True))
    module = VAEGANModule(model, optimizers, schedule, config.seed, config.on_nan, graph)
    agents = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
    config.run_id = config.run_id or agents or secrets.token_hex(4)
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    exit_code, held = 1, None
    try:
        loggers = parts_of(config, "logger", L.pytorch.loggers.Logger)
        callbacks = parts_of(config, "callbacks", L.Callback)
        if not callbacks:
            log.warning("callbacks=null: no model, checkpoint or picture is kept")
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            callbacks.append(Objective(config.sweep.objective))

        def describe() -> None:
            stored_config.write(config, directory)
            for logger in loggers:
                logger.log_hyperparams(plain)

        own = RunDirectory(directory, Path(config.output_root), loggers, describe)
        plugins = [*instantiate(config.trainer.get("plugins") or []), PlainCheckpointIO()]
        if config.trainer.sync_batchnorm:
            plugins.append(SyncAllBatchNorms())
        if (config.trainer.devices, config.trainer.num_nodes) == (1, 1):
            plugins += alone()
        parts = {"logger": False, "callbacks": [own, *callbacks], "sync_batchnorm": False, "plugins": plugins}
        of_lightning = {name: value for name, value in plain["trainer"].items() if name != "graph"}
        trainer: L.Trainer = instantiate(of_lightning, **parts, _convert_="all")
        refuse_devices(trainer)
        if device.type == "cpu":
            prepare_cpu(trainer.num_devices)
        if trainer.is_global_zero:
            held = layout.lock(directory)
        if trainer.local_rank == 0:  # the others start later, or wait for this one before they read
            data.trainer = trainer
            data.prepare_data()
            data.setup("fit")
            refuse_classes(model.networks.classes, data.collection.listing.classes)
        with restoring(found, own):
            trainer.fit(module, datamodule=data, ckpt_path=None if found is None else found[0])
        exit_code = 0
    finally:
        finish_wandb(exit_code)
        if held is not None:
            os.close(held)


def check_outputs(config: DictConfig, directory: Path) -> None:
    """Refuse a new run whose loggers or callbacks would write over files outside of its directory.

    Raises:
        UserError: if there is such a file.
    """
    parts = {**(config.get("callbacks") or {}), "csv": OmegaConf.select(config, "logger.csv")}
    for options in filter(OmegaConf.is_dict, parts.values()):
        for path in (Path(str(options[name])) for name in OUTPUTS if options.get(name)):
            if path.resolve().is_relative_to(directory.resolve()):
                continue
            if path.is_dir():
                layout.check_free(path, layout.PICTURES)
            elif path.exists() or path.is_symlink():
                raise UserError(f"{path}: is in the way of a file that a run writes; choose another path")


def built(config: DictConfig) -> "tuple[GenerativeModel, dict[str, Any], Any]":
    """The model, what makes its optimizers, and the schedule of their learning rates.

    Raises:
        UserError: if one is something else, as without its `_target_`.
    """
    from hydra.utils import instantiate

    from vaegan_pl.model.generative import GenerativeModel

    model, optimizers = (instantiate(part, _convert_="all") for part in (config.model, config.optimizer))
    schedule = optimizers.pop("schedule", None)
    if not isinstance(model, GenerativeModel):
        raise UserError("model._target_: does not name a model of this project")
    for name, made in {**optimizers, "schedule": schedule}.items():
        if not callable(made) and (name, made) != ("schedule", None):
            raise UserError(f"optimizer.{name}: lacks its _target_ or _partial_; choose optimizer=rmsprop")
    return model, optimizers, schedule


def parts_of(config: DictConfig, group: str, kind: type) -> list[Any]:
    """The loggers or callbacks that a configuration names, without those that are null.

    Raises:
        UserError: if one is something else.
    """
    from hydra.utils import instantiate

    found = instantiate(config.get(group), _convert_="all") or {}
    for name, part in found.items():
        if part is not None and not isinstance(part, kind):
            called = kind.__name__.lower()
            raise UserError(f"{group}.{name}: is not a {called}; set {group}.{name}._target_, or leave it out")
    return [part for part in found.values() if part is not None]


def check_memory(config: DictConfig) -> None:
    """Refuse networks that do not fit into this machine's memory, before any is allocated.

    Raises:
        UserError: if they do not fit.
    """
    import torch

    from vaegan_pl.hardware import total_memory

    with torch.device("meta"):
        model = built(config)[0]
    n = sum(parameter.numel() for parameter in model.networks.parameters())
    needed, there = n * BYTES_PER_PARAMETER, total_memory()
    if needed > there:
        raise UserError(
            f"model.networks: {n:,} parameters take {needed / 2**30:,.0f} GiB to train, and this machine has "
            f"{there / 2**30:,.0f}; take smaller networks"
        )


def to_continue(directory: Path, config: DictConfig) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to continue a run from and its contents; None if the run was stopped before its first.

    Raises:
        UserError: if the run is finished and its limits stand as they were, its checkpoint is gone, or does not fit.
    """
    import torch

    from vaegan_pl.sweeps.jobs import METRICS, read_series
    from vaegan_pl.training.checkpoints import check_fits, limits_reached, newest
    from vaegan_pl.training.lightning_module import VAEGANModule

    if (directory / METRICS).exists():
        read_series(directory / METRICS)
    found = newest(directory / "checkpoints")
    if found is None:
        for made in sorted(directory.glob("vae_gan_model*.pth")):
            raise UserError(
                f"resume={directory}: holds no checkpoint to resume from, and training again would overwrite "
                f"{made.name}; start a new run"
            )
        log.warning("%s was stopped before its first checkpoint; it starts again from the beginning", config.resume)
        return None
    path, content = found
    limits = limits_reached(content)
    if limits is not None and all(config.trainer[name] == value for name, value in limits.items()):
        ended = ", ".join(f"trainer.{name}={value}" for name, value in limits.items() if value not in (None, -1))
        raise UserError(
            f"resume={config.resume}: is finished, after {content['global_step']} batches; raise {ended} to go on"
        )
    if config.optimizer.schedule is not None and limits and limits["max_epochs"] != config.trainer.max_epochs:
        log.warning("optimizer.schedule now spans the longer run: the learning rates rise again before they decay")
    with torch.device("meta"):
        model, optimizers, schedule = built(config)
        module = VAEGANModule(model, optimizers, schedule, config.seed, config.on_nan)
        check_fits(path, content, module, model.NETWORKS)
    return found


@contextmanager
def restoring(found: tuple[Path, dict[str, Any]] | None, run: "RunDirectory") -> Iterator[None]:
    """Report a checkpoint that Lightning cannot restore in one message, leaving the run's directory unchanged.

    Raises:
        UserError: if it cannot be restored.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if found is None or run.started:
            raise
        raise UserError(f"{found[0]}: cannot be restored ({type(error).__name__}: {printable(error)[:200]})") from error


def finish_wandb(exit_code: int) -> None:
    """Close the W&B run, if there is one, whatever W&B does; the next job of a sweep must have its own."""
    if "wandb" not in sys.modules:
        return
    import wandb

    try:
        wandb.finish(exit_code)
    except Exception as error:
        log.warning("W&B could not finish (%s: %s)", type(error).__name__, error)


def refuse_unsupported(config: DictConfig) -> None:
    """Stop, before anything is read or written, what would fail or mislead later.

    Raises:
        UserError: for options out of range or at odds with each other.
    """
    for name, instead in commands.OF_AUTOMATIC_OPTIMIZATION.items():
        if config.trainer.get(name) not in (None, 1 if name == "accumulate_grad_batches" else None):
            raise UserError(f"trainer.{name}: has no effect, because this project uses manual optimization; {instead}")
    if str(config.trainer.strategy) not in ("auto", "ddp"):
        raise UserError(f"trainer.strategy={config.trainer.strategy}: is not supported; take trainer.strategy=ddp")
    networks = config.model.networks
    if config.trainer.max_epochs == 0 or config.trainer.max_steps == 0:
        raise UserError("trainer.max_epochs and trainer.max_steps: 0 would train nothing; take at least 1")
    commands.refuse_seed(config.seed)
    if networks.image_size != config.data.image_size or networks.image_channels != 1:
        raise UserError("model.networks: must take grey images of data.image_size; set data.image_size alone")
    if "phantom_seed" not in config.data:  # phantoms are drawn when nothing else is wrong
        classes = None if config.data.classes is None else [str(name) for name in config.data.classes]
        aliases = {str(alias): str(name) for alias, name in (config.data.aliases or {}).items()}
        list_images(Path(str(config.data.root)), classes, aliases)


def refuse_unused(overrides: list[str], unused: set[str]) -> None:
    """Refuse an option of the optimizer of a network that the model does not have.

    Raises:
        UserError: for such an option.
    """
    for override in overrides:
        for name in unused:
            if override.lstrip("+").startswith(f"optimizer.{name}."):
                raise UserError(f"{override}: this model has no {name}; leave the option out")


def refuse_classes(conditional: int, classes: list[str]) -> None:
    """Refuse conditional networks with a different number of classes than the data has.

    Raises:
        UserError: if the numbers differ.
    """
    if conditional not in (0, len(classes)):
        raise UserError(
            f"model.networks.classes={conditional}: the images have {len(classes)} classes ({', '.join(classes)}); "
            f"set model.networks.classes={len(classes)}"
        )


def refuse_devices(trainer: "L.Trainer") -> None:
    """Stop, before anything is written, where several devices would train something else than was asked for.

    Raises:
        UserError: for several devices in a sweep, and for more or fewer processes of torchrun or Slurm than devices.
    """
    from lightning.pytorch.strategies import ParallelStrategy
    from lightning.pytorch.utilities import rank_zero_only

    from vaegan_pl.hardware import started_together

    others = started_together() > 1 or rank_zero_only.rank > 0  # type: ignore[attr-defined]
    if trainer.world_size == 1 and others:
        raise UserError("several processes were started, for one device; set trainer.devices and trainer.strategy=ddp")
    if trainer.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"trainer.devices: {trainer.world_size} devices do not work in a sweep (--multirun), whose jobs share one "
            "process; take trainer.devices=1, or start each run by itself"
        )
    launcher = trainer.strategy.cluster_environment if isinstance(trainer.strategy, ParallelStrategy) else None
    if launcher is not None:
        try:
            launcher.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
        except ValueError as error:
            raise UserError(
                f"trainer.devices={trainer.num_devices} on each of {trainer.num_nodes} nodes: {error}"
            ) from error
