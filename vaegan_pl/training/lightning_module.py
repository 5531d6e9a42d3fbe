"""The LightningModule around Algorithm 1 and the models beside it.

Optimizers, stepping, several devices and logging; no mathematics.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from vaegan_pl.errors import UserError
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.batch import Batch, Noise
from vaegan_pl.model.generative import GenerativeModel, Step
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
    """Steps encoder, decoder and discriminator by the gradients of Algorithm 1, under manual optimization.

    Args:
        model: the VAE/GAN, or another model of such networks.
        optimizers: for each of its networks, what makes its optimizer from its parameters.
        schedule: makes the scheduler of an optimizer's learning rate, stepped once per epoch; None keeps it constant.
        seed: seed of epsilon, z_p and whatever else a step draws, at least 0.
        on_nan: what to do where a loss or gradient is not finite: `stop` the run, or `skip` the batch.
        graph: whether a single GPU replays the step as CUDA graphs, where it can.

    Raises:
        UserError: if `optimizers` lacks a network, or `on_nan` is something else.
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
                f"optimizer.schedule: a {type(scheduler).__name__} cannot set learning rates by the epoch alone; take "
                "another class of torch.optim.lr_scheduler, as optimizer/schedule=cosine does"
            )
        if getattr(scheduler, "cycle_momentum", False):
            raise UserError(
                "optimizer.schedule: would change the momentum too, which is not supported; add "
                "+optimizer.schedule.cycle_momentum=false"
            )
        return scheduler

    def on_train_start(self) -> None:
        """Prepare to record the step if a single GPU trains alone, and start the schedulers from the first epoch."""
        together = distributed.is_available() and distributed.is_initialized()
        one_gpu = self.device.type == "cuda" and self.trainer.world_size == 1 and not together
        self.recordings = Recordings() if self.graph and one_gpu else None
        for scheduler in self._schedulers():
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate  # of the first epoch; a checkpoint has restored that of its own
        self._step_schedulers()  # when a run is resumed within an epoch, Lightning skips `on_train_epoch_start`

    def on_train_end(self) -> None:
        """Forget what was recorded: Lightning now moves the networks to other memory."""
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
                with warnings.catch_warnings():  # a resumed run steps before its optimizers, and a gate may rest one
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
        """One iteration of Algorithm 1 on a batch of (images in [-1, 1], class indices).

        On several devices the gradients are averaged, which makes the iteration that of their joint batch, except where
        something is not a mean over images: batch norm, whose statistics stay each device's own unless
        `trainer.sync_batchnorm`, a learned sigma, standardised features and free bits.
        """
        x, y = batch
        number = self.trainer.fit_loop.total_batch_idx  # batches before this one
        buffers = [buffer.clone() for buffer in self.model.buffers()] if self.on_nan == "skip" else []
        step, finite, replayed = self._gradients(Batch(x, y, number), self._noise(len(x), number))
        self.watch.note(finite, number)
        if self.on_nan == "skip" and self._skips(buffers, number):
            return
        rested = self._rested(step)
        optimizers = cast("list[LightningOptimizer]", self.optimizers())
        for i, (name, optimizer) in enumerate(zip(self.model.NETWORKS, optimizers, strict=True)):
            # Lightning counts every step of its wrappers in `global_step`. Only the first network steps through one,
            # even where a gate rests it, so that `global_step` and `max_steps` count batches.
            gradients, network = () if name in rested else getattr(step, name), getattr(self.model.networks, name)
            if replayed and gradients and type(optimizer.optimizer) in RECORDED_OPTIMIZERS:
                self._descend_recorded(name, optimizer.optimizer, network, gradients, self.model.graph_key(number))
                gradients = ()
            if gradients or i == 0:
                self.descend(optimizer if i == 0 else optimizer.optimizer, network, gradients)
        self.model.update_averages(number)
        # Reading a number makes the processor wait for the GPU, so it is done for some batches only.
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if number % FINITE_CHECK_INTERVAL == 0 or (interval and (number + 1) % interval == 0):
            metrics = {name: value.clone() for name, value in step.metrics.items()}  # a replay overwrites them
            self._average(list(metrics.values()))
            for name, value in metrics.items():
                self.log(name, value, prog_bar=name in ON_PROGRESS_BAR)
            if self.model.gate is not None:
                for name in ("decoder", "discriminator"):
                    self.log(f"gate/{name}", float(name not in rested))
            if self.on_nan == "skip":
                self.log("skipped_batches", float(self.skipped))
            self.check_losses()

    def _gradients(self, batch: Batch, noise: Noise) -> tuple[Step, Tensor, bool]:
        """The gradients of a batch, what of them is finite, and whether a CUDA graph was replayed for them."""
        number, key = batch.number, self.model.graph_key(batch.number)

        def compute(x: Tensor, y: Tensor | None, *random: Tensor) -> tuple[Step, Tensor]:
            step = self.model.gradients(Batch(x, y, number), Noise(*random))
            self._average([*step.encoder, *step.decoder, *step.discriminator])
            finite = self.watch.finite(step)
            self._average([finite])
            return step, finite

        assert noise.uniform is not None
        inputs = (batch.x, batch.y, noise.epsilon, noise.z_p, noise.uniform)
        if self.recordings is None or key is None:
            return *compute(*inputs), False
        (step, finite), replayed = self.recordings(("gradients", key), batch.x.shape, compute, *inputs)
        return step, finite, replayed

    def _descend_recorded(
        self, name: str, optimizer: Optimizer, network: nn.Module, gradients: tuple[Tensor, ...], key: int | None
    ) -> None:
        """Step a network by gradients that always lie in the same place."""

        def step() -> None:
            with recordable(optimizer):
                self.descend(optimizer, network, gradients)

        assert self.recordings is not None
        where = gradients[0].data_ptr()
        self.recordings((name, key), (options(optimizer), where), step)

    def _rested(self, step: Step) -> set[str]:
        """The networks that the gate does not let move."""
        if self.model.gate is None or step.cost_real is None or step.cost_fake is None:
            return set()
        self._average([step.cost_real, step.cost_fake])
        moves = self.model.gate(step.cost_real.item(), step.cost_fake.item())
        return {name for name, move in zip(("decoder", "discriminator"), moves, strict=True) if not move}

    def _noise(self, batch: int, number: int) -> Noise:
        """The random numbers of a batch, a function of the seed and the batch's number alone.

        Every device draws them for the joint batch and takes its own rows, as `EpochSampler` deals out the images.
        """
        seed = np.random.SeedSequence([self.seed, number]).generate_state(1)[0]
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

        `torch.autograd.grad` triggers none of the hooks by which DistributedDataParallel averages gradients.
        """
        if distributed.is_available() and distributed.is_initialized():
            for work in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()
            for tensor in tensors:
                tensor /= distributed.get_world_size()

    @staticmethod
    def descend(optimizer: LightningOptimizer | Optimizer, network: nn.Module, gradients: tuple[Tensor, ...]) -> None:
        """Step a network by given gradients; without any, none of it moves."""
        if gradients:
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient
        optimizer.step()
        network.zero_grad()

    def _skips(self, buffers: Sequence[Tensor], number: int) -> bool:
        """Whether this batch changes nothing, running statistics included.

        Raises:
            UserError: if none of the last `MOST_SKIPPED` batches could be used.
        """
        lost = self.watch.found()
        if lost is None:
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
            log.warning("batch %d is skipped, %d so far: %s not finite", number + 1, self.skipped, ", ".join(lost[1]))
        return True

    def check_losses(self) -> None:
        """Stop a run in which a loss or gradient was not finite; its batch's files are named in the run's directory.

        Raises:
            UserError: if one was.
        """
        lost = self.watch.found()
        if lost is None:
            return
        number, names = lost
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        listing = Path(self.trainer.default_root_dir) / f"lost_in_batch_{number + 1}.txt"
        if self.trainer.is_global_zero and data is not None:
            with suppress(OSError):  # the message matters more
                listing.write_text(
                    "".join(f"{path}\n" for path in data.files_of_batch(number)), errors="surrogateescape"
                )
        raise UserError(
            f"{', '.join(names)} not finite in batch {number + 1} of the run, epoch "
            f"{number // int(self.trainer.num_training_batches) + 1}; training stopped, models and checkpoints saved "
            f"before are kept; the batch's files are listed in {listing}; lower the learning rates optimizer.*.lr, or "
            "set on_nan=skip"
        )

    def check_finite(self, tensors: Mapping[str, Tensor]) -> None:
        """Stop a run whose numbers are lost.

        Raises:
            UserError: if a loss or gradient was, or a tensor holds NaN or infinity; names it.
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
        """Add the count of skipped batches.

        Raises:
            UserError: if numbers were lost, so that an earlier checkpoint stays.
        """
        self.check_finite(self.model.state_dict())
        checkpoint["skipped"] = self.skipped
        checkpoint["lr_schedulers"] = []  # their state follows from the epoch

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting; take no state of schedulers from the file."""
        self.skipped = checkpoint["skipped"]
        checkpoint["lr_schedulers"] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """L_prior, L_llike, PSNR and SSIM of held-out images and their reconstructions from the posterior mean.

        A model without an encoder has none of them, one without a discriminator no L_llike.
        """
        x, y = batch
        networks = self.model.inference_networks.eval()
        if "encoder" not in networks.names:
            return
        mean, log_variance = networks.encoder(x, y)
        x_tilde = networks.decoder(mean, y).to(x.dtype)
        with torch.autocast(self.device.type, enabled=False):  # SSIM's filters, in bfloat16, make it read low
            self.psnr.update(x_tilde, x)
            self.ssim.update(x_tilde, x)
        self.prior.update(kl_divergence(mean, log_variance), len(x))
        names = ["prior", "psnr", "ssim"]
        if isinstance(self.model, VAEGAN):
            layer = self.model.similarity_layer
            features = (networks.discriminator(images, y)[1][layer] for images in (x, x_tilde))
            self.llike.update(self.model.feature_likelihood(*features), len(x))
            names.append("llike")
        for name in names:
            self.log(f"validation/{name}", getattr(self, name))
