"""Train a VAE/GAN: `python -m vaegan_pl.train model=larsen trainer.devices=1`."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from vaegan_pl import commands, runs
from vaegan_pl.errors import UserError

if TYPE_CHECKING:
    from vaegan_pl.data.datamodule import ImageFolders

EXPECTED_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\). is deprecated",  # Lightning 2.6, inside itself
    r"Experiment logs directory .* exists and is not empty",  # it holds Hydra's own files
    r"The '.*_dataloader' does not have many workers",  # the images are in memory
)


def train(config: DictConfig) -> None:
    """Build everything that the configuration names and train; leave the results in the run's directory."""
    refuse_unsupported(config)
    import lightning as L
    import wandb
    from hydra.utils import instantiate

    from vaegan_pl.model.lightning_module import VAEGANModule

    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(config.seed, verbose=False)
    data: ImageFolders = instantiate(config.data, _convert_="all")
    data.prepare_data()
    data.setup("fit")
    module = VAEGANModule(instantiate(config.model, _convert_="all"), instantiate(config.optimizer, _convert_="all"))
    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    exit_code = 1
    try:
        loggers = list((instantiate(config.logger, _convert_="all") or {}).values())
        callbacks = list((instantiate(config.callbacks, _convert_="all") or {}).values())
        trainer: L.Trainer = instantiate(config.trainer, logger=loggers, callbacks=callbacks, _convert_="all")
        if trainer.world_size > 1:
            raise UserError(f"{trainer.world_size} devices asked for; train on one, with trainer.devices=1")
        runs.claim(Path(config.directory), Path(config.output_root))
        for logger in loggers:
            logger.log_hyperparams(plain)
        trainer.fit(module, datamodule=data)
        exit_code = 0
    except wandb.errors.Error as error:
        raise UserError(f"W&B: {error}; keep logger.wandb.offline=true or take logger=csv") from error
    finally:
        wandb.finish(exit_code)


def refuse_unsupported(config: DictConfig) -> None:
    """Stop, before anything is read or written, what would fail or mislead later.

    Raises:
        UserError: for options out of range or at odds with each other.
    """
    precision, networks = str(config.trainer.precision), config.model.networks
    if precision not in ("32", "32-true", "bf16", "bf16-mixed"):
        raise UserError(f"trainer.precision={precision}: is not supported; take 32-true or bf16-mixed")
    if config.trainer.max_epochs == 0 or config.trainer.max_steps == 0:
        raise UserError("trainer.max_epochs and trainer.max_steps: 0 would train nothing; take at least 1")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed={config.seed}: must lie between 0 and 4294967295")
    if networks.image_size != config.data.image_size or networks.image_channels != 1:
        raise UserError("model.networks: must take grey images of data.image_size; set data.image_size alone")


if __name__ == "__main__":
    commands.run(train, "train")
