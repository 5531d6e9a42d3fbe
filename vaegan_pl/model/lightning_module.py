"""The LightningModule around Algorithm 1: optimizers, stepping, several devices and logging, no mathematics."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from vaegan_pl.errors import UserError
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.losses import feature_likelihood, kl_divergence

OptimizerFactory = Callable[[Iterator[nn.Parameter]], Optimizer]
NETWORKS = ("encoder", "decoder", "discriminator")
FINITE_CHECK_INTERVAL = 10
ON_PROGRESS_BAR = ("loss/prior", "loss/llike", "discriminator/cost_real", "discriminator/cost_prior")


class VAEGANModule(L.LightningModule):
    """Steps encoder, decoder and discriminator by the gradients of Algorithm 1, under manual optimization.

    Args:
        model: the VAE/GAN.
        optimizers: for each of encoder, decoder and discriminator, what makes its optimizer from its parameters.
        seed: seed of epsilon and z_p, at least 0.

    Raises:
        UserError: if `optimizers` has other keys than the three networks.
    """

    def __init__(self, model: VAEGAN, optimizers: Mapping[str, OptimizerFactory], seed: int) -> None:
        super().__init__()
        if set(optimizers) != set(NETWORKS):
            raise UserError(f"optimizer: has {', '.join(optimizers)}; must have exactly {', '.join(NETWORKS)}")
        self.automatic_optimization = False
        self.model = model.to(memory_format=torch.channels_last)
        self.factories = optimizers
        self.seed = seed
        self.prior, self.llike = MeanMetric(), MeanMetric()
        self.psnr = PeakSignalNoiseRatio(data_range=2.0)
        self.ssim = StructuralSimilarityIndexMeasure(data_range=2.0)

    def configure_optimizers(self) -> list[Optimizer]:
        """One optimizer a network, in the order of `NETWORKS`.

        Raises:
            UserError: if an optimizer refuses its options.
        """
        optimizers = []
        for name in NETWORKS:
            try:
                optimizers.append(self.factories[name](getattr(self.model.networks, name).parameters()))
            except (TypeError, ValueError) as error:
                raise UserError(f"optimizer.{name}: {error}") from error
        return optimizers

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One iteration of Algorithm 1 on a batch of (images in [-1, 1], class indices).

        On several devices the gradients are averaged, which makes the iteration that of their joint batch (but for
        batch norm, whose statistics stay each device's own unless `trainer.sync_batchnorm`).
        """
        x, _ = batch
        epsilon, z_p = self._noise(len(x))
        step = self.model.algorithm_1(x, epsilon, z_p)
        self._average([*step.encoder, *step.decoder, *step.discriminator])
        update_decoder = update_discriminator = True
        if self.model.gate is not None:
            self._average([step.cost_real, step.cost_fake])
            update_decoder, update_discriminator = self.model.gate(step.cost_real.item(), step.cost_fake.item())
        encoder, decoder, discriminator = cast("list[LightningOptimizer]", self.optimizers())
        # Lightning counts every step of its wrappers in `global_step`. Only the encoder, which no gate rests, steps
        # through one, so that `global_step`, `max_steps` and checkpoint intervals count batches.
        number = self.global_step
        self.descend(encoder, self.model.networks.encoder, step.encoder)
        if update_decoder:
            self.descend(decoder.optimizer, self.model.networks.decoder, step.decoder)
        if update_discriminator:
            self.descend(discriminator.optimizer, self.model.networks.discriminator, step.discriminator)
        # Reading a number makes the processor wait for the GPU, so it is done for some batches only.
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if number % FINITE_CHECK_INTERVAL == 0 or (interval and (number + 1) % interval == 0):
            self._average(list(step.metrics.values()))
            for name, value in step.metrics.items():
                self.log(name, value, prog_bar=name in ON_PROGRESS_BAR)
            if self.model.gate is not None:
                self.log("gate/decoder", float(update_decoder))
                self.log("gate/discriminator", float(update_discriminator))
            self.refuse_non_finite({name: value for name, value in step.metrics.items() if name.startswith("loss/")})

    def _noise(self, batch: int) -> Tensor:
        """Epsilon and z_p, a function of the seed and the batch's number alone.

        Every device draws them for the joint batch and takes its own rows, as `EpochSampler` deals out the images.
        """
        seed = np.random.SeedSequence([self.seed, self.global_step]).generate_state(1)[0]
        generator = torch.Generator(self.device).manual_seed(int(seed))
        rank, devices = self.global_rank, self.trainer.world_size
        shape = (2, batch * devices, self.model.networks.latent_dim)
        return torch.randn(shape, generator=generator, device=self.device)[:, rank::devices]

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
        """Step a network by given gradients."""
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        network.zero_grad()

    def refuse_non_finite(self, tensors: Mapping[str, Tensor]) -> None:
        """Stop a run whose numbers are lost.

        Raises:
            UserError: if a tensor holds NaN or infinity; names it.
        """
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise UserError(
                    f"{name} is not finite in epoch {self.current_epoch + 1}, after {self.global_step} batches; "
                    "training stopped, a model saved before is kept; lower the learning rates optimizer.*.lr"
                )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """L_prior, L_llike, PSNR and SSIM of held-out images and their reconstructions from the posterior mean."""
        x, _ = batch
        networks, layer = self.model.networks, self.model.similarity_layer
        mean, log_variance = networks.encoder(x)
        x_tilde = networks.decoder(mean).to(x.dtype)
        with torch.autocast(self.device.type, enabled=False):  # SSIM's filters, in bfloat16, make it read low
            self.psnr.update(x_tilde, x)
            self.ssim.update(x_tilde, x)
        features = (networks.discriminator(images)[1][layer] for images in (x, x_tilde))
        self.prior.update(kl_divergence(mean, log_variance), len(x))
        self.llike.update(feature_likelihood(*features), len(x))
        for name in ("prior", "llike", "psnr", "ssim"):
            self.log(f"validation/{name}", getattr(self, name))
