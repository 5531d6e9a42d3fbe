"""Algorithm 1 of Larsen et al. (arXiv 1512.09300): one training step of the VAE/GAN.

As printed, the last update reads `theta_Dis <- theta_Dis - grad L_GAN` with L_GAN a log-likelihood, which would make
the discriminator worse. As in all working code, L_GAN stands here for the binary cross-entropy
`-(log Dis(x) + log(1 - Dis(x_tilde)) + log(1 - Dis(x_p)))`: the discriminator descends it, the decoder ascends it.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import grad
from torch.nn.utils import parametrize

from vaegan_pl.model.adversary import Adversary
from vaegan_pl.model.generative import EquilibriumGate, GenerativeModel, Images, Latents, Step, norm
from vaegan_pl.model.losses import (
    Prior,
    Sigma,
    feature_likelihood,
    in_deviations,
    kl_divergence,
    pixel_likelihood,
    refuse_sigma,
)
from vaegan_pl.model.networks import Labels, Networks

Fakes = Literal["both", "reconstruction", "prior"]
BatchNorm = Literal["joint", "paired", "separate", "authors"]


class VAEGAN(GenerativeModel):
    """The VAE/GAN: three networks, the options of Algorithm 1, and its gradients.

    Args:
        networks: encoder, decoder and discriminator.
        gamma: weight of L_llike against L_GAN in the decoder's update (paper, section 2.3).
        similarity_layer: the discriminator's feature map that is Dis_l: conv, norm or relu, and the stage's number.
        normalised_similarity: whether L_llike compares features by `losses.in_deviations`.
        sigma: deviation of a Gaussian in the pixels that adds to L_llike, `learned` for the best one of each batch; see
            `losses.pixel_likelihood`. None adds nothing, as in the paper.
        fakes: which decoded images enter L_GAN: both x_tilde and x_p (Algorithm 1), or one of them; L_GAN has no
            gradient to the other, though its batch may share statistics with it.
        batch_norm: which batches share batch-norm statistics, by passing a network as one: `joint`, all (x, x_tilde and
            x_p in the discriminator, z and z_p in the decoder); `paired`, x and x_tilde alone; `separate`, none;
            `authors`, x and x_tilde for L_llike and then, in a second pass, x and the images that enter L_GAN for that
            (their code).
        adversarial: whether the decoder ascends L_GAN; without it the discriminator alone learns from it, and the
            decoder descends L_llike (VAE_Dis_l of the paper's section 4, whose discriminator is trained before).
        gate: decides from the discriminator's costs which of decoder and discriminator to update; None updates both.
            Whoever steps asks it.
        prior: how L_prior enters the encoder's update.
        adversary: the form of L_GAN, and what stabilises it.
        ema: see `GenerativeModel`.

    Raises:
        ValueError: if `gamma` is negative, an option is none of the above, or two are at odds.
    """

    NETWORKS = ("encoder", "decoder", "discriminator")
    LOSSES = ("loss/prior", "loss/llike", "loss/gan")
    AGAINST_COLLAPSE = "lower optimizer.discriminator.lr or raise model.gamma"
    AGAINST_DEFEAT = "lower optimizer.discriminator.lr or take model/gate=equilibrium"

    def __init__(
        self,
        networks: Networks,
        gamma: float,
        similarity_layer: str,
        normalised_similarity: bool,
        sigma: Sigma | None,
        fakes: Fakes,
        batch_norm: BatchNorm,
        adversarial: bool,
        gate: EquilibriumGate | None,
        prior: Prior,
        adversary: Adversary,
        ema: float | None,
    ) -> None:
        super().__init__(networks, ema)
        if not gamma >= 0:
            raise ValueError(f"model.gamma={gamma}: must be a number of at least 0")
        for name, value, known in (
            ("similarity_layer", similarity_layer, networks.discriminator.layers),
            ("fakes", fakes, get_args(Fakes)),
            ("batch_norm", batch_norm, get_args(BatchNorm)),
        ):
            if value not in known:
                raise ValueError(f"model.{name}={value}: must be one of {', '.join(known)}")
        if sigma is not None:
            refuse_sigma(sigma)
        if gate is not None and not isinstance(gate, EquilibriumGate):
            raise ValueError(f"model.gate={gate}: take model/gate=equilibrium (with a slash), or model.gate=null")
        if gate is not None and not adversarial:
            raise ValueError(
                "model.gate: weighs decoder against discriminator; take model.adversarial=true, or no gate"
            )
        adversary.refuse_gate(gate)
        adversary.refuse_batch_norm(networks)
        self.gamma = gamma
        self.similarity_layer = similarity_layer
        self.normalised_similarity = normalised_similarity
        self.sigma = sigma
        self.fakes = fakes
        self.batch_norm = batch_norm
        self.adversarial = adversarial
        self.gate = gate
        self.prior = prior
        self.adversary = adversary
        self.costs_in_nats = adversary.in_nats
        self.uniform = adversary.uniform

    def gradients(
        self,
        x: Images,
        epsilon: Latents,
        z_p: Latents,
        y: Labels | None = None,
        uniform: Float[Tensor, "batch draw"] | None = None,
        number: int = 0,
    ) -> Step:
        """All gradients of one iteration of Algorithm 1; see `GenerativeModel.gradients`."""
        enc, dec, dis = self.networks.encoder, self.networks.decoder, self.networks.discriminator
        theta_enc, theta_dec, theta_dis = (tuple(network.parameters()) for network in (enc, dec, dis))

        # Z <- Enc(X)
        mu, log_variance = enc(x, y)
        z = mu + (0.5 * log_variance).exp() * epsilon
        # L_prior <- D_KL(q(Z|X) || p(Z))
        l_prior = self.prior(mu, log_variance, number)
        # X_tilde <- Dec(Z);  Z_p <- samples from prior N(0, I);  X_p <- Dec(Z_p)
        x_tilde, *x_p = self._decode([z] if self.fakes == "reconstruction" else [z, z_p], y)
        # L_llike <- -E_q(Z|X)[p(Dis_l(X)|Z)]
        views = self.adversary.views([x, x_tilde, *x_p], uniform)
        with parametrize.cached():  # one set of weights where spectral norm would move them in every pass
            (logits_x, *logits_fakes), (dis_l_x, dis_l_x_tilde, *_) = self._discriminate(views, y)
        metrics = {"loss/llike": self.feature_likelihood(dis_l_x.detach(), dis_l_x_tilde)}
        l_llike = metrics["loss/llike"]
        if self.sigma is not None:
            metrics["loss/pixel"] = pixel_likelihood(x, x_tilde, self.sigma)
            l_llike = l_llike + metrics["loss/pixel"]
        # L_GAN <- log(Dis(X)) + log(1 - Dis(X_tilde)) + log(1 - Dis(X_p)), here as a cost (see the module's head)
        names = ["reconstruction", "prior"][: len(logits_fakes)]
        logits_entering = [logits_fakes[i] for i in self._entering]
        l_gan = self.adversary.discriminator_cost(logits_x, logits_entering)

        # The backward pass is linear, so each loss is pulled back once to the decoded images, and on from there once.
        fakes = [x_tilde, *x_p]
        llike_fakes = grad(l_llike, fakes, retain_graph=True, materialize_grads=True)
        pull = [self.gamma * llike for llike in llike_fakes]
        if self.adversarial and self.adversary.zero_sum:
            gan_all = grad(l_gan, [*fakes, *theta_dis], retain_graph=bool(self.adversary.lecam), materialize_grads=True)
            gan_fakes, g_dis = [-g for g in gan_all[: len(fakes)]], gan_all[len(fakes) :]
        else:
            if self.adversarial:
                l_dec = self.adversary.decoder_cost(logits_entering)
                gan_fakes = list(grad(l_dec, fakes, retain_graph=True, materialize_grads=True))
            g_dis = grad(l_gan, theta_dis, retain_graph=bool(self.adversary.lecam), materialize_grads=True)
        if self.adversarial:
            gan_fakes = [g if i in self._entering else torch.zeros_like(g) for i, g in enumerate(gan_fakes)]
            pull = [llike + gan for llike, gan in zip(pull, gan_fakes, strict=True)]
        if self.adversary.lecam:
            l_lecam = self.adversary.lecam_cost(logits_x, logits_entering, number)
            g_dis = tuple(a + b for a, b in zip(g_dis, grad(l_lecam, theta_dis, materialize_grads=True), strict=True))

        # theta_Enc <- theta_Enc - grad (L_prior + L_llike)
        (llike_z,) = grad(fakes, z, llike_fakes, retain_graph=True)
        g_enc = grad([l_prior, z], theta_enc, [torch.ones_like(l_prior), llike_z])
        # theta_Dec <- theta_Dec - grad (gamma L_llike - L_GAN)
        g_dec = grad(fakes, theta_dec, pull)
        # theta_Dis <- theta_Dis - grad L_GAN
        g_dis = self.adversary.penalised(g_dis, dis, views[0], y, number)

        game = self.adversary.game
        cost_real = game.real(logits_x)
        cost_fakes = {name: game.fake(logits) for name, logits in zip(names, logits_fakes, strict=True)}
        metrics |= {
            "loss/prior": kl_divergence(mu, log_variance),
            "loss/gan": l_gan,
            "discriminator/cost_real": cost_real,
            **{f"discriminator/cost_{name}": cost for name, cost in cost_fakes.items()},
            "discriminator/feature_norm": dis_l_x.float().flatten(1).square().sum(1).sqrt().mean(),
        }
        if self.adversarial:
            metrics["decoder/gradient_ratio"] = self.gamma * norm(llike_fakes) / norm(gan_fakes)
        return Step(
            encoder=g_enc,
            decoder=g_dec,
            discriminator=g_dis,
            cost_real=cost_real.detach(),
            cost_fake=torch.stack([game.fake(logits) for logits in logits_entering]).mean().detach(),
            metrics={name: value.detach() for name, value in metrics.items()},
        )

    @property
    def _entering(self) -> list[int]:
        """Which of x_tilde (0) and x_p (1) enter L_GAN."""
        return {"both": [0, 1], "reconstruction": [0], "prior": [1]}[self.fakes]

    def feature_likelihood(self, dis_l_x: Tensor, dis_l_x_tilde: Tensor) -> Tensor:
        """L_llike of feature maps, in nats."""
        if self.normalised_similarity:
            pixels = self.networks.image_channels * self.networks.image_size**2
            dis_l_x, dis_l_x_tilde = in_deviations(dis_l_x, dis_l_x_tilde, pixels)
        return feature_likelihood(dis_l_x, dis_l_x_tilde)

    def _decode(self, latents: Sequence[Latents], y: Labels | None) -> list[Images]:
        groups = [latents] if self.batch_norm == "joint" else [[z] for z in latents]
        return [
            images
            for group in groups
            for images in self.networks.decoder(torch.cat(tuple(group)), _repeated(y, group)).split(
                [len(z) for z in group]
            )
        ]

    def _discriminate(self, batches: Sequence[Images], y: Labels | None) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of x, x_tilde and, where it is decoded, x_p, and Dis_l of them (of the first two at least)."""
        if self.batch_norm == "authors":
            in_game = [0, *(1 + i for i in self._entering)]
            logits, features = self._discriminate_groups([batches[:2]], y)
            again, _ = self._discriminate_groups([[batches[i] for i in in_game]], y)
            last = dict(enumerate(logits)) | dict(zip(in_game, again, strict=True))
            return [last[i] for i in range(len(batches))], features
        if self.batch_norm == "joint":
            groups = [batches]
        else:
            together = 2 if self.batch_norm == "paired" else 1
            groups = [batches[:together], *([images] for images in batches[together:])]
        return self._discriminate_groups(groups, y)

    def _discriminate_groups(
        self, groups: Sequence[Sequence[Images]], y: Labels | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        all_logits: list[Tensor] = []
        all_features: list[Tensor] = []
        for group in groups:
            logits, maps = self.networks.discriminator(torch.cat(tuple(group)), _repeated(y, group))
            sizes = [len(images) for images in group]
            all_logits += logits.split(sizes)
            all_features += maps[self.similarity_layer].split(sizes)
        return all_logits, all_features

    @property
    def description(self) -> dict[str, object]:
        """See `GenerativeModel.description`."""
        return {
            "model": "VAE/GAN",
            "gamma": self.gamma,
            "similarity_layer": self.similarity_layer,
            "normalised_similarity": self.normalised_similarity,
            "sigma": self.sigma,
            "fakes": self.fakes,
            "batch_norm": self.batch_norm,
            "adversarial": self.adversarial,
            "gate": self.gate is not None,
            **self.prior.description,
            **self.adversary.description,
            **super().description,
        }


def _repeated(y: Labels | None, group: Sequence[Tensor]) -> Labels | None:
    return None if y is None else y.repeat(len(group))
