"""The adversarial game, and stabilisers that keep it balanced when there are few images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.autograd import grad

from vaegan_pl.model.batch import Images, Scalar
from vaegan_pl.model.losses import GAMES, at_least_float32
from vaegan_pl.model.networks import Discriminator, Labels, Networks

Logits = Float[Tensor, " batch"]

BLACK = -1.0
SHIFT, CUTOUT = 1 / 8, 1 / 2
"""The largest shift, and the side of the cutout, as fractions of the image's side (arXiv 2006.10738, section 3.2)."""

R1_INTERVAL = 16
"""Batches from one penalty to the next, and the factor by which each is larger (arXiv 1912.04958, section 3.1).

RMSProp divides by recent gradients, so one large penalty has less effect than many small ones.
"""

ANCHOR_DECAY = 0.99
"""Decay of the moving averages of logits that LeCam uses (arXiv 2104.03310, section 4.1), after the first batches.

As in `GenerativeModel.update_averages`, it starts low so that the averages quickly move away from their initial 0.
"""


class DiffAugment:
    """Differentiable augmentation of everything that the discriminator sees (arXiv 2006.10738).

    Real and decoded images at the same index are augmented in the same way, so that L_llike compares the same view of
    both. Pixels shifted in from outside the image, and the cutout, are black like the background of MRI.

    Args:
        changes: any of `brightness`, `contrast`, `translation` and `cutout`, in the order they are applied.

    Raises:
        ValueError: if another augmentation is named.
    """

    DRAWS = 6
    """Number of uniform random numbers for each image."""

    def __init__(self, changes: Sequence[str]) -> None:
        self._known = {
            "brightness": self.brightness,
            "contrast": self.contrast,
            "translation": self.translation,
            "cutout": self.cutout,
        }
        for change in changes:
            if change not in self._known:
                raise ValueError(
                    f"model.adversary.diffaugment={list(changes)}: may only contain {', '.join(self._known)}"
                )
        self.changes = list(changes)

    def __call__(self, images: Images, uniform: Float[Tensor, "batch draw"]) -> Images:
        """Augment each image by its row of `DRAWS` numbers in [0, 1)."""
        for change in self.changes:
            images = self._known[change](images, uniform)
        return images

    @staticmethod
    def brightness(images: Images, uniform: Tensor) -> Images:
        """Add a uniform number in [-0.5, 0.5) to each image, where grey values span [-1, 1]."""
        return images + (uniform[:, 0] - 0.5)[:, None, None, None]

    @staticmethod
    def contrast(images: Images, uniform: Tensor) -> Images:
        """Scale each image's deviations from its mean by a factor in [0.5, 1.5)."""
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * (uniform[:, 1] + 0.5)[:, None, None, None] + mean

    @staticmethod
    def translation(images: Images, uniform: Tensor) -> Images:
        """Shift by whole pixels, up to `SHIFT` of the side along each axis."""
        n, channels, side, _ = images.shape
        most = round(SHIFT * side)
        shifts = (uniform[:, 2:4] * (2 * most + 1)).long().clamp_max(2 * most)  # of the padded image, from 0
        padded = nn.functional.pad(images, [most] * 4, value=BLACK)
        along = torch.arange(side, device=images.device)
        rows = (shifts[:, :1] + along)[:, None, :, None].expand(n, channels, side, padded.shape[-1])
        columns = (shifts[:, 1:] + along)[:, None, None, :].expand(n, channels, side, side)
        return padded.gather(2, rows).gather(3, columns)

    @staticmethod
    def cutout(images: Images, uniform: Tensor) -> Images:
        """Blacken a square, `CUTOUT` times as wide as the image, centred on a random pixel."""
        side = images.shape[-1]
        hole = round(CUTOUT * side)
        start = (uniform[:, 4:6] * side).long() - hole // 2
        along = torch.arange(side, device=images.device)
        inside = [(along >= first[:, None]) & (along < first[:, None] + hole) for first in start.unbind(1)]
        covered = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return images.masked_fill(covered, BLACK)


@dataclass(frozen=True)
class DiscriminatorOutput:
    """The discriminator's logits of real and decoded images.

    Attributes:
        x: the real images as the discriminator saw them.
        real: their logits.
        fakes: the logits of decoded images, by kind: `reconstruction`, `prior`.
        in_l_gan: the kinds that enter L_GAN.
    """

    x: Images
    real: Logits
    fakes: Mapping[str, Logits]
    in_l_gan: Sequence[str]


