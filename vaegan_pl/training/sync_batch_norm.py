"""Batch norm over the joint batch of all devices, on GPUs and CPUs."""

from typing import Any

import torch
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverDevices(Function):
    """Differentiable sum of a tensor over all devices; the backward pass sums the gradients of all devices."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the joint batch of all devices, whose batches must be of equal size.

    On a single device it equals torch's batch norm. `torch.nn.SyncBatchNorm` does the same, but only on GPUs.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        pass

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalise each channel of a batch, in float32 or higher precision."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        devices = distributed.get_world_size()
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        over = [dimension for dimension in range(x.dim()) if dimension != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = _SumOverDevices.apply(x.mean(over)) / devices
        centred = x - mean.view(shape)
        variance = _SumOverDevices.apply(centred.square().mean(over)) / devices
        with torch.no_grad():
            n = devices * x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        output: Tensor = normal * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)


class SyncAllBatchNorms(LayerSync):
    """Lightning plugin that replaces every batch norm by `SyncBatchNorm` when training starts."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace the batch norms of a model, and keep their parameters and statistics."""
        for name, child in model.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                assert child.momentum is not None
                norm = SyncBatchNorm(child.num_features, child.eps, child.momentum).train(child.training)
                norm.weight, norm.bias = child.weight, child.bias
                for buffer, value in child.named_buffers():
                    setattr(norm, buffer, value)
                setattr(model, name, norm)
            else:
                self.apply(child)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Return the model unchanged: in evaluation mode and on one device, the layers equal torch's."""
        return model
