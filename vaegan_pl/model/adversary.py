"""The game against the discriminator, and what keeps it fair where there are few images."""

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
"""Largest shift and side of the hole, as shares of the image's side (arXiv 2006.10738, section 3.2)."""

R1_INTERVAL = 16
"""Batches between two penalties, each that many times as large (arXiv 1912.04958, section 3.1).

Under RMSProp, which divides by recent gradients, one large penalty weighs less than many small ones.
"""

ANCHOR_DECAY = 0.99
"""Of the moving averages that LeCam holds scores against (arXiv 2104.03310, section 4.1), once they have begun.

It starts low, as `GenerativeModel.update_averages` does, so that they do not stay near the 0 that they start from.
"""


class DiffAugment:
    """Differentiable augmentation of everything that the discriminator sees (arXiv 2006.10738).

    Real and decoded images of one row are changed alike, so that L_llike compares the same view of both. What comes in
    from outside the image, and the hole, are black like the background of MRI.

    Args:
        changes: any of `brightness`, `contrast`, `translation` and `cutout`, in the order they are made.

    Raises:
        ValueError: if one is none of those.
    """

    DRAWS = 6
    """Uniform numbers for each image."""

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
                    f"model.adversary.diffaugment={list(changes)}: must be made of {', '.join(self._known)}"
                )
        self.changes = list(changes)

    def __call__(self, images: Images, uniform: Float[Tensor, "batch draw"]) -> Images:
        """Change every image by its row of `DRAWS` numbers in [0, 1)."""
        for change in self.changes:
            images = self._known[change](images, uniform)
        return images

    @staticmethod
    def brightness(images: Images, uniform: Tensor) -> Images:
        """Add up to half a unit of grey either way, where black to white is two."""
        return images + (uniform[:, 0] - 0.5)[:, None, None, None]

    @staticmethod
    def contrast(images: Images, uniform: Tensor) -> Images:
        """Stretch grey values about each image's mean, by half to one and a half."""
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * (uniform[:, 1] + 0.5)[:, None, None, None] + mean

    @staticmethod
    def translation(images: Images, uniform: Tensor) -> Images:
        """Shift by whole pixels, up to `SHIFT` of the side along either axis."""
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
        """Blacken a square of `CUTOUT` of the side, centred on any pixel."""
        side = images.shape[-1]
        hole = round(CUTOUT * side)
        start = (uniform[:, 4:6] * side).long() - hole // 2
        along = torch.arange(side, device=images.device)
        inside = [(along >= first[:, None]) & (along < first[:, None] + hole) for first in start.unbind(1)]
        covered = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return images.masked_fill(covered, BLACK)


@dataclass(frozen=True)
class DiscriminatorOutput:
    """What the discriminator says of real and decoded images.

    Attributes:
        x: real images, as it saw them.
        real: their logits.
        fakes: logits of decoded images, by what they are.
        in_l_gan: names of those of `fakes` that enter L_GAN.
    """

    x: Images
    real: Logits
    fakes: Mapping[str, Logits]
    in_l_gan: Sequence[str]


@dataclass(frozen=True)
class GanGradients:
    """The gradients of L_GAN, and of what stabilises it.

    Attributes:
        decoder_pull: gradients, with respect to the decoded images, of what the decoder minimises (-L_GAN in the
            saturating game); 0 for images that do not enter L_GAN.
        discriminator: gradients of the discriminator, in `parameters()` order.
        cost_real: the discriminator's mean cost of real images.
        cost_fake: its mean cost of the decoded images in L_GAN.
        metrics: the costs, to log.
    """

    decoder_pull: list[Images]
    discriminator: tuple[Tensor, ...]
    cost_real: Scalar
    cost_fake: Scalar
    metrics: dict[str, Scalar]


