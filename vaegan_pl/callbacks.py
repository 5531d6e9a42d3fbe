"""What a training run shows and leaves behind, as Lightning callbacks."""

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from vaegan_pl import runs
from vaegan_pl.checkpoints import trained
from vaegan_pl.console import as_typed, begin_log
from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation.diversity import NEIGHBOURS, manifold, vendi_score
from vaegan_pl.evaluation.features import FeatureSpace, classifier_features
from vaegan_pl.evaluation.fidelity import kernel_distance
from vaegan_pl.files import RefusedError
from vaegan_pl.hardware import native_bfloat16
from vaegan_pl.inference import class_mixtures, from_prior, in_batches
from vaegan_pl.loggers import Album, TensorBoard, WandB
from vaegan_pl.model import weights
from vaegan_pl.model.lightning_module import VAEGANModule
from vaegan_pl.model.mixtures import ClassMixtures
from vaegan_pl.report import data_report, model_card
from vaegan_pl.report.curves import draw_curves
from vaegan_pl.report.pictures import captioned, grid, pairs, read_picture, save_png, side_by_side

log = logging.getLogger(__name__)


def _data(trainer: L.Trainer) -> ImageFolders:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageFolders)
    return data


def _epochs(trainer: L.Trainer) -> float:
    """Epochs trained, with a fraction where a limit on time or batches ended the last one early."""
    return round(trained(trainer) / trainer.num_training_batches, 2)


@contextmanager
def _outlived(what: str) -> Iterator[None]:
    """Log a warning and continue training if a picture or report cannot be made or written."""
    try:
        yield
    except (OSError, UserError, RefusedError) as error:
        log.warning("%s could not be written (%s); training goes on", what, error)


class RunDirectory(L.Callback):
    """Starts writing to the run's directory once training begins; points `latest` to the run after its first batch.

    A run that is refused earlier leaves the directory unchanged.

    Args:
        directory: the run's directory.
        output_root: where `latest` stands.
        loggers: given to the trainer now, since it would have them make their files earlier.
        describe: writes down what is trained.
    """

    def __init__(self, directory: Path, output_root: Path, loggers: list[Logger], describe: Callable[[], None]) -> None:
        self.directory = directory
        self.output_root = output_root
        self.loggers = loggers
        self.describe = describe
        self.started = self.is_latest = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove what a killed process left half-written, keep the configuration, and begin the log."""
        self.started = True
        trainer.loggers = self.loggers
        if trainer.is_global_zero:
            runs.clean(self.directory)
            self.describe()
            begin_log(self.directory)

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Make the run the latest."""
        if not self.is_latest:
            runs.point_latest(self.directory, self.output_root)
            self.is_latest = True


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with epochs counted from 1, short names, and no more drawing than one can see.

    Drawing reads the losses, and each reading makes the processor wait for the GPU.
    """

    SECONDS = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw if that was a while ago, and after the last batch."""
        if monotonic() - self.drawn >= self.SECONDS or batch_idx + 1 == trainer.num_training_batches:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.drawn = monotonic()

    def on_train_start(self, trainer: L.Trainer, *_: object) -> None:
        """Set the bar up where training continues in the middle of an epoch, whose start Lightning does not repeat."""
        super().on_train_start(trainer, *_)
        if trained(trainer):
            self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: object) -> None:
        """Name the epoch as the pictures do."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The losses that matter, without their sections."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name.split("/")[-1]: value for name, value in metrics.items() if name != "v_num"}


class Pictures(L.Callback):
    """Samples from a fixed z and reconstructions of fixed held-out images, after every epoch.

    Writes `samples_epoch_NNNN.png`, `reconstructions_epoch_NNNN.png` (originals above their reconstructions) and
    `progress.png` (the first epoch's samples beside the last's), and logs them to W&B or TensorBoard where they are on.

    Args:
        directory: where the pictures go.
        samples: how many samples to draw.
        reconstructions: how many held-out images to reconstruct.
        seed: seed of the fixed z.
    """

    def __init__(self, directory: str | Path, samples: int, reconstructions: int, seed: int) -> None:
        if min(samples, reconstructions) < 1:
            raise ValueError("callbacks.pictures: samples and reconstructions must be at least 1")
        self.directory = Path(directory)
        self.samples = samples
        self.reconstructions = reconstructions
        self.seed = seed

    @rank_zero_only
    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, save and log the pictures of the epoch."""
        assert isinstance(pl_module, VAEGANModule)
        number, done = f"{trainer.current_epoch + 1:04d}", _epochs(trainer)
        epochs = "1 epoch" if done == 1 else f"{done:g} epochs"
        source = f"Trained on {_data(trainer).source.caption}."
        networks = pl_module.model.in_use.eval()
        z = torch.randn(self.samples, networks.latent_dim, generator=torch.Generator().manual_seed(self.seed))
        x, y = _data(trainer).validation_images(self.reconstructions)
        on, device = next(networks.parameters()), pl_module.device
        classes = torch.arange(self.samples, device=device) % max(1, networks.classes)
        samples = networks.decoder(z.to(on), classes).float().cpu()
        both = None
        if "encoder" in networks.names:
            y = y.to(device)
            reconstructions = networks.decoder(networks.encoder(x.to(on), y)[0], y).float().cpu()
            caption = f"Held out, above their reconstructions, after {epochs}. {source}"
            both = pairs(x, reconstructions, caption)
        networks.train()

        last = grid(samples, 8, f"Samples after {epochs}. {source}")
        with _outlived("pictures of this epoch"):
            self._keep(trainer, "samples", f"samples_epoch_{number}.png", last)
            if both is not None:
                self._keep(trainer, "reconstructions", f"reconstructions_epoch_{number}.png", both)
            first = read_picture(self.directory / "samples_epoch_0001.png")
            caption = f"The same z after the first epoch (left) and after {epochs} (right). {source}"
            self._keep(trainer, "progress", "progress.png", captioned(side_by_side([first, last]), caption))

    def _keep(self, trainer: L.Trainer, name: str, file: str, picture: Image.Image) -> None:
        save_png(picture, self.directory / file, f"trained on {_data(trainer).source.caption}")
        for logger in trainer.loggers:
            if isinstance(logger, Album):
                logger.log_picture(name, picture, trainer.global_step)


