"""What all models have in common: networks, their moving averages, and the result of a step."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaegan_pl.model.batch import Batch, Noise, Scalar
from vaegan_pl.model.networks import Networks


@dataclass(frozen=True)
class EquilibriumGate:
    """The authors' rule that pauses the decoder or discriminator when it is too far ahead (their code, not the paper).

    Args:
        equilibrium: the cost around which both players are kept, in nats (0.68 in the authors' code).
        margin: how far a cost may be from it, in nats (0.35 in the authors' code).

    Raises:
        ValueError: if an option is negative or not finite.
    """

    equilibrium: float
    margin: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"model.gate.{name}={value}: must be a finite number of at least 0")

    def __call__(self, cost_real: float, cost_fake: float) -> tuple[bool, bool]:
        """Whether to update (decoder, discriminator), given the mean losses on real and on decoded images in nats."""
        discriminator = min(cost_real, cost_fake) >= self.equilibrium - self.margin
        decoder = max(cost_real, cost_fake) <= self.equilibrium + self.margin
        return (decoder, discriminator) if decoder or discriminator else (True, True)


@dataclass(frozen=True)
class Gradients:
    """Gradients of all networks at the same parameters, and what to log.

    Attributes:
        metrics: numbers to log.
        encoder: gradients in `parameters()` order; empty for a network that the model lacks.
        decoder: likewise.
        discriminator: likewise.
        cost_real: the discriminator's mean loss on real images in nats, for `EquilibriumGate`.
        cost_fake: its mean loss on the decoded images that enter L_GAN in nats, likewise.
    """

    metrics: dict[str, Scalar]
    encoder: tuple[Tensor, ...] = ()
    decoder: tuple[Tensor, ...] = ()
    discriminator: tuple[Tensor, ...] = ()
    cost_real: Scalar | None = None
    cost_fake: Scalar | None = None


def detached(metrics: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The numbers without their autograd graph."""
    return {name: value.detach() for name, value in metrics.items()}


def norm(tensors: Sequence[Tensor]) -> Scalar:
    """Euclidean norm of all tensors, concatenated."""
    return torch.cat(list(tensors)).float().square().sum().sqrt()


class GenerativeModel(nn.Module, ABC):
    """Networks, and the gradients that train them.

    Args:
        networks: whichever of encoder, decoder and discriminator the model has.
        ema: decay, in [0, 1), of moving averages of encoder and decoder, which replace them outside training (arXiv
            1806.04498); None keeps no averages.

    Raises:
        ValueError: if `ema` is out of its range.
    """

    NETWORKS: ClassVar[tuple[str, ...]]
    """The names of the networks that the model has."""

    LOSSES: ClassVar[tuple[str, ...]]
    """The names of the metrics that must stay finite."""

    AGAINST_COLLAPSE: ClassVar[str]
    """What a user can do if samples lose their variety."""

    AGAINST_DEFEAT: ClassVar[str] = ""
    """What a user can do if the discriminator wins."""

    gate: EquilibriumGate | None = None
    """Decides from the discriminator's costs whether to update decoder and discriminator; None always updates both."""

    uniform = 0
    """Number of uniform random numbers that a step needs for each image."""

    def __init__(self, networks: Networks, ema: float | None) -> None:
        super().__init__()
        if not isinstance(networks, Networks):
            raise ValueError(
                f"model.networks._target_: builds a {type(networks).__name__}, which a model file cannot store; it "
                "must build vaegan_pl.model.networks.Networks"
            )
        if networks.names != list(self.NETWORKS):
            raise ValueError(
                f"model.networks: has {', '.join(networks.names)}; this model needs {', '.join(self.NETWORKS)}; "
                "set encoder_channels or discriminator_channels accordingly"
            )
        known = ema is None or (isinstance(ema, float | int) and not isinstance(ema, bool) and 0 <= ema < 1)
        if not known:
            raise ValueError(f"model.ema={ema}: must be null or a number of at least 0 and below 1")
        self.networks = networks
        self.ema = ema
        averaged = [] if ema is None else [name for name in networks.names if name != "discriminator"]
        self.averages = nn.ModuleDict({name: copy.deepcopy(getattr(networks, name)) for name in averaged})
        self.averages.requires_grad_(requires_grad=False)

    @abstractmethod
    def gradients(self, batch: Batch, noise: Noise) -> Gradients:
        """All gradients of one iteration, at the same parameters; changes no parameter and no `.grad`."""

    def graph_key(self, step: int) -> int | None:
        """Key of the CUDA graph that can replay a batch; None if the batch cannot be captured.

        Batches with the same key differ only in their inputs.

        Args:
            step: index of the step, from 0.
        """
        return None

    @property
    def description(self) -> dict[str, object]:
        """The training options as plain values, for model files and records."""
        return {"ema": self.ema}

    @torch.no_grad()
    def update_averages(self, step: int) -> None:
        """Move the averages towards the networks, including running statistics.

        The decay is (1 + step) / (10 + step), at most `ema`; it starts low so that the first batches are forgotten.

        Args:
            step: index of the step, from 0.
        """
        decay = min(self.ema or 0.0, (1 + step) / (10 + step))
        for name, average in self.averages.items():
            now, before = getattr(self.networks, name).state_dict(), average.state_dict()
            floats = [key for key, value in before.items() if value.is_floating_point()]
            torch._foreach_lerp_([before[key] for key in floats], [now[key] for key in floats], 1 - decay)
            for key in before.keys() - floats:
                before[key].copy_(now[key])

    @property
    def inference_networks(self) -> Networks:
        """The networks used to sample, to encode and for model files: the averages if there are any."""
        if not self.averages:
            return self.networks
        networks = copy.copy(self.networks)
        networks._modules = dict(self.networks._modules)
        networks._modules.update(self.averages.items())
        return networks
