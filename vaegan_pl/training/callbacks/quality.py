"""Measure samples after every epoch, and warn of collapse."""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from vaegan_pl.evaluation.diversity import NEIGHBOURS, mean_manifold, vendi_score
from vaegan_pl.evaluation.features import FeatureSpace, classifier_features, mean_over_networks
from vaegan_pl.evaluation.fidelity import kernel_distance
from vaegan_pl.evaluation.verdict import LEAST_VARIETY
from vaegan_pl.model.running import in_batches
from vaegan_pl.training.callbacks.common import check_prior, data_of, model_of
from vaegan_pl.training.lightning_module import VAEGANModule

log = logging.getLogger(__name__)


class Quality(L.Callback):
    """Measures samples after every epoch at low cost, and warns if they collapse or the discriminator wins.

    Logs, for `n` samples and as many validation images: KID and coverage in the features of
    `evaluation.features`; the effective number of different samples (Vendi score) as a share of that of the validation
    images; the number of active dimensions of z, whose posterior mean has a variance above `ACTIVE` over the images
    (arXiv 1509.00519, section 5).

    Args:
        n: number of samples; 0 turns the measurement off.
        seed: seed of the samples; the noise from which z is made is the same in every epoch.
        prior: see `SavedModel.draw`; `fitted` draws from a Gaussian of each class's latents.
    """

    ACTIVE = 0.01
    COLLAPSED = LEAST_VARIETY
    WON = 0.005

    def __init__(self, n: int, seed: int, prior: str) -> None:
        if n != 0 and n <= NEIGHBOURS:
            raise ValueError(f"callbacks.quality.n={n}: must be 0 or more than {NEIGHBOURS}")
        self.n = n
        self.seed = seed
        self.prior = check_prior("callbacks.quality.prior", prior)
        self.space: FeatureSpace | None = None
        self.most = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the highest variety so far."""
        return {"most": self.most}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the highest variety so far."""
        self.most = float(state_dict["most"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare the features and the validation images to compare with, on the first device."""
        data = data_of(trainer)
        if self.n and (
            len(data.collection.listing.classes) < 2 or len(data.validation_images(self.n)[0]) <= NEIGHBOURS
        ):
            log.warning("samples are not measured: this needs two classes and %d validation images", NEIGHBOURS + 1)
            self.n = 0
        elif self.n and trainer.is_global_zero:
            self.x, self.y = data.validation_images(self.n)
            self.space = classifier_features(data.collection, data.cache, pl_module.device)
            self.real = self.space(self.x)
            self.variety = mean_over_networks(vendi_score, self.real)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log; other callbacks read the values from `trainer.callback_metrics`.

        Raises:
            UserError: if a parameter or running statistic is not finite.
        """
        assert isinstance(pl_module, VAEGANModule)
        pl_module.check_finite(pl_module.model.state_dict())
        if self.n:
            # The first device measures and broadcasts, because all devices must log the same values.
            figures = trainer.strategy.broadcast(self._figures(trainer, pl_module) if self.space is not None else {})
            for name, value in figures.items():
                pl_module.log(f"validation/{name}", value, sync_dist=True)
            self.most = max(self.most, figures["variety"])
            if figures["variety"] < self.COLLAPSED * self.most:
                self._warn(
                    trainer,
                    f"samples have lost variety: it fell from {self.most:.0%} of the variety of real images to "
                    f"{figures['variety']:.0%}; if this persists, {pl_module.model.AGAINST_COLLAPSE}",
                )
        model, metrics = pl_module.model, trainer.callback_metrics
        decoded = "prior" if "discriminator/cost_prior" in metrics else "reconstruction"
        for name in ("real", decoded):
            cost = metrics.get(f"discriminator/cost_{name}")
            if cost is not None and float(cost) < self.WON:
                self._warn(
                    trainer,
                    f"the discriminator has won (its loss on {name} images is {float(cost):.4f} nats) and "
                    f"gives the decoder no useful gradient; {model.AGAINST_DEFEAT}",
                )

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn if the samples of the trained model have little variety."""
        assert isinstance(pl_module, VAEGANModule)
        variety = float(trainer.callback_metrics.get("validation/variety", 1.0))
        if variety < self.COLLAPSED:
            log.warning(
                "samples have collapsed: their variety is %.0f%% of that of real images, whatever the other figures "
                "say; train longer, or %s",
                100 * variety,
                pl_module.model.AGAINST_COLLAPSE,
            )

    def _figures(self, trainer: L.Trainer, pl_module: VAEGANModule) -> dict[str, float]:
        assert self.space is not None
        device = pl_module.device
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in str(trainer.precision)):
            model = model_of(trainer, pl_module, self.prior)
            networks = model.networks
            x = self.x.to(next(networks.parameters()).dtype)
            samples = model.sample(len(x), None, self.seed, prior=model.density(self.prior)).float()
            means = None
            if "encoder" in networks.names:
                means = in_batches(lambda x, y: networks.encoder(x, y)[0], x, self.y, device, "encoding").float()
        networks.train()
        features = self.space(samples)
        figures = {
            "kid": mean_over_networks(kernel_distance, self.real, features),
            "coverage": mean_manifold(self.real, features).coverage,
            "variety": mean_over_networks(vendi_score, features) / self.variety,
        }
        if means is not None:
            figures["active_dimensions"] = float((means.var(0) > self.ACTIVE).sum())
        return figures

    @rank_zero_only
    def _warn(self, trainer: L.Trainer, message: str) -> None:
        log.warning("epoch %d: %s", trainer.current_epoch + 1, message)
