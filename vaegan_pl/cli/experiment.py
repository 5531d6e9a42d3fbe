"""What `train` builds from its options, for use in programs: `vaegan_pl.build`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vaegan_pl.cli import build, checks, commands
from vaegan_pl.console import as_option
from vaegan_pl.errors import UserError
from vaegan_pl.runs import layout

if TYPE_CHECKING:
    import lightning as L

    from vaegan_pl.data.datamodule import ImageFolders
    from vaegan_pl.training.lightning_module import VAEGANModule

NOTHING_KEPT = ("callbacks=none", "logger=none")


@dataclass(frozen=True)
class Experiment:
    """A model, the images to train it on, and a Trainer; `trainer.fit(module, data)` trains the model.

    Attributes:
        module: the model with its optimizers; `module.model` is the `GenerativeModel`.
        data: the images.
        trainer: Lightning's Trainer.
    """

    module: "VAEGANModule"
    data: "ImageFolders"
    trainer: "L.Trainer"


def experiment(options: Sequence[str], config_dir: str | Path | None = None) -> Experiment:
    """Build what the options name; see `vaegan_pl.build`."""
    try:
        return _built(_composed(options, config_dir))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(commands.explain(error)) from error


def _composed(options: Sequence[str], config_dir: str | Path | None) -> DictConfig:
    """The configuration of `train` with the options, checked.

    Raises:
        UserError: for an option of the wrong type.
    """
    given = [*NOTHING_KEPT, *options]
    if config_dir is not None:
        folder = Path(config_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"config_dir={config_dir}: no such folder")
        _, _, quoted = as_option("folder", f"file://{folder}").partition("=")
        given.append(f"hydra.searchpath=[{quoted}]")
    with _hydra():
        config = compose("train", given, return_hydra_config=True)
        choices = config.hydra.runtime.choices
        OmegaConf.set_struct(config, value=False)
        del config["hydra"]
        OmegaConf.set_struct(config, value=True)
        commands.check_values(config, "train", given, choices)
    if not any(option.startswith("directory=") for option in options):
        config.trainer.default_root_dir = None
        config.directory = "???"
    return config


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra with `conf/`, also in a program or notebook that uses Hydra itself."""
    before, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(commands.CONFIG_DIRECTORY), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before  # leaving Hydra's context has put another instance in place


def _check_directory(config: DictConfig) -> None:
    """Check that callbacks and loggers have a directory, and would not overwrite an earlier run in it.

    Raises:
        UserError: otherwise.
    """
    written = {name: config.get(name) for name in ("callbacks", "logger")}
    if "${directory}" not in OmegaConf.to_yaml(OmegaConf.create(written)):
        return
    if OmegaConf.is_missing(config, "directory"):
        raise UserError("directory: callbacks and loggers need one to write to; add directory=PATH, or leave them out")
    if Path(config.directory).is_dir():
        layout.check_free(Path(config.directory), option="directory")


def _built(config: DictConfig) -> Experiment:
    for name in ("resume", "rerun"):
        if config[name] is not None:
            raise UserError(f"{name}={config[name]}: is for the command python -m vaegan_pl.train; leave it out")
    checks.check_supported(config)
    _check_directory(config)
    import lightning as L

    from vaegan_pl.hardware import choose_precision, pick_device
    from vaegan_pl.model.weights import check_storable
    from vaegan_pl.training.callbacks import ModelFile

    device = pick_device(config.trainer.accelerator, "trainer.accelerator")
    config.trainer.precision = choose_precision(config.trainer.precision, device)
    L.seed_everything(config.seed, verbose=False)
    data, module = build.data(config), build.module(config)
    loggers = build.parts(config, "logger", L.pytorch.loggers.Logger)
    callbacks = build.parts(config, "callbacks", L.Callback)
    if any(isinstance(callback, ModelFile) for callback in callbacks):
        check_storable(module.model.networks)
    return Experiment(module, data, build.trainer(config, callbacks, loggers))