class Adversary(nn.Module):
    """The adversarial game and its stabilisers.

    Args:
        game: `saturating` (Algorithm 1), `non_saturating` or `hinge`; see `losses.GAMES`.
        diffaugment: changes that `DiffAugment` makes; none leaves it out.
        r1: weight of the penalty on the discriminator's gradient at real images, gamma of arXiv 1801.04406, eq. 9;
            0 leaves it out.
        lecam: weight of LeCam as the paper prints it (arXiv 2104.03310; its code cuts one side off); 0 leaves it out.

    Raises:
        ValueError: if an option is none of those.
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
        self.in_nats = game != "hinge"
        self.diffaugment = DiffAugment(diffaugment) if diffaugment else None
        self.uniform = DiffAugment.DRAWS if diffaugment else 0
        self.r1 = r1
        self.lecam = lecam
        self.register_buffer("anchors", torch.zeros(2))
        self.anchors: Tensor
        """Moving averages of the logits of real and of decoded images."""

    @property
    def description(self) -> dict[str, object]:
        """The options, in plain values, for the record."""
        changes = [] if self.diffaugment is None else self.diffaugment.changes
        return {"game": self.name, "diffaugment": changes, "r1": self.r1, "lecam": self.lecam}

    def views(self, batches: Sequence[Images], uniform: Float[Tensor, "batch draw"] | None) -> list[Images]:
        """What the discriminator sees of batches; the same rows of each are changed alike."""
        if self.diffaugment is None:
            return list(batches)
        if uniform is None:
            raise ValueError("DiffAugment needs uniform numbers")
        return [self.diffaugment(images, uniform) for images in batches]

    def graph_key(self, number: int) -> int | None:
        """See `GenerativeModel.graph_key`: 1 where R1 is due, 0 elsewhere, None while LeCam's averages begin."""
        if type(self) is not Adversary or (self.lecam and _begun(number) < ANCHOR_DECAY):
            return None
        return int(self._is_due(number))

    def _is_due(self, number: int) -> bool:
        return bool(self.r1) and number % R1_INTERVAL == 0

    def gan_gradients(
        self,
        seen: DiscriminatorOutput,
        decoded: Sequence[Images],
        discriminator: Discriminator,
        y: Labels | None,
        number: int,
    ) -> GanGradients:
        """The gradients of the game, and of what stabilises it.

        Args:
            seen: the discriminator's logits.
            decoded: the decoded images, in the order of `seen.fakes`; none where the decoder does not learn from L_GAN.
            discriminator: the discriminator.
            y: the classes of real images, if it is conditional.
            number: the batch's number, from 0.
        """
        theta, fakes = tuple(discriminator.parameters()), [seen.fakes[name] for name in seen.in_l_gan]
        costs = {name: self.game.fake(logits) for name, logits in seen.fakes.items()}
        cost_real, cost = self.game.real(seen.real), self.discriminator_cost(seen.real, fakes)
        keep_graph = bool(self.lecam)
        if self.zero_sum:  # what the discriminator descends, the decoder ascends: one pass backwards for both
            both = grad(cost, [*decoded, *theta], retain_graph=keep_graph, materialize_grads=True)
            g_decoded, g_theta = [-g for g in both[: len(decoded)]], both[len(decoded) :]
        else:
            l_dec = self.decoder_cost(fakes)
            g_decoded = list(grad(l_dec, decoded, retain_graph=True, materialize_grads=True)) if decoded else []
            g_theta = grad(cost, theta, retain_graph=keep_graph, materialize_grads=True)
        if self.lecam:
            g_theta = _added(g_theta, grad(self.lecam_cost(seen.real, fakes, number), theta, materialize_grads=True))
        g_theta = self.penalised(g_theta, discriminator, seen.x, y, number)
        g_decoded = [
            g if name in seen.in_l_gan else torch.zeros_like(g) for name, g in zip(seen.fakes, g_decoded, strict=False)
        ]
        metrics = {"loss/gan": cost, "discriminator/cost_real": cost_real}
        metrics |= {f"discriminator/cost_{name}": value for name, value in costs.items()}
        cost_fake = torch.stack([costs[name] for name in seen.in_l_gan]).mean()
        return GanGradients(g_decoded, g_theta, cost_real.detach(), cost_fake.detach(), metrics)

    def discriminator_cost(self, real: Logits, fakes: Sequence[Logits]) -> Scalar:
        """What the discriminator descends in the game: its costs of real and decoded images, summed."""
        return self.game.real(real) + torch.stack([self.game.fake(logits) for logits in fakes]).sum()

    def lecam_cost(self, real: Logits, fakes: Sequence[Logits], number: int) -> Scalar:
        """What the discriminator, and it alone, descends beside the game: LeCam, by its weight; 0 without one.

        The averages move, by the means over all devices.

        Args:
            real: logits of real images.
            fakes: logits of the decoded images in the game.
            number: the batch's number, from 0.
        """
        if not self.lecam:
            return real.new_zeros(())
        real, fake = at_least_float32(real), at_least_float32(torch.cat(list(fakes)))
        now = torch.stack([real.detach().mean(), fake.detach().mean()])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(now)
            now /= distributed.get_world_size()
        decay = min(ANCHOR_DECAY, _begun(number))
        self.anchors.lerp_(now.to(self.anchors.dtype), 1 - decay)
        real_anchor, fake_anchor = self.anchors.unbind()
        return self.lecam * ((real - fake_anchor).square().mean() + (fake - real_anchor).square().mean())

    def decoder_cost(self, fakes: Sequence[Logits]) -> Scalar:
        """What the decoder descends for its images."""
        return torch.stack([self.game.decoder(logits) for logits in fakes]).sum()

    def check_gate(self, gate: object) -> None:
        """Stop a gate that cannot weigh the costs of this game, or would drop the penalties that are due.

        Raises:
            ValueError: if there is one in a game whose costs are not in nats, or with R1.
        """
        if gate is not None and not self.in_nats:
            raise ValueError("model.gate: weighs costs in nats; take model.adversary.game=saturating or non_saturating")
        if gate is not None and self.r1:
            raise ValueError(
                "model.gate: may rest the discriminator where its penalty is due; take model.adversary.r1=0"
            )

    def check_batch_norm(self, networks: Networks) -> None:
        """Stop R1 on a discriminator whose logit of an image depends on the other images of the batch.

        Raises:
            ValueError: if there is a weight for R1, and batch norm.
        """
        if self.r1 and networks.discriminator_norm == "batch":
            raise ValueError(
                "model.adversary.r1: penalises the slope at each image, which batch norm mixes with the others; take "
                "model.networks.discriminator_norm=group or spectral"
            )

    def penalised(
        self,
        gradient: Sequence[Tensor],
        discriminator: Discriminator,
        x: Images,
        y: Labels | None,
        number: int,
    ) -> tuple[Tensor, ...]:
        """The discriminator's gradient and, every `R1_INTERVAL` batches, that of r1 / 2 E |grad_x logit(x)|^2.

        The penalty is taken in the precision of the parameters.

        Args:
            gradient: of `discriminator_cost` and LeCam.
            discriminator: the discriminator.
            x: real images as the discriminator sees them.
            y: their classes, if it is conditional.
            number: the batch's number, from 0.
        """
        if not self._is_due(number):
            return tuple(gradient)
        parameters = tuple(discriminator.parameters())
        with torch.autocast(x.device.type, enabled=False):
            x = x.detach().to(parameters[0].dtype).requires_grad_()
            (slope,) = grad(discriminator(x, y)[0].sum(), x, create_graph=True)
            cost = 0.5 * self.r1 * R1_INTERVAL * slope.square().flatten(1).sum(1).mean()
            penalty = grad(cost, parameters, materialize_grads=True)
        return _added(gradient, penalty)


def _begun(number: int) -> float:
    return (1 + number) / (10 + number)


def _added(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(first + second for first, second in zip(a, b, strict=True))
