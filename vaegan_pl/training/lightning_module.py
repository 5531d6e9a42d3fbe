"""The LightningModule around Algorithm 1 and the other models: optimizers, stepping, several devices and logging."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from vaegan_pl.console import as_typed
from vaegan_pl.errors import UserError
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.batch import Batch, Noise
from vaegan_pl.model.generative import GenerativeModel, Gradients
from vaegan_pl.model.losses import kl_divergence
from vaegan_pl.training.recorded import RECORDED_OPTIMIZERS, Recordings, options, recordable
from vaegan_pl.training.watch import FiniteWatch

log = logging.getLogger(__name__)

OptimizerFactory = Callable[[Iterator[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]
FINITE_CHECK_INTERVAL = 10
ON_NAN = ("stop", "skip")
MOST_SKIPPED = 50
ON_PROGRESS_BAR = ("loss/prior", "loss/llike", "loss/pixel", "discriminator/cost_real", "discriminator/cost_prior")


class VAEGANModule(L.LightningModule):
    """Updates encoder, decoder and discriminator with the gradients of Algorithm 1, under manual optimization.

    Args:
        model: the VAE/GAN or another model.
        optimizers: for each of its networks, a function from its parameters to its optimizer.
        schedule: builds the scheduler of an optimizer's learning rate, stepped once per epoch; None keeps it constant.
        seed: seed of epsilon, z_p and the other random numbers of a step, at least 0.
        on_nan: what to do if a loss or gradient is not finite: `stop` the run or `skip` the batch.
        graph: whether to replay the step as CUDA graphs on a single GPU.

    Raises:
        UserError: if `optimizers` lacks a network, or `on_nan` is neither `stop` nor `skip`.
    """

    def __init__(
        self,
        model: GenerativeModel,
        optimizers: Mapping[str, OptimizerFactory],
        schedule: ScheduleFactory | None,
        seed: int,
        on_nan: str = "stop",
        graph: bool = True,
    ) -> None:
        super().__init__()
        if on_nan not in ON_NAN:
            raise UserError(f"on_nan={on_nan}: must be one of {', '.join(ON_NAN)}")
        if not set(model.NETWORKS) <= set(optimizers):
            raise UserError(f"optimizer: has {', '.join(optimizers)}; must have {', '.join(model.NETWORKS)}")
        self.automatic_optimization = False
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer_factories = optimizers
        self.schedule_factory = schedule
        self.seed = seed
        self.on_nan = on_nan
        self.skipped = self.skipped_in_a_row = 0
        self.watch = FiniteWatch(model.LOSSES, model.NETWORKS)
        self.graph = graph
        self.recordings: Recordings | None = None
        self.prior, self.llike = MeanMetric(), MeanMetric()
        self.psnr = PeakSignalNoiseRatio(data_range=2.0)
        self.ssim = StructuralSimilarityIndexMeasure(data_range=2.0)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> NoReturn:
        """Refuse, and say what to use instead: checkpoints contain no options to build a module from.

        Raises:
            UserError: always.
        """
        path = Path(str(checkpoint_path))
        run = path.parent.parent if path.parent.name == "checkpoints" else Path("RUN")
        raise UserError(
            f"{path}: VAEGANModule.load_from_checkpoint is not supported, since checkpoints contain no options; to use "
            f"the model, call vaegan_pl.load({str(run / 'vae_gan_model.pth')!r}); to train it further, run python -m "
            f"vaegan_pl.train {as_typed('resume', run)}"
        )

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """The optimizer of each network, in the order of the model's `NETWORKS`, and their schedulers, if any.

        Raises:
            UserError: if an optimizer or the schedule rejects its options.
        """
        optimizers, schedulers = [], []
        for name in self.model.NETWORKS:
            try:
                optimizers.append(self.optimizer_factories[name](getattr(self.model.networks, name).parameters()))
            except (TypeError, ValueError) as error:
                raise UserError(f"optimizer.{name}: {error}") from error
            for group in optimizers[-1].param_groups:
                group.setdefault("initial_lr", group["lr"])
            if self.schedule_factory is not None:
                schedulers.append(self._scheduler(self.schedule_factory, optimizers[-1]))
        return optimizers, schedulers

    @staticmethod
    def _scheduler(factory: ScheduleFactory, optimizer: Optimizer) -> LRScheduler:
        try:
            scheduler = factory(optimizer)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"optimizer.schedule: {error}") from error
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            raise UserError(
                f"optimizer.schedule: a {type(scheduler).__name__} cannot set learning rates by the epoch alone; use "
                "another class of torch.optim.lr_scheduler, as optimizer/schedule=cosine does"
            )
        if getattr(scheduler, "cycle_momentum", False):
            raise UserError(
                "optimizer.schedule: would change the momentum too, which is not supported; add "
                "+optimizer.schedule.cycle_momentum=false"
            )
        return scheduler

    def on_train_start(self) -> None:
        """Prepare to capture the step on a single GPU, and start the schedulers from the first epoch."""
        together = distributed.is_available() and distributed.is_initialized()
        one_gpu = self.device.type == "cuda" and self.trainer.world_size == 1 and not together
        self.recordings = Recordings() if self.graph and one_gpu else None
        for scheduler in self._schedulers():
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate  # the first epoch's; a checkpoint restored its own
        self._step_schedulers()  # when a run is resumed within an epoch, Lightning skips `on_train_epoch_start`

    def on_train_end(self) -> None:
        """Drop the recordings, because Lightning moves the networks to other memory."""
        self.recordings = None

    def on_train_epoch_start(self) -> None:
        """Step the schedulers to this epoch.

        Raises:
            UserError: if the schedule cannot compute a learning rate.
        """
        self._step_schedulers()

    def _schedulers(self) -> list[LRScheduler]:
        return [config.scheduler for config in self.trainer.lr_scheduler_configs]

    def _step_schedulers(self) -> None:
        """Step the schedulers to this epoch, in a resumed run from the first: their state follows from the epoch alone.

        Raises:
            UserError: if the schedule cannot compute a learning rate.
        """
        for scheduler in self._schedulers():
            try:
                with warnings.catch_warnings():  # a resumed run steps before its optimizers, and a gate may pause one
                    warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler.step\(\)` before")
                    while scheduler.last_epoch < self.current_epoch:
                        scheduler.step()
            except (ArithmeticError, TypeError, ValueError) as error:
                raise UserError(f"optimizer.schedule: fails in epoch {scheduler.last_epoch + 1}: {error}") from error
            for rate in scheduler.get_last_lr():
                if not 0 <= float(rate) < math.inf:
                    raise UserError(
                        f"optimizer.schedule: gives a learning rate of {rate} in epoch {self.current_epoch + 1}; it "
                        "must be a finite number of at least 0"
                    )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Run one iteration of Algorithm 1 on a batch of (images in [-1, 1], class indices).

        On several devices the gradients are averaged, so the iteration equals that on the joint batch. Exceptions are
        quantities that are not means over images: batch norm, whose statistics stay per device unless
        `trainer.sync_batchnorm` is set, a learned sigma, standardised features and free bits.
        """
        x, y = batch
        step = self.trainer.fit_loop.total_batch_idx
        buffers = [buffer.clone() for buffer in self.model.buffers()] if self.on_nan == "skip" else []
        found, finite, replayed = self._gradients(Batch(x, y, step), self._noise(len(x), step))
        self.watch.note(finite, step)
        if self.on_nan == "skip" and self._skips(buffers, step):
            return
        rested = self._rested(found)
        optimizers = cast("list[LightningOptimizer]", self.optimizers())
        for i, (name, optimizer) in enumerate(zip(self.model.NETWORKS, optimizers, strict=True)):
            # Lightning counts every step of its wrappers in `global_step`. Only the first network steps through one,
            # even if the gate pauses it, so that `global_step` and `max_steps` count batches.
            gradients, network = () if name in rested else getattr(found, name), getattr(self.model.networks, name)
            if replayed and gradients and type(optimizer.optimizer) in RECORDED_OPTIMIZERS:
                self._descend_recorded(name, optimizer.optimizer, network, gradients, self.model.graph_key(step))
                gradients = ()
            if gradients or i == 0:
                self.descend(optimizer if i == 0 else optimizer.optimizer, network, gradients)
        self.model.update_averages(step)
        # Reading a number makes the CPU wait for the GPU, so it is done only in some batches.
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % FINITE_CHECK_INTERVAL == 0 or (interval and (step + 1) % interval == 0):
            metrics = {name: value.clone() for name, value in found.metrics.items()}  # a replay overwrites them
            self._average(list(metrics.values()))
            for name, value in metrics.items():
                self.log(name, value, prog_bar=name in ON_PROGRESS_BAR)
            if self.model.gate is not None:
                for name in ("decoder", "discriminator"):
                    self.log(f"gate/{name}", float(name not in rested))
            if self.on_nan == "skip":
                self.log("skipped_batches", float(self.skipped))
            self.check_losses()

    def _gradients(self, batch: Batch, noise: Noise) -> tuple[Gradients, Tensor, bool]:
        """Return the gradients of a batch, which of them are finite, and whether a CUDA graph was replayed."""
        step, key = batch.step, self.model.graph_key(batch.step)

        def compute(x: Tensor, y: Tensor | None, *random: Tensor) -> tuple[Gradients, Tensor]:
            found = self.model.gradients(Batch(x, y, step), Noise(*random))
            self._average([*found.encoder, *found.decoder, *found.discriminator])
            finite = self.watch.finite(found)
            self._average([finite])
            return found, finite

        assert noise.uniform is not None
        inputs = (batch.x, batch.y, noise.epsilon, noise.z_p, noise.uniform)
        if self.recordings is None or key is None:
            return *compute(*inputs), False
        (found, finite), replayed = self.recordings(("gradients", key), batch.x.shape, compute, *inputs)
        return found, finite, replayed

    def _descend_recorded(
        self, name: str, optimizer: Optimizer, network: nn.Module, gradients: tuple[Tensor, ...], key: int | None
    ) -> None:
        """Update a network with gradients that are always at the same address."""

        def step() -> None:
            with recordable(optimizer):
                self.descend(optimizer, network, gradients)

        assert self.recordings is not None
        where = gradients[0].data_ptr()
        self.recordings((name, key), (options(optimizer), where), step)

    def _rested(self, gradients: Gradients) -> set[str]:
        """Return the networks that the gate pauses."""
        if self.model.gate is None or gradients.cost_real is None or gradients.cost_fake is None:
            return set()
        self._average([gradients.cost_real, gradients.cost_fake])
        moves = self.model.gate(gradients.cost_real.item(), gradients.cost_fake.item())
        return {name for name, move in zip(("decoder", "discriminator"), moves, strict=True) if not move}

    def _noise(self, batch: int, step: int) -> Noise:
        """Return the random numbers of a batch, a function of the seed and the index of the step only.

        Every device draws them for the joint batch and keeps its own rows, as `EpochSampler` distributes the images.
        """
        seed = np.random.SeedSequence([self.seed, step]).generate_state(1)[0]
        generator = torch.Generator(self.device).manual_seed(int(seed))
        rank, devices = self.global_rank, self.trainer.world_size
        shape = (2, batch * devices, self.model.networks.latent_dim)
        normal = torch.randn(shape, generator=generator, device=self.device)
        uniform = torch.rand(batch * devices, self.model.uniform, generator=generator, device=self.device)
        epsilon, z_p = normal[:, rank::devices]
        return Noise(epsilon, z_p, uniform[rank::devices])

    @staticmethod
    def _average(tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over all devices, in place.

        `torch.autograd.grad` does not trigger the hooks with which DistributedDataParallel averages gradients.
        """
        if distributed.is_available() and distributed.is_initialized():
            for work in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()
            for tensor in tensors:
                tensor /= distributed.get_world_size()

    @staticmethod
    def descend(optimizer: LightningOptimizer | Optimizer, network: nn.Module, gradients: tuple[Tensor, ...]) -> None:
        """Update a network with the given gradients; without gradients no parameter changes."""
        if gradients:
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient
        optimizer.step()
        network.zero_grad()

    def _skips(self, buffers: Sequence[Tensor], step: int) -> bool:
        """Return whether to skip this batch; if so, restore the running statistics.

        Raises:
            UserError: if the last `MOST_SKIPPED` batches were all skipped.
        """
        nonfinite = self.watch.found()
        if nonfinite is None:
            self.skipped_in_a_row = 0
            return False
        if self.skipped_in_a_row >= MOST_SKIPPED:
            self.check_losses()
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.watch.forget()
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.global_rank == 0:
            log.warning("skipping batch %d (%d so far): %s not finite", step + 1, self.skipped, ", ".join(nonfinite[1]))
        return True

    def check_losses(self) -> None:
        """Check that all losses and gradients were finite; otherwise list the batch's files in the run's directory.

        Raises:
            UserError: if one was not finite.
        """
        nonfinite = self.watch.found()
        if nonfinite is None:
            return
        step, names = nonfinite
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        listing = Path(self.trainer.default_root_dir) / f"not_finite_in_batch_{step + 1}.txt"
        if self.trainer.is_global_zero and data is not None:
            with suppress(OSError):  # the message matters more
                listing.write_text("".join(f"{path}\n" for path in data.files_of_batch(step)), errors="surrogateescape")
        raise UserError(
            f"{', '.join(names)} not finite in batch {step + 1} of the run, epoch "
            f"{step // int(self.trainer.num_training_batches) + 1}; training stopped, models and checkpoints saved "
            f"before are kept; the batch's files are listed in {listing}; lower the learning rates optimizer.*.lr, or "
            "set on_nan=skip"
        )

    def check_finite(self, tensors: Mapping[str, Tensor]) -> None:
        """Check that losses, gradients and the given tensors are finite.

        Raises:
            UserError: names the first that is not.
        """
        self.check_losses()
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise UserError(
                    f"{name} is not finite in epoch {self.current_epoch + 1}, after {self.global_step} batches; "
                    "training stopped, models and checkpoints saved before are kept; lower the learning rates "
                    "optimizer.*.lr"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the number of skipped batches.

        Raises:
            UserError: if a number is not finite; the earlier checkpoint is kept.
        """
        self.check_finite(self.model.state_dict())
        checkpoint["skipped"] = self.skipped
        checkpoint["lr_schedulers"] = []  # their state follows from the epoch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the number of skipped batches; schedulers take no state from the file."""
        self.skipped = checkpoint["skipped"]
        checkpoint["lr_schedulers"] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log L_prior, L_llike, PSNR and SSIM of held-out images and their reconstructions from the posterior mean.

        A model without an encoder has none of them, and a model without a discriminator has no L_llike.
        """
        x, y = batch
        networks = self.model.inference_networks.eval()
        if "encoder" not in networks.names:
            return
        mean, log_variance = networks.encoder(x, y)
        x_tilde = networks.decoder(mean, y).to(x.dtype)
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16, SSIM's filters bias it downwards
            self.psnr.update(x_tilde, x)
            self.ssim.update(x_tilde, x)
        self.prior.update(kl_divergence(mean, log_variance), len(x))
        names = ["prior", "psnr", "ssim"]
        if isinstance(self.model, VAEGAN):
            layer = self.model.similarity_layer
            features = (networks.discriminator(images, y)[1][layer] for images in (x, x_tilde))
            self.llike.update(self.model.l_llike(*features), len(x))
            names.append("llike")
        for name in names:
            self.log(f"validation/{name}", getattr(self, name))
