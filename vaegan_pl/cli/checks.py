"""Checks before training: contradictory options, existing files, memory, classes and devices."""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vaegan_pl.cli import build, commands
from vaegan_pl.data.folders import list_images
from vaegan_pl.errors import UserError
from vaegan_pl.runs import layout

if TYPE_CHECKING:
    import lightning as L

SET_AT_THE_START = ("trainer", "experiment", "debug")
"""Groups that cannot be chosen again when a run is resumed or repeated."""

OUTPUTS = ("directory", "path", "best", "picture")
"""Options of loggers and callbacks whose value is the path of an output."""

READS_FOLDERS = "vaegan_pl.data.datamodule.ImageFolders"
"""The data module that reads existing images and writes none."""

BYTES_PER_PARAMETER = 12
"""Memory for a float32 parameter, its gradient and one value of optimizer state."""


def check_supported(config: DictConfig) -> None:
    """Check the options before anything is read or written.

    Raises:
        UserError: if an option is out of range, contradicts another one, or would have no effect.
    """
    for name, instead in commands.OF_AUTOMATIC_OPTIMIZATION.items():
        if config.trainer.get(name) not in (None, 1 if name == "accumulate_grad_batches" else None):
            raise UserError(f"trainer.{name}: has no effect, because this project uses manual optimization; {instead}")
    if str(config.trainer.strategy) not in ("auto", "ddp"):
        raise UserError(f"trainer.strategy={config.trainer.strategy}: is not supported; use trainer.strategy=ddp")
    networks = config.model.networks
    if config.trainer.max_epochs == 0 or config.trainer.max_steps == 0:
        raise UserError("trainer.max_epochs and trainer.max_steps: 0 would train nothing; set at least 1")
    commands.check_seed(config.seed)
    if networks.image_size != config.data.image_size or networks.image_channels != 1:
        raise UserError("model.networks: must accept grey images of data.image_size; set only data.image_size")
    check_folders(config)


def check_folders(config: DictConfig) -> None:
    """Check that the folders of the images are there, without importing PyTorch.

    Raises:
        UserError: see `folders.list_images`.
    """
    if config.data.get("_target_") == READS_FOLDERS:  # its subclasses may write the images first
        classes = None if config.data.classes is None else [str(name) for name in config.data.classes]
        aliases = {str(alias): str(name) for alias, name in (config.data.aliases or {}).items()}
        exclude = None if config.data.exclude is None else str(config.data.exclude)
        list_images(Path(str(config.data.root)), classes, aliases, exclude, str(config.data.masks))


def check_single_options(option: str, overrides: list[str]) -> None:
    """Refuse groups that set many options where a stored configuration is resumed or repeated.

    Args:
        option: what is resumed or repeated, as it was typed.
        overrides: the options of the command line.

    Raises:
        UserError: for such a group.
    """
    for name in (override.partition("=")[0].lstrip("+") for override in overrides):
        if name in SET_AT_THE_START:
            raise UserError(
                f"{option}: {name}= sets many options at once, but they must stay as in that run; leave it out, or "
                "give single options, such as trainer.accelerator=cpu"
            )


def check_outputs(config: DictConfig, directory: Path) -> None:
    """Check that the loggers and callbacks of a new run overwrite no file outside its directory.

    Raises:
        UserError: if one would.
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


def check_memory(config: DictConfig) -> None:
    """Check that the networks fit into this machine's memory, before they are allocated.

    Raises:
        UserError: if they do not.
    """
    import torch

    from vaegan_pl.hardware import total_memory

    with torch.device("meta"):
        model = build.model_and_optimizers(config)[0]
    n = sum(parameter.numel() for parameter in model.networks.parameters())
    needed, there = n * BYTES_PER_PARAMETER, total_memory()
    if needed > there:
        raise UserError(
            f"model.networks: {n:,} parameters need {needed / 2**30:,.0f} GiB to train, but this machine has "
            f"{there / 2**30:,.0f}; use smaller networks"
        )


def check_unused(overrides: list[str], unused: set[str]) -> None:
    """Check that no option is set for the optimizer of a network that the model does not have.

    Args:
        overrides: the options of the command line.
        unused: networks that have an optimizer but are not in the model.

    Raises:
        UserError: if one is.
    """
    for override in overrides:
        for name in unused:
            if override.lstrip("+").startswith(f"optimizer.{name}."):
                raise UserError(f"{override}: this model has no {name}; leave the option out")


def check_classes(conditional: int, classes: list[str]) -> None:
    """Check that conditional networks have as many classes as the data.

    Args:
        conditional: number of classes of the networks; 0 if they take no labels.
        classes: class names of the data.

    Raises:
        UserError: if they do not.
    """
    if conditional not in (0, len(classes)):
        raise UserError(
            f"model.networks.classes={conditional}: the images have {len(classes)} classes ({', '.join(classes)}); "
            f"set model.networks.classes={len(classes)}"
        )


def check_devices(trainer: "L.Trainer") -> None:
    """Check the number of devices and processes before anything is written.

    Raises:
        UserError: for several devices in a sweep, and if torchrun or Slurm started a different number of processes than
            there are devices.
    """
    from lightning.pytorch.strategies import ParallelStrategy
    from lightning.pytorch.utilities import rank_zero_only

    from vaegan_pl.hardware import started_together

    others = started_together() > 1 or rank_zero_only.rank > 0  # type: ignore[attr-defined]
    if trainer.world_size == 1 and others:
        raise UserError("several processes were started for one device; set trainer.devices and trainer.strategy=ddp")
    if trainer.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            f"trainer.devices: {trainer.world_size} devices do not work in a sweep (--multirun), whose jobs share one "
            "process; use trainer.devices=1, or start each run separately"
        )
    launcher = trainer.strategy.cluster_environment if isinstance(trainer.strategy, ParallelStrategy) else None
    if launcher is not None:
        try:
            launcher.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
        except ValueError as error:
            raise UserError(
                f"trainer.devices={trainer.num_devices} on each of {trainer.num_nodes} nodes: {error}"
            ) from error
