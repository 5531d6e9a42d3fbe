"""Algorithm 1 of Larsen et al. (arXiv 1512.09300): one training step of the VAE/GAN.

As printed, the last update reads `theta_Dis <- theta_Dis - grad L_GAN` with L_GAN a log-likelihood, which would make
the discriminator worse. As in all working code, L_GAN stands here for the binary cross-entropy
`-(log Dis(x) + log(1 - Dis(x_tilde)) + log(1 - Dis(x_p)))`: the discriminator descends it, the decoder ascends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import grad

from vaegan_pl.model.losses import fake_cost, feature_likelihood, kl_divergence, real_cost
from vaegan_pl.model.networks import Networks

Images = Float[Tensor, "batch channel side side"]
Latents = Float[Tensor, "batch latent"]
Scalar = Float[Tensor, ""]
Fakes = Literal["both", "reconstruction", "prior"]
BatchNorm = Literal["joint", "paired", "separate"]


@dataclass(frozen=True)
class EquilibriumGate:
    """The authors' rule that rests whichever of decoder and discriminator is too far ahead (their code, not the paper).

    Args:
        equilibrium: the cost both players are held near, in nats (0.68 in the authors' code).
        margin: how far a cost may stray from it, in nats (0.35 in the authors' code).
    """

    equilibrium: float
    margin: float

    def __call__(self, cost_real: float, cost_fake: float) -> tuple[bool, bool]:
        """Whether to update (decoder, discriminator), given the mean cost of real and of decoded images in nats."""
        discriminator = min(cost_real, cost_fake) >= self.equilibrium - self.margin
        decoder = max(cost_real, cost_fake) <= self.equilibrium + self.margin
        return (decoder, discriminator) if decoder or discriminator else (True, True)


@dataclass(frozen=True)
class Step:
    """Gradients of the three networks at one parameter point, in `parameters()` order, and what to log.

    `cost_real` and `cost_fake`, the discriminator's mean costs of real images and of the decoded ones that enter L_GAN
    in nats, are what an `EquilibriumGate` compares.
    """

    encoder: tuple[Tensor, ...]
    decoder: tuple[Tensor, ...]
    discriminator: tuple[Tensor, ...]
    cost_real: Scalar
    cost_fake: Scalar
    metrics: dict[str, Scalar]


def _norm(tensors: Sequence[Tensor]) -> Scalar:
    return torch.cat(list(tensors)).float().square().sum().sqrt()


class VAEGAN(nn.Module):
    """The VAE/GAN: three networks, the options of Algorithm 1, and its gradients.

    Args:
        networks: encoder, decoder and discriminator.
        gamma: weight of L_llike against L_GAN in the decoder's update (paper, section 2.3).
        similarity_layer: the discriminator's feature map that is Dis_l: conv, norm or relu, and the stage's number.
        fakes: which decoded images enter L_GAN: both x_tilde and x_p (Algorithm 1), or one of them.
        batch_norm: which batches share batch-norm statistics, by passing a network as one: `joint`, all (x, x_tilde and
            x_p in the discriminator, z and z_p in the decoder); `paired`, x and x_tilde alone (the authors' code);
            `separate`, none.
        gate: decides from the discriminator's costs which of decoder and discriminator to update; None updates both.
            Whoever steps asks it.

    Raises:
        ValueError: if `gamma` is negative or an option is none of the above.
    """

    def __init__(
        self,
        networks: Networks,
        gamma: float,
        similarity_layer: str,
        fakes: Fakes,
        batch_norm: BatchNorm,
        gate: EquilibriumGate | None,
    ) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"model.gamma={gamma}: must be a number of at least 0")
        for name, value, known in (
            ("similarity_layer", similarity_layer, networks.discriminator.layers),
            ("fakes", fakes, get_args(Fakes)),
            ("batch_norm", batch_norm, get_args(BatchNorm)),
        ):
            if value not in known:
                raise ValueError(f"model.{name}={value}: must be one of {', '.join(known)}")
        self.networks = networks
        self.gamma = gamma
        self.similarity_layer = similarity_layer
        self.fakes = fakes
        self.batch_norm = batch_norm
        self.gate = gate

    def algorithm_1(self, x: Images, epsilon: Latents, z_p: Latents) -> Step:
        """All gradients of one iteration, at one parameter point; no parameter and no `.grad` is changed.

        Args:
            x: a mini-batch of real images in [-1, 1].
            epsilon: standard normal noise of the reparameterisation z = mu + sigma * epsilon.
            z_p: samples of the prior N(0, I).
        """
        enc, dec, dis = self.networks.encoder, self.networks.decoder, self.networks.discriminator
        theta_enc, theta_dec, theta_dis = (tuple(network.parameters()) for network in (enc, dec, dis))

        # Z <- Enc(X)
        mu, log_variance = enc(x)
        z = mu + (0.5 * log_variance).exp() * epsilon
        # L_prior <- D_KL(q(Z|X) || p(Z))
        l_prior = kl_divergence(mu, log_variance)
        # X_tilde <- Dec(Z);  Z_p <- samples from prior N(0, I);  X_p <- Dec(Z_p)
        x_tilde, *x_p = self._decode([z] if self.fakes == "reconstruction" else [z, z_p])
        # L_llike <- -E_q(Z|X)[p(Dis_l(X)|Z)]
        (logits_x, *logits_fakes), (dis_l_x, dis_l_x_tilde, *_) = self._discriminate([x, x_tilde, *x_p])
        l_llike = feature_likelihood(dis_l_x.detach(), dis_l_x_tilde)
        # L_GAN <- log(Dis(X)) + log(1 - Dis(X_tilde)) + log(1 - Dis(X_p)), here as a cost (see the module's head)
        cost_real = real_cost(logits_x)
        cost_fakes = dict(zip(("reconstruction", "prior"), map(fake_cost, logits_fakes), strict=False))
        entering = list(cost_fakes.values()) if self.fakes == "both" else [cost_fakes[self.fakes]]
        l_gan = cost_real + torch.stack(entering).sum()

        # The backward pass is linear, so each loss is pulled back once to the decoded images, and on from there once.
        fakes = [x_tilde, *x_p]
        llike_fakes = grad(l_llike, fakes, retain_graph=True, materialize_grads=True)
        gan_all = grad(l_gan, [*fakes, *theta_dis], materialize_grads=True)
        gan_fakes, g_dis = gan_all[: len(fakes)], gan_all[len(fakes) :]

        # theta_Enc <- theta_Enc - grad (L_prior + L_llike)
        (llike_z,) = grad(fakes, z, llike_fakes, retain_graph=True)
        g_enc = grad([l_prior, z], theta_enc, [torch.ones_like(l_prior), llike_z])
        # theta_Dec <- theta_Dec - grad (gamma L_llike - L_GAN)
        g_dec = grad(
            fakes, theta_dec, [self.gamma * llike - gan for llike, gan in zip(llike_fakes, gan_fakes, strict=True)]
        )
        # theta_Dis <- theta_Dis - grad L_GAN: g_dis, from above

        metrics = {
            "loss/prior": l_prior,
            "loss/llike": l_llike,
            "loss/gan": l_gan,
            "discriminator/cost_real": cost_real,
            **{f"discriminator/cost_{name}": cost for name, cost in cost_fakes.items()},
            "discriminator/feature_norm": dis_l_x.float().flatten(1).square().sum(1).sqrt().mean(),
            "decoder/gradient_ratio": self.gamma * _norm(llike_fakes) / _norm(gan_fakes),
        }
        return Step(
            encoder=g_enc,
            decoder=g_dec,
            discriminator=g_dis,
            cost_real=cost_real.detach(),
            cost_fake=torch.stack(entering).mean().detach(),
            metrics={name: value.detach() for name, value in metrics.items()},
        )

    def _decode(self, latents: list[Latents]) -> list[Images]:
        groups = [latents] if self.batch_norm == "joint" else [[z] for z in latents]
        return [
            images
            for group in groups
            for images in self.networks.decoder(torch.cat(group)).split([len(z) for z in group])
        ]

    def _discriminate(self, batches: list[Images]) -> tuple[list[Tensor], list[Tensor]]:
        groups = {
            "joint": [batches],
            "paired": [batches[:2], *([images] for images in batches[2:])],
            "separate": [[images] for images in batches],
        }[self.batch_norm]
        all_logits: list[Tensor] = []
        all_features: list[Tensor] = []
        for group in groups:
            logits, maps = self.networks.discriminator(torch.cat(group))
            sizes = [len(images) for images in group]
            all_logits += logits.split(sizes)
            all_features += maps[self.similarity_layer].split(sizes)
        return all_logits, all_features
