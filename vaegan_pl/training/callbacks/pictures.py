"""Draw samples and reconstructions after every epoch."""

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from vaegan_pl.report import provenance
from vaegan_pl.report.pictures import grid, pairs, read_picture, save_png, side_by_side
from vaegan_pl.training.callbacks.common import check_prior, data_of, epochs_of, model_of, outlived
from vaegan_pl.training.lightning_module import VAEGANModule
from vaegan_pl.training.loggers import Album


class Pictures(L.Callback):
    """Draws samples and reconstructions of fixed held-out images after every epoch.

    Writes `samples_epoch_NNNN.png`, `reconstructions_epoch_NNNN.png` (originals above their reconstructions) and
    `progress.png` (samples of the first and the last epoch side by side), and logs them to W&B and TensorBoard if used.

    Args:
        directory: folder to write to.
        samples: number of samples.
        reconstructions: number of held-out images to reconstruct.
        seed: seed of the samples; the noise from which z is made is the same in every epoch.
        prior: see `SavedModel.draw`; `fitted` draws from a Gaussian of each class's latents.
    """

    def __init__(self, directory: str | Path, samples: int, reconstructions: int, seed: int, prior: str) -> None:
        if min(samples, reconstructions) < 1:
            raise ValueError("callbacks.pictures: samples and reconstructions must be at least 1")
        self.directory = Path(directory)
        self.samples = samples
        self.reconstructions = reconstructions
        self.seed = seed
        self.prior = check_prior("callbacks.pictures.prior", prior)

    @rank_zero_only
    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, save and log the pictures of this epoch."""
        assert isinstance(pl_module, VAEGANModule)
        number, done = f"{trainer.current_epoch + 1:04d}", epochs_of(trainer)
        epochs = "1 epoch" if done == 1 else f"{done:g} epochs"
        source = f"Trained on {data_of(trainer).source.caption}."
        model = model_of(trainer, pl_module, self.prior)
        networks, density = model.networks, model.density(self.prior)
        x, y = data_of(trainer).validation_images(self.reconstructions)
        on, device = next(networks.parameters()), pl_module.device
        samples = model.sample(self.samples, None, self.seed, prior=density).float()
        both = None
        if "encoder" in networks.names:
            y = y.to(device)
            reconstructions = networks.decoder(networks.encoder(x.to(on), y)[0], y).float().cpu()
            caption = f"Held-out images above their reconstructions, after {epochs}. {source}"
            both = pairs(x, reconstructions, caption)
        networks.train()

        last = grid(samples, 8, f"Samples after {epochs}, {provenance.DRAWN[density]}. {source}")
        with outlived("pictures of this epoch"):
            self._keep(trainer, "samples", f"samples_epoch_{number}.png", last)
            if both is not None:
                self._keep(trainer, "reconstructions", f"reconstructions_epoch_{number}.png", both)
            first = read_picture(self.directory / "samples_epoch_0001.png")
            self._keep(trainer, "progress", "progress.png", side_by_side([first, last]))

    def _keep(self, trainer: L.Trainer, name: str, file: str, picture: Image.Image) -> None:
        save_png(picture, self.directory / file, f"trained on {data_of(trainer).source.caption}")
        for logger in trainer.loggers:
            if isinstance(logger, Album):
                logger.log_picture(name, picture, trainer.global_step)
