"""Train a VAE/GAN: `python -m vaegan_pl.train model=larsen trainer.devices=1`."""

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import wandb
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vaegan_pl import commands, runs
from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.errors import UserError
from vaegan_pl.model.lightning_module import VAEGANModule

EXPECTED_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\). is deprecated",  # Lightning 2.6, inside itself
    r"Experiment logs directory .* exists and is not empty",  # it holds Hydra's own files
    r"The '.*_dataloader' does not have many workers",  # the images are in memory
)


def train(config: DictConfig) -> None:
    """Build everything that the configuration names and train; leave the results in the run's directory."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if str(config.trainer.precision).startswith("16"):
        raise UserError(f"trainer.precision={config.trainer.precision}: float16 is not supported; take bf16-mixed")
    L.seed_everything(config.seed, verbose=False)
    data: ImageFolders = instantiate(config.data, _convert_="all")
    data.prepare_data()
    data.setup("fit")
    module = VAEGANModule(instantiate(config.model, _convert_="all"), instantiate(config.optimizer, _convert_="all"))
    runs.claim(Path(config.directory), Path(config.output_root))
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    try:
        loggers = list(instantiate(config.logger, _convert_="all").values())
        trainer: L.Trainer = instantiate(
            config.trainer,
            logger=loggers,
            callbacks=list(instantiate(config.callbacks, _convert_="all").values()),
            _convert_="all",
        )
        if trainer.world_size > 1:
            raise UserError(f"{trainer.world_size} devices asked for; train on one, with trainer.devices=1")
        for logger in loggers:
            logger.log_hyperparams(plain)
        trainer.fit(module, datamodule=data)
    finally:
        wandb.finish()


if __name__ == "__main__":
    commands.run(train, "train")