class Quality(L.Callback):
    """Measures samples after every epoch, cheaply, and warns in words of what goes wrong.

    Logs, on `n` samples of a fixed z and as many validation images: KID and coverage in the features of
    `evaluation.features`, the effective number of different samples (Vendi score) as a share of that of the validation
    images, and the dimensions of z that carry anything: those whose posterior mean varies by more than `ACTIVE` over
    images (arXiv 1509.00519, section 5).

    Args:
        n: how many samples; 0 measures nothing.
        seed: seed of the fixed z.
    """

    ACTIVE = 0.01
    COLLAPSED = 0.5
    WON = 0.005

    def __init__(self, n: int, seed: int) -> None:
        if n != 0 and n <= NEIGHBOURS:
            raise ValueError(f"callbacks.quality.n={n}: must be 0 or more than {NEIGHBOURS}")
        self.n = n
        self.seed = seed
        self.space: FeatureSpace | None = None
        self.most = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The most variety seen."""
        return {"most": self.most}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.most = float(state_dict["most"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Get the features ready, and what is compared with, on the first device."""
        data = _data(trainer)
        if self.n and (
            len(data.collection.listing.classes) < 2 or len(data.validation_images(self.n)[0]) <= NEIGHBOURS
        ):
            log.warning("samples are not measured: that takes two classes and %d validation images", NEIGHBOURS + 1)
            self.n = 0
        elif self.n and trainer.is_global_zero:
            self.x, self.y = data.validation_images(self.n)
            self.space = classifier_features(data.collection, data.cache, pl_module.device)
            self.real = self.space(self.x)
            self.variety = vendi_score(self.real)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log; the other callbacks find the figures in `trainer.callback_metrics`.

        Raises:
            UserError: if a parameter or running statistic is not finite.
        """
        assert isinstance(pl_module, VAEGANModule)
        pl_module.refuse_non_finite(pl_module.model.state_dict())
        if self.n:
            # The first device measures and tells the others, since all must log alike.
            figures = trainer.strategy.broadcast(self._figures(trainer, pl_module) if self.space is not None else {})
            for name, value in figures.items():
                pl_module.log(f"validation/{name}", value, sync_dist=True)
            self.most = max(self.most, figures["variety"])
            if figures["variety"] < self.COLLAPSED * self.most:
                self._warn(
                    trainer,
                    f"samples have become alike: their variety fell from {self.most:.0%} of that of real images to "
                    f"{figures['variety']:.0%}; if that stays so, {pl_module.model.AGAINST_COLLAPSE}",
                )
        model, metrics = pl_module.model, trainer.callback_metrics
        decoded = "prior" if "discriminator/cost_prior" in metrics else "reconstruction"
        for name in ("real", decoded):
            cost = metrics.get(f"discriminator/cost_{name}")
            if cost is not None and float(cost) < self.WON and model.costs_in_nats:
                self._warn(
                    trainer,
                    f"the discriminator has won (its cost of {name} images is {float(cost):.4f} nats) and "
                    f"teaches nothing; {model.AGAINST_DEFEAT}",
                )

    def _figures(self, trainer: L.Trainer, pl_module: VAEGANModule) -> dict[str, float]:
        assert self.space is not None
        networks, device = pl_module.model.in_use.eval(), pl_module.device
        x = self.x.to(next(networks.parameters()).dtype)
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in str(trainer.precision)):
            samples = from_prior(networks, len(x), self.y, torch.Generator().manual_seed(self.seed), device).float()
            means = None
            if "encoder" in networks.names:
                means = in_batches(lambda x, y: networks.encoder(x, y)[0], x, self.y, device, "encoding").float()
        networks.train()
        features = self.space(samples)
        figures = {
            "kid": kernel_distance(self.real, features),
            "coverage": manifold(self.real, features).coverage,
            "variety": vendi_score(features) / self.variety,
        }
        if means is not None:
            figures["active_dimensions"] = float((means.var(0) > self.ACTIVE).sum())
        return figures

    @rank_zero_only
    def _warn(self, trainer: L.Trainer, message: str) -> None:
        log.warning("epoch %d: %s", trainer.current_epoch + 1, message)


class ModelFile(L.Callback):
    """Keeps the portable model files up to date: of the last epoch, and of the epoch with the lowest validation KID.

    When training ends, the files are told where each class lies in the latent space, and model cards are written.

    Args:
        path: the last epoch's file, `vae_gan_model.pth`.
        best: the best epoch's file.
    """

    def __init__(self, path: str | Path, best: str | Path) -> None:
        self.path = Path(path)
        self.best = Path(best)
        self.lowest = float("inf")
        self.stale = True

    def state_dict(self) -> dict[str, Any]:
        """The lowest KID seen."""
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.lowest = float(state_dict["lowest"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the model of this epoch in place of the last, unless its numbers are lost.

        Raises:
            UserError: if a parameter or running statistic is not finite; the earlier files stay.
        """
        assert isinstance(pl_module, VAEGANModule)
        pl_module.refuse_non_finite(pl_module.model.state_dict())
        self._save(trainer, pl_module)

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the classes to the files, and write the card.

        Raises:
            OSError: if the last model cannot be written.
        """
        assert isinstance(pl_module, VAEGANModule)
        found: dict[int, ClassMixtures] = {}
        if self.stale:  # a full disk kept the last epoch's from being written
            self._write(self.path, trainer, pl_module)
        for path in filter(Path.exists, (self.best, self.path)):
            try:
                model = weights.load(path)
            except (OSError, UserError) as error:
                if path == self.path:
                    raise
                log.warning("%s", error)
                continue
            batches, networks = int(model.training.get("batches", -1)), model.networks.to(pl_module.device)
            try:
                if batches not in found and "encoder" in networks.names:
                    found[batches] = class_mixtures(networks, _data(trainer).collection, pl_module.device)
            except (ValueError, TypeError, RuntimeError, UserError, MemoryError) as error:
                log.warning("%s: classes cannot be sampled: %s", path.name, error)
            else:
                weights.save(path, networks, model.preprocessing, model.trained_on, model.training, found.get(batches))
            evaluate = f"python -m vaegan_pl.evaluate {as_typed('weights', path)}"
            with _outlived(f"the card of {path.name}"):
                figures = [f"Not measured yet: `{evaluate}`, with the data options of this run."]
                model_card.write(path, model_card.text(path, model, figures))

    @rank_zero_only
    def _save(self, trainer: L.Trainer, pl_module: VAEGANModule) -> None:
        kid = float(trainer.callback_metrics.get("validation/kid", torch.inf))
        self.stale = True
        with _outlived(self.path.name):
            self._write(self.path, trainer, pl_module)
            self.stale = False
        if kid < self.lowest:
            with _outlived(self.best.name):
                self._write(self.best, trainer, pl_module)
                self.lowest = kid

    def _write(self, path: Path, trainer: L.Trainer, pl_module: VAEGANModule) -> None:
        model, source = pl_module.model, _data(trainer).source
        weights.save(
            path,
            model.in_use,
            preprocessing=_data(trainer).preprocessing,
            trained_on={**vars(source), "caption": source.caption},
            training={
                "epochs": _epochs(trainer),
                "batches": trained(trainer),
                "precision": str(trainer.precision),
                **model.description,
                "seed": pl_module.seed,
                "optimizers": {
                    name: f"{type(optimizer).__name__}, lr {optimizer.param_groups[0]['initial_lr']:g}"
                    for name, optimizer in zip(model.NETWORKS, trainer.optimizers, strict=True)
                },
                "batch_size": _data(trainer).batch_size,
                "devices": trainer.world_size,
            },
        )


class Curves(L.Callback):
    """Keeps the picture of the losses up to date, after every epoch unless it was drawn within `SECONDS`.

    Args:
        metrics: the run's `metrics.csv`.
        picture: the PNG to write.
    """

    SECONDS = 20

    def __init__(self, metrics: str | Path, picture: str | Path) -> None:
        self.metrics = Path(metrics)
        self.picture = Path(picture)
        self.drawn = float("-inf")
        self.batches = 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what has been logged so far, if that was not just done."""
        if monotonic() - self.drawn >= self.SECONDS:
            self._draw(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw everything, unless the last epoch's end did."""
        if self.batches < trained(trainer):
            self._draw(trainer)

    @rank_zero_only
    def _draw(self, trainer: L.Trainer) -> None:
        self.drawn, self.batches = monotonic(), trained(trainer)
        for logger in trainer.loggers:
            logger.save()
        if self.metrics.exists():
            with _outlived(self.picture.name):
                draw_curves(self.metrics, self.picture, f"Trained on {_data(trainer).source.caption}")


class DataReport(L.Callback):
    """Writes the report on the data before training starts.

    Args:
        directory: where it goes.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `data_report.json` and `data_report.html`."""
        with _outlived("the data report"):
            data_report.write(_data(trainer).collection, self.directory)


class Console(L.Callback):
    """Tells in plain words what is trained on what and where, and at the end where to look.

    Args:
        directory: the run's directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.started = 0.0

    @rank_zero_only
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Device and data."""
        self.started = monotonic()
        data = _data(trainer)
        device, native = pl_module.device, native_bfloat16(pl_module.device)
        several = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
        log.info("device       %s%s, %d CPU threads", several, device, torch.get_num_threads())
        log.info("precision    %s (native bfloat16 here: %s)", trainer.precision, native or "none")
        log.info("data         %s, %s", data.source.caption, data.root.resolve())
        for line in data.collection.summary():
            log.info("%s", line)
        log.info("  see        %s", self.directory / data_report.PAGE)
        if data.source.kind == "phantom":
            log.warning("These are PHANTOMS, drawn by this project, not MRI. For MRI: data=mri data.root=PATH")

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Loggers and directory."""
        for logger in trainer.loggers:
            if isinstance(logger, WandB):
                run = logger.experiment
                if not logger.lost and (logger.mode == "offline" or not run.offline):
                    log.info("W&B          %s", f"offline; to upload it: {logger.upload}" if run.offline else run.url)
            elif isinstance(logger, TensorBoard):
                log.info("TensorBoard  tensorboard --logdir %s", shlex.quote(str(self.directory)))
        log.info("directory    %s", self.directory)

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where to look."""
        minutes = (monotonic() - self.started) / 60
        epochs = f"{_epochs(trainer):g} of {trainer.max_epochs} epochs, {trained(trainer)} batches"
        log.info("%s in %.1f minutes on %s", epochs, minutes, _data(trainer).source.caption)
        log.info("look at      %s", self.directory / "images" / "progress.png")
        if (self.directory / "curves.png").exists():
            log.info("curves       %s", self.directory / "curves.png")
        log.info("the model    %s", self.directory / "vae_gan_model.pth")
        log.info("measure it   (with this run's data options)")
        weights_ = as_typed("weights", self.directory / "vae_gan_model.pth")
        log.info("             python -m vaegan_pl.evaluate %s", weights_)
        log.info("sample it    python -m vaegan_pl.sample %s", weights_)
        images = _data(trainer)
        where = f" {as_typed('data.root', images.root)}" if type(images) is ImageFolders else ""
        log.info("open it      python -m vaegan_pl.explore %s%s", weights_, where)
