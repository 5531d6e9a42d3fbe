"""Instantiate what a configuration names: the data, the module, loggers and callbacks, the Trainer."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaegan_pl.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lightning as L
    from lightning.pytorch.loggers import Logger

    from vaegan_pl.data.datamodule import ImageFolders
    from vaegan_pl.model.generative import GenerativeModel
    from vaegan_pl.training.lightning_module import VAEGANModule


def data(config: DictConfig) -> "ImageFolders":
    """The data module.

    Raises:
        UserError: if `data._target_` names something else.
    """
    from hydra.utils import instantiate

    from vaegan_pl.data.datamodule import ImageFolders

    made = instantiate(config.data, _convert_="all")
    if not isinstance(made, ImageFolders):
        raise UserError(
            f"data._target_: builds a {type(made).__name__}; it must build vaegan_pl.data.datamodule.ImageFolders or a "
            "subclass of it"
        )
    return made


def model_and_optimizers(config: DictConfig) -> "tuple[GenerativeModel, dict[str, Any], Any]":
    """The model, the factories of its optimizers, and the factory of their learning-rate schedulers.

    Raises:
        UserError: if one has the wrong type (its `_target_` may be missing), or the schedule needs a number of epochs.
    """
    from hydra.utils import instantiate

    from vaegan_pl.model.generative import GenerativeModel

    if spans_the_run(config) and config.trainer.max_epochs in (None, -1):
        raise UserError("optimizer.schedule: needs trainer.max_epochs; set it, or use optimizer.schedule=null")
    model, optimizers = (instantiate(part, _convert_="all") for part in (config.model, config.optimizer))
    schedule = optimizers.pop("schedule", None)
    if not isinstance(model, GenerativeModel):
        raise UserError("model._target_: does not name a model of this project")
    if schedule is not None and not callable(schedule):
        named = f"; use optimizer/schedule={schedule}" if isinstance(schedule, str) else ", or is not a scheduler"
        raise UserError(f"optimizer.schedule: lacks its _target_ or _partial_{named}")
    for name, made in optimizers.items():
        if not callable(made):
            raise UserError(f"optimizer.{name}: lacks its _target_ or _partial_; choose optimizer=rmsprop")
    return model, optimizers, schedule


def spans_the_run(config: DictConfig) -> bool:
    """Whether the schedule of the learning rates depends on the number of epochs."""
    return "${trainer.max_epochs}" in OmegaConf.to_yaml(config.optimizer)


def module(config: DictConfig) -> "VAEGANModule":
    """The LightningModule.

    Raises:
        UserError: see `model_and_optimizers`.
    """
    from vaegan_pl.training.lightning_module import VAEGANModule

    model, optimizers, schedule = model_and_optimizers(config)
    graph = bool(config.trainer.get("graph", True))
    return VAEGANModule(model, optimizers, schedule, config.seed, config.on_nan, graph)


def parts(config: DictConfig, group: str, kind: type) -> list[Any]:
    """The loggers or callbacks that a configuration names, without those that are null.

    Args:
        config: the configuration.
        group: `logger` or `callbacks`.
        kind: the class of the members of the group.

    Raises:
        UserError: if one is not an instance of `kind`.
    """
    from hydra.utils import instantiate

    found = instantiate(config.get(group), _convert_="all") or {}
    for name, part in found.items():
        if part is not None and not isinstance(part, kind):
            called = kind.__name__.lower()
            raise UserError(f"{group}.{name}: is not a {called}; set {group}.{name}._target_, or leave it out")
    return [part for part in found.values() if part is not None]


def trainer(config: DictConfig, callbacks: "list[L.Callback]", loggers: "Sequence[Logger]" = ()) -> "L.Trainer":
    """Lightning's Trainer, without loggers if `RunDirectory` adds them later.

    Raises:
        UserError: if the configuration lacks its class.
    """
    import lightning as L
    from hydra.utils import instantiate

    from vaegan_pl.hardware import alone
    from vaegan_pl.training.checkpoints import PlainCheckpointIO
    from vaegan_pl.training.sync_batch_norm import SyncAllBatchNorms

    options = OmegaConf.to_container(config.trainer, resolve=True)
    assert isinstance(options, dict)
    options.pop("graph", None)  # this project's own option
    plugins = [*instantiate(config.trainer.get("plugins") or []), PlainCheckpointIO()]
    if config.trainer.sync_batchnorm:
        plugins.append(SyncAllBatchNorms())
    if (config.trainer.devices, config.trainer.num_nodes) == (1, 1):
        plugins += alone()
    own: dict[str, Any] = {
        "logger": list(loggers) or False,
        "callbacks": callbacks,
        "sync_batchnorm": False,
        "plugins": plugins,
    }
    made = instantiate(options, **own, _convert_="all")
    if not isinstance(made, L.Trainer):
        raise UserError(f"trainer: is a {type(made).__name__}; set trainer._target_=lightning.Trainer")
    return made
