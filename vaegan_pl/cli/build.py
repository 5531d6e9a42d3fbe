"""What a configuration names, made: the module, its loggers and callbacks, the Trainer."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaegan_pl.errors import UserError

if TYPE_CHECKING:
    import lightning as L

    from vaegan_pl.model.generative import GenerativeModel
    from vaegan_pl.training.lightning_module import VAEGANModule


def model_and_optimizers(config: DictConfig) -> "tuple[GenerativeModel, dict[str, Any], Any]":
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


def trainer(config: DictConfig, callbacks: "list[L.Callback]") -> "L.Trainer":
    """Lightning's Trainer; `RunDirectory` gives it its loggers."""
    from hydra.utils import instantiate

    from vaegan_pl.hardware import alone
    from vaegan_pl.training.checkpoints import PlainCheckpointIO
    from vaegan_pl.training.sync_batch_norm import SyncAllBatchNorms

    options = OmegaConf.to_container(config.trainer, resolve=True)
    assert isinstance(options, dict)
    options.pop("graph", None)  # of this project
    plugins = [*instantiate(config.trainer.get("plugins") or []), PlainCheckpointIO()]
    if config.trainer.sync_batchnorm:
        plugins.append(SyncAllBatchNorms())
    if (config.trainer.devices, config.trainer.num_nodes) == (1, 1):
        plugins += alone()
    own: dict[str, Any] = {"logger": False, "callbacks": callbacks, "sync_batchnorm": False, "plugins": plugins}
    made: L.Trainer = instantiate(options, **own, _convert_="all")
    return made
