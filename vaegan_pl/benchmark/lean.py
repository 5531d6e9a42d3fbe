"""This project's training step without a Trainer, timed as a whole and by part."""

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

from vaegan_pl.hardware import native_bfloat16
from vaegan_pl.model import adversary, algorithm, baselines
from vaegan_pl.model.batch import Batch, Noise
from vaegan_pl.model.generative import Gradients
from vaegan_pl.training.lightning_module import VAEGANModule

MATRIX = {"cpu": 2048}
"""Side of the matrices whose product measures the machine's speed; 8192 on other devices."""

EMULATED = 512
"""The side where a CPU emulates bfloat16, a hundred times slower than float32."""


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


class LeanStep:
    """One step of Algorithm 1 on a batch, as in `VAEGANModule.training_step`.

    Penalties that are computed only in every k-th batch are left out, because they would fall into some rounds only.

    Args:
        module: the LightningModule, on its device; new optimizers are built for it.
        bfloat16: whether the networks compute in bfloat16, as under Lightning's bf16-mixed.
    """

    def __init__(self, module: VAEGANModule, bfloat16: bool) -> None:
        self.model = module.model
        self.device = module.device
        self.bfloat16 = bfloat16
        self.optimizers: Sequence[Optimizer] = module.configure_optimizers()[0]

    def __call__(self, x: Tensor) -> None:
        """Compute all gradients, then update all networks."""
        gradients = self._gradients(x)
        for optimizer, name in zip(self.optimizers, self.model.NETWORKS, strict=True):
            VAEGANModule.descend(optimizer, getattr(self.model.networks, name), getattr(gradients, name))
        self.model.update_averages(step=1000)

    def _gradients(self, x: Tensor) -> Gradients:
        epsilon, z_p = torch.randn(2, len(x), self.model.networks.latent_dim, device=self.device)
        uniform = torch.rand(len(x), self.model.uniform, device=self.device)
        y = torch.zeros(len(x), dtype=torch.long, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.model.gradients(Batch(x, y, step=1), Noise(epsilon, z_p, uniform))

    def flops(self, x: Tensor) -> int:
        """Count the floating-point operations of matrix products and convolutions in the gradients of one batch."""
        with FlopCounterMode(display=False) as counter:
            self._gradients(x)
        return int(counter.get_total_flops())

    def matrix_rate(self) -> float:
        """Measure the rate of a product of two square matrices in the step's precision, in operations per second.

        In float32 on CUDA devices it uses TF32 if convolutions do.
        """
        side = MATRIX.get(self.device.type, 8192)
        if self.bfloat16 and self.device.type == "cpu" and not native_bfloat16(self.device):
            side = EMULATED
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
        """Time one step by part, in seconds: forward and backward passes of each network, the optimizers, the rest."""
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
                gradients = self._gradients(x)
            with timed("optimizers"):
                for optimizer, name in zip(self.optimizers, self.model.NETWORKS, strict=True):
                    VAEGANModule.descend(optimizer, networks[name], getattr(gradients, name))
        whole = seconds.pop("whole")
        return {**seconds, "losses and norms": whole - sum(seconds.values())}

    @torch.inference_mode()
    def sample(self, n: int) -> None:
        """Draw `n` images from the prior in float32, as `vaegan_pl.sample` does."""
        decoder = self.model.networks.decoder.eval()
        decoder(torch.randn(n, self.model.networks.latent_dim, device=self.device))
        decoder.train()
