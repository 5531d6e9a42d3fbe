"""This project's training step without a Trainer, and what it consists of."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from vaegan_pl.model import adversary, algorithm, baselines
from vaegan_pl.model.batch import Batch, Noise
from vaegan_pl.model.generative import Step
from vaegan_pl.training.lightning_module import VAEGANModule

MATRIX = {"cpu": 2048}
"""Side of the matrices whose product is the machine's rate; 8192 on other devices."""


def synchronise(device: torch.device) -> None:
    """Wait for what the device was told to do."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


class LeanStep:
    """One step of Algorithm 1 on a batch, as `VAEGANModule.training_step` takes it.

    Penalties that are due every so many batches are left out, for they would fall into some rounds alone.

    Args:
        module: the LightningModule, on its device; its optimizers are built anew.
        bfloat16: whether networks compute in bfloat16, as Lightning's bf16-mixed lets them.
    """

    def __init__(self, module: VAEGANModule, bfloat16: bool) -> None:
        self.model = module.model
        self.device = module.device
        self.bfloat16 = bfloat16
        self.optimizers: Sequence[Optimizer] = module.configure_optimizers()[0]

    def __call__(self, x: Tensor) -> None:
        """Compute all gradients, then step all three networks."""
        step = self._gradients(x)
        for optimizer, name in zip(self.optimizers, self.model.NETWORKS, strict=True):
            VAEGANModule.descend(optimizer, getattr(self.model.networks, name), getattr(step, name))
        self.model.update_averages(number=1000)

    def _gradients(self, x: Tensor) -> Step:
        epsilon, z_p = torch.randn(2, len(x), self.model.networks.latent_dim, device=self.device)
        uniform = torch.rand(len(x), self.model.uniform, device=self.device)
        y = torch.zeros(len(x), dtype=torch.long, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.model.gradients(Batch(x, y, number=1), Noise(epsilon, z_p, uniform))

    def flops(self, x: Tensor) -> int:
        """Floating-point operations of the matrix products and convolutions in the gradients of one batch."""
        with FlopCounterMode(display=False) as counter:
            self._gradients(x)
        return int(counter.get_total_flops())

    def matrix_rate(self) -> float:
        """The device's rate for a product of two square matrices in the step's precision, in operations a second.

        In float32 on CUDA devices, in the reduced TF32 where convolutions use it.
        """
        side = MATRIX.get(self.device.type, 8192)
        a = torch.randn(side, side, device=self.device, dtype=torch.bfloat16 if self.bfloat16 else torch.float32)
        rates = []
        products = torch.backends.cuda.matmul
        reduced, products.allow_tf32 = products.allow_tf32, torch.backends.cudnn.allow_tf32
        for _ in range(4):
            synchronise(self.device)
            start = perf_counter()
            a @ a
            synchronise(self.device)
            rates.append(2 * side**3 / (perf_counter() - start))
        products.allow_tf32 = reduced
        return sorted(rates[1:])[1]

    def parts(self, x: Tensor) -> dict[str, float]:
        """Seconds of one step by part: each network's passes both ways, the optimizers, and the rest."""
        seconds: dict[str, float] = defaultdict(float)

        @contextmanager
        def timed(part: str) -> Iterator[None]:
            synchronise(self.device)
            start = perf_counter()
            yield
            synchronise(self.device)
            seconds[part] += perf_counter() - start

        networks = {name: getattr(self.model.networks, name) for name in self.model.NETWORKS}
        owner = {id(parameter): name for name, network in networks.items() for parameter in network.parameters()}

        def timed_grad(outputs: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            asked = [inputs] if isinstance(inputs, Tensor) else list(inputs)
            owned = {owner[id(tensor)] for tensor in asked if id(tensor) in owner}
            to_images = any(tensor.dim() == 4 and id(tensor) not in owner for tensor in asked)
            with timed(next(iter(owned), "discriminator" if to_images else "decoder")):
                return torch.autograd.grad(outputs, inputs, *rest, **options)

        def timed_forward(name: str, network: nn.Module) -> Any:
            forward = network.forward

            def run(*inputs: Tensor) -> Any:
                with timed(name):
                    return forward(*inputs)

            return run

        with timed("whole"):
            with ExitStack() as patches:
                for module in (algorithm, baselines, adversary):
                    patches.enter_context(patch.object(module, "grad", timed_grad))
                for name, network in networks.items():
                    patches.enter_context(patch.object(network, "forward", timed_forward(name, network)))
                step = self._gradients(x)
            with timed("optimizers"):
                for optimizer, name in zip(self.optimizers, self.model.NETWORKS, strict=True):
                    VAEGANModule.descend(optimizer, networks[name], getattr(step, name))
        whole = seconds.pop("whole")
        return {**seconds, "losses and norms": whole - sum(seconds.values())}

    @torch.inference_mode()
    def sample(self, n: int) -> None:
        """Draw `n` images from the prior as `vaegan_pl.sample` does, in float32."""
        decoder = self.model.networks.decoder.eval()
        decoder(torch.randn(n, self.model.networks.latent_dim, device=self.device))
        decoder.train()