@dataclass(frozen=True)
class GanGradients:
    """The gradients of L_GAN and of its stabilisers.

    Attributes:
        decoder_pull: gradients of the decoder's adversarial loss (-L_GAN in the saturating game) with respect to the
            decoded images; 0 for images that do not enter L_GAN.
        discriminator: gradients of the discriminator, in `parameters()` order.
        cost_real: the discriminator's mean loss on real images.
        cost_fake: the discriminator's mean loss on the decoded images in L_GAN.
        metrics: the costs to log.
    """

    decoder_pull: list[Images]
    discriminator: tuple[Tensor, ...]
    cost_real: Scalar
    cost_fake: Scalar
    metrics: dict[str, Scalar]


class Adversary(nn.Module):
    """The adversarial game and its stabilisers.

    Args:
        game: `saturating` (Algorithm 1) or `non_saturating`; see `losses.GAMES`.
        diffaugment: the augmentations of `DiffAugment`; an empty list switches it off.
        r1: weight of the penalty on the discriminator's gradient at real images, gamma of arXiv 1801.04406, eq. 9;
            0 switches it off.
        lecam: weight of the LeCam regulariser as printed in the paper (arXiv 2104.03310; the paper's code clips it on
            one side); 0 switches it off.

    Raises:
        ValueError: if an option is out of its range.
    """

    def __init__(self, game: str, diffaugment: Sequence[str], r1: float, lecam: float) -> None:
        super().__init__()
        if game not in GAMES:
            raise ValueError(f"model.adversary.game={game}: must be one of {', '.join(GAMES)}")
        for name, value in (("r1", r1), ("lecam", lecam)):
            if not value >= 0:
                raise ValueError(f"model.adversary.{name}={value}: must be a number of at least 0")
        self.name = game
        self.game = GAMES[game]
        self.zero_sum = game == "saturating"
        self.diffaugment = DiffAugment(diffaugment) if diffaugment else None
        self.uniform = DiffAugment.DRAWS if diffaugment else 0
        self.r1 = r1
        self.lecam = lecam
        self.register_buffer("anchors", torch.zeros(2))
        self.anchors: Tensor
        """Moving averages of the logits of real and of decoded images, in this order."""

    @property
    def description(self) -> dict[str, object]:
        """The options as plain values, for model files and records."""
        changes = [] if self.diffaugment is None else self.diffaugment.changes
        return {"game": self.name, "diffaugment": changes, "r1": self.r1, "lecam": self.lecam}

    def views(self, batches: Sequence[Images], uniform: Float[Tensor, "batch draw"] | None) -> list[Images]:
        """The batches as the discriminator sees them; images at the same index get the same augmentation."""
        if self.diffaugment is None:
            return list(batches)
        if uniform is None:
            raise ValueError("DiffAugment needs uniform numbers")
        return [self.diffaugment(images, uniform) for images in batches]

    def graph_key(self, step: int) -> int | None:
        """See `GenerativeModel.graph_key`: 1 in batches with R1, 0 in others, None while LeCam's decay rises."""
        if type(self) is not Adversary or (self.lecam and _begun(step) < ANCHOR_DECAY):
            return None
        return int(self._is_due(step))

    def _is_due(self, step: int) -> bool:
        return bool(self.r1) and step % R1_INTERVAL == 0

    def gan_gradients(
        self,
        seen: DiscriminatorOutput,
        decoded: Sequence[Images],
        discriminator: Discriminator,
        y: Labels | None,
        step: int,
    ) -> GanGradients:
        """The gradients of the game and of its stabilisers.

        Args:
            seen: the discriminator's logits.
            decoded: the decoded images, in the order of `seen.fakes`; empty if the decoder does not learn from L_GAN.
            discriminator: the discriminator.
            y: the classes of the real images, if the discriminator is conditional.
            step: index of the step, from 0.
        """
        theta, fakes = tuple(discriminator.parameters()), [seen.fakes[name] for name in seen.in_l_gan]
        costs = {name: self.game.fake(logits) for name, logits in seen.fakes.items()}
        cost_real, cost = self.game.real(seen.real), self.discriminator_cost(seen.real, fakes)
        keep_graph = bool(self.lecam)
        if self.zero_sum:  # the decoder ascends what the discriminator descends: one backward pass for both
            both = grad(cost, [*decoded, *theta], retain_graph=keep_graph, materialize_grads=True)
            g_decoded, g_theta = [-g for g in both[: len(decoded)]], both[len(decoded) :]
        else:
            l_dec = self.decoder_cost(fakes)
            g_decoded = list(grad(l_dec, decoded, retain_graph=True, materialize_grads=True)) if decoded else []
            g_theta = grad(cost, theta, retain_graph=keep_graph, materialize_grads=True)
        if self.lecam:
            g_theta = _added(g_theta, grad(self.lecam_cost(seen.real, fakes, step), theta, materialize_grads=True))
        g_theta = self.penalised(g_theta, discriminator, seen.x, y, step)
        g_decoded = [
            g if name in seen.in_l_gan else torch.zeros_like(g) for name, g in zip(seen.fakes, g_decoded, strict=False)
        ]
        metrics = {"loss/gan": cost, "discriminator/cost_real": cost_real}
        metrics |= {f"discriminator/cost_{name}": value for name, value in costs.items()}
        cost_fake = torch.stack([costs[name] for name in seen.in_l_gan]).mean()
        return GanGradients(g_decoded, g_theta, cost_real.detach(), cost_fake.detach(), metrics)

    def discriminator_cost(self, real: Logits, fakes: Sequence[Logits]) -> Scalar:
        """The discriminator's loss in the game: the sum of its losses on real and on decoded images."""
        return self.game.real(real) + torch.stack([self.game.fake(logits) for logits in fakes]).sum()

    def lecam_cost(self, real: Logits, fakes: Sequence[Logits], step: int) -> Scalar:
        """The weighted LeCam regulariser, which enters only the discriminator's loss; 0 if it is switched off.

        Also updates the moving averages, by means over all devices.

        Args:
            real: logits of real images.
            fakes: logits of the decoded images in the game.
            step: index of the step, from 0.
        """
        if not self.lecam:
            return real.new_zeros(())
        real, fake = at_least_float32(real), at_least_float32(torch.cat(list(fakes)))
        now = torch.stack([real.detach().mean(), fake.detach().mean()])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(now)
            now /= distributed.get_world_size()
        decay = min(ANCHOR_DECAY, _begun(step))
        self.anchors.lerp_(now.to(self.anchors.dtype), 1 - decay)
        real_anchor, fake_anchor = self.anchors.unbind()
        return self.lecam * ((real - fake_anchor).square().mean() + (fake - real_anchor).square().mean())

    def decoder_cost(self, fakes: Sequence[Logits]) -> Scalar:
        """The decoder's loss in the game."""
        return torch.stack([self.game.decoder(logits) for logits in fakes]).sum()

    def check_gate(self, gate: object) -> None:
        """Check that a gate does not skip the penalty of R1.

        Raises:
            ValueError: if there is a gate and R1 has a weight.
        """
        if gate is not None and self.r1:
            raise ValueError(
                "model.gate: may pause the discriminator when its R1 penalty is due; use model.adversary.r1=0"
            )

    def check_batch_norm(self, networks: Networks) -> None:
        """Check that R1 is not used with a discriminator whose logits depend on the other images of the batch.

        Raises:
            ValueError: if R1 has a weight and the discriminator has batch norm.
        """
        if self.r1 and networks.discriminator_norm == "batch":
            raise ValueError(
                "model.adversary.r1: penalises the gradient at each image, which batch norm mixes with the others; use "
                "model.networks.discriminator_norm=group or spectral"
            )

    def penalised(
        self,
        gradient: Sequence[Tensor],
        discriminator: Discriminator,
        x: Images,
        y: Labels | None,
        step: int,
    ) -> tuple[Tensor, ...]:
        """The discriminator's gradient plus, every `R1_INTERVAL` batches, the gradient of r1 / 2 E |grad_x logit(x)|^2.

        The penalty is computed in the precision of the parameters.

        Args:
            gradient: the gradient of `discriminator_cost` and LeCam.
            discriminator: the discriminator.
            x: real images as the discriminator sees them.
            y: their classes, if the discriminator is conditional.
            step: index of the step, from 0.
        """
        if not self._is_due(step):
            return tuple(gradient)
        parameters = tuple(discriminator.parameters())
        with torch.autocast(x.device.type, enabled=False):
            x = x.detach().to(parameters[0].dtype).requires_grad_()
            (slope,) = grad(discriminator(x, y)[0].sum(), x, create_graph=True)
            cost = 0.5 * self.r1 * R1_INTERVAL * slope.square().flatten(1).sum(1).mean()
            penalty = grad(cost, parameters, materialize_grads=True)
        return _added(gradient, penalty)


def _begun(step: int) -> float:
    return (1 + step) / (10 + step)


def _added(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(first + second for first, second in zip(a, b, strict=True))
