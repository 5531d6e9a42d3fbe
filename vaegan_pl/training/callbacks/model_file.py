"""Write the portable model files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from vaegan_pl.console import as_typed
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation.choice import by_validation
from vaegan_pl.evaluation.features import FeatureSpace
from vaegan_pl.inference import class_mixtures
from vaegan_pl.model import weights
from vaegan_pl.model.mixtures import COMPONENTS, ClassMixtures
from vaegan_pl.report import model_card
from vaegan_pl.training.callbacks.common import data_of, epochs_of, outlived
from vaegan_pl.training.callbacks.quality import Quality
from vaegan_pl.training.checkpoints import trained
from vaegan_pl.training.lightning_module import VAEGANModule

log = logging.getLogger(__name__)


class ModelFile(L.Callback):
    """Writes the portable model files of the last epoch and of the epoch with the lowest validation KID.

    When training ends, the class mixtures are added to the files, and model cards are written. The number of components
    is chosen for the best epoch, by the KID of samples to validation images, or by likelihood if the quality of samples
    is not measured.

    Args:
        path: file of the last epoch, `vae_gan_model.pth`.
        best: file of the best epoch.
    """

    def __init__(self, path: str | Path, best: str | Path) -> None:
        self.path = Path(path)
        self.best = Path(best)
        self.lowest = float("inf")
        self.stale = True

    def state_dict(self) -> dict[str, Any]:
        """Return the lowest KID so far."""
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the lowest KID so far."""
        self.lowest = float(state_dict["lowest"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the model of this epoch over that of the previous one, if its numbers are finite.

        Raises:
            UserError: if a parameter or running statistic is not finite; the earlier files are kept.
        """
        assert isinstance(pl_module, VAEGANModule)
        pl_module.check_finite(pl_module.model.state_dict())
        self._save(trainer, pl_module)

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the class mixtures to the files, and write the model cards.

        Raises:
            OSError: if the last model cannot be written.
        """
        assert isinstance(pl_module, VAEGANModule)
        found: dict[int, ClassMixtures] = {}
        sizes: Sequence[int] = COMPONENTS
        if self.stale:  # e.g. the disk was full after the last epoch
            self._write(self.path, trainer, pl_module)
        for path in filter(Path.exists, (self.best, self.path)):
            try:
                model = weights.load(path)
            except (OSError, UserError) as error:
                if path == self.path:
                    raise
                log.warning("%s", error)
                continue
            epochs = model.training.get("epochs")
            if path == self.best and isinstance(epochs, int | float):
                log.info("best epoch   %g, by KID: %s", epochs, path)
            batches, networks = int(model.training.get("batches", -1)), model.networks.to(pl_module.device)
            try:
                if batches not in found and "encoder" in networks.names:
                    collection, device = data_of(trainer).collection, pl_module.device
                    space = _features(trainer)
                    choose = None if space is None else by_validation(model, collection, space)
                    found[batches] = class_mixtures(networks, collection, device, choose, sizes)
                    if choose is not None:  # to save time, the last model gets as many components as the best, or one
                        sizes = sorted({1, *(len(mixture.weights) for mixture in found[batches].values())})
            except (ValueError, TypeError, RuntimeError, UserError, MemoryError) as error:
                log.warning("%s: classes cannot be sampled: %s", path.name, error)
            else:
                weights.save(path, networks, model.preprocessing, model.trained_on, model.training, found.get(batches))
            evaluate = f"python -m vaegan_pl.evaluate {as_typed('weights', path)}"
            with outlived(f"the card of {path.name}"):
                figures = [f"Not measured yet; run `{evaluate}` with the data options of this run."]
                model_card.write(path, model_card.text(path, model, figures))

    @rank_zero_only
    def _save(self, trainer: L.Trainer, pl_module: VAEGANModule) -> None:
        kid = float(trainer.callback_metrics.get("validation/kid", torch.inf))
        self.stale = True
        with outlived(self.path.name):
            self._write(self.path, trainer, pl_module)
            self.stale = False
        if kid < self.lowest:
            with outlived(self.best.name):
                self._write(self.best, trainer, pl_module)
                self.lowest = kid

    def _write(self, path: Path, trainer: L.Trainer, pl_module: VAEGANModule) -> None:
        model = pl_module.model
        weights.save(
            path,
            model.inference_networks,
            preprocessing=data_of(trainer).preprocessing,
            trained_on=data_of(trainer).source,
            training={
                "epochs": epochs_of(trainer),
                "batches": trained(trainer),
                "precision": str(trainer.precision),
                **model.description,
                "seed": pl_module.seed,
                "optimizers": {
                    name: f"{type(optimizer).__name__}, lr {optimizer.param_groups[0]['initial_lr']:g}"
                    for name, optimizer in zip(model.NETWORKS, trainer.optimizers, strict=True)
                },
                "batch_size": data_of(trainer).batch_size,
                "devices": trainer.world_size,
            },
        )


def _features(trainer: L.Trainer) -> FeatureSpace | None:
    """The features in which the quality of samples is measured, if it is."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.space for callback in callbacks if isinstance(callback, Quality)), None)
