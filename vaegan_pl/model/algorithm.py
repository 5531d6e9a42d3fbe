"""Algorithm 1 of Larsen et al. (arXiv 1512.09300): one training step of the VAE/GAN.

As printed, L_GAN is a log-likelihood, and the last two updates have the wrong sign: the discriminator would get worse,
and the decoder would help it. As in all working code, L_GAN here is the binary cross-entropy
`-(log Dis(x) + log(1 - Dis(x_tilde)) + log(1 - Dis(x_p)))`: the discriminator descends it and the decoder ascends it.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import grad
from torch.nn.utils import parametrize

from vaegan_pl.errors import check_part
from vaegan_pl.model.adversary import Adversary, DiscriminatorOutput
from vaegan_pl.model.batch import Batch, Images, Latents, Noise
from vaegan_pl.model.generative import EquilibriumGate, GenerativeModel, Gradients, detached, norm
from vaegan_pl.model.losses import (
    Prior,
    Sigma,
    check_sigma,
    feature_likelihood,
    kl_divergence,
    pixel_likelihood,
    standardise_features,
)
from vaegan_pl.model.networks import Labels, Networks

Fakes = Literal["both", "reconstruction", "prior"]
BatchNorm = Literal["joint", "paired", "separate", "authors"]

DECODED = ("reconstruction", "prior")
"""Names of X_tilde and X_p in metrics."""

TOGETHER = {"joint": [[0, 1, 2]], "paired": [[0, 1], [2]], "separate": [[0], [1], [2]]}
"""Which of X (0), X_tilde (1) and X_p (2) form one batch in the discriminator, and so share batch-norm statistics."""


class VAEGAN(GenerativeModel):
    """The VAE/GAN: three networks, the options of Algorithm 1, and its gradients.

    Args:
        networks: encoder, decoder and discriminator.
        gamma: weight of L_llike relative to L_GAN in the decoder's update (paper, section 2.3).
        similarity_layer: the discriminator's feature map that serves as Dis_l: `conv`, `norm` or `relu` followed by the
            index of the stage, from 1.
        normalised_similarity: whether L_llike compares features standardised by `losses.standardise_features`.
        sigma: standard deviation of a Gaussian in pixel space whose likelihood is added to L_llike; `learned` uses the
            optimal one for each batch; see `losses.pixel_likelihood`. None adds nothing, as in the paper.
        fakes: decoded images that enter L_GAN: `both` x_tilde and x_p (Algorithm 1), only x_tilde (`reconstruction`),
            or only x_p (`prior`). L_GAN has no gradient with respect to the other.
        batch_norm: batches that share batch-norm statistics, because a network sees them as one batch. `joint`: all (x,
            x_tilde and x_p in the discriminator, z and z_p in the decoder). `paired`: x and x_tilde. `separate`: none.
            `authors`: x and x_tilde for L_llike, then, in a second pass, x and the images that enter L_GAN.
        adversarial: whether the decoder ascends L_GAN. Without it, only the discriminator learns from L_GAN, and the
            decoder descends L_llike (VAE_Dis_l of the paper, section 4, except that theirs is trained beforehand).
        gate: decides from the discriminator's costs whether to update the decoder, the discriminator or both. None
            updates both. The gradients do not depend on it.
        prior: weight and form of L_prior in the encoder's update.
        adversary: form of L_GAN, and its regularisation.
        ema: see `GenerativeModel`.

    Raises:
        ValueError: if `gamma` is negative, an option has a value not listed above, or two options conflict.
    """

    NETWORKS = ("encoder", "decoder", "discriminator")
    LOSSES = ("loss/prior", "loss/llike", "loss/gan")
    AGAINST_COLLAPSE = "lower optimizer.discriminator.lr or raise model.gamma"
    AGAINST_DEFEAT = "lower optimizer.discriminator.lr or use model/gate=equilibrium"

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
        check_part("model.prior", prior, Prior)
        check_part("model.adversary", adversary, Adversary)
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
            check_sigma(sigma)
        if gate is not None and not isinstance(gate, EquilibriumGate):
            raise ValueError(f"model.gate={gate}: use model/gate=equilibrium (with a slash), or model.gate=null")
        if gate is not None and not adversarial:
            raise ValueError("model.gate: balances decoder and discriminator; use model.adversarial=true, or no gate")
        adversary.check_gate(gate)
        adversary.check_batch_norm(networks)
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
        self.uniform = adversary.uniform

    def gradients(self, batch: Batch, noise: Noise) -> Gradients:
        """All gradients of one iteration of Algorithm 1; see `GenerativeModel.gradients`.

        Each loss is differentiated once, with respect to the decoded images. From there, the gradient of L_llike
        goes on to z and the encoder; gamma times it, minus that of L_GAN, goes on to the decoder.
        """
        enc, dec, dis = self.networks.encoder, self.networks.decoder, self.networks.discriminator
        theta_enc, theta_dec = tuple(enc.parameters()), tuple(dec.parameters())
        # X <- random mini-batch from dataset
        x, y = batch.x, batch.y
        # Z <- Enc(X)
        mu, log_variance = enc(x, y)
        z = mu + (0.5 * log_variance).exp() * noise.epsilon
        # L_prior <- D_KL(q(Z|X) || p(Z))
        l_prior = self.prior(mu, log_variance)
        # X_tilde <- Dec(Z)
        # Z_p <- samples from prior N(0, I), drawn by the caller
        # X_p <- Dec(Z_p)
        decoded = self._decode(z, noise.z_p, y)
        # L_llike <- -E_q(Z|X)[log p(Dis_l(X)|Z)], printed without the log
        seen, dis_l = self._discriminate([x, *decoded], y, noise.uniform)
        likelihoods = self.likelihoods(x, decoded[0], dis_l)
        l_llike = torch.stack([*likelihoods.values()]).sum()
        g_llike_decoded = grad(l_llike, decoded, retain_graph=True, materialize_grads=True)
        # L_GAN <- -(log(Dis(X)) + log(1 - Dis(X_tilde)) + log(1 - Dis(X_p))), with the sign changed (see above)
        gan = self.adversary.gan_gradients(seen, decoded if self.adversarial else [], dis, y, batch.step)

        # The updates, of which these are the gradients; `VAEGANModule.training_step` then steps all three optimizers:
        # theta_Enc <- theta_Enc - grad (L_prior + L_llike)
        (g_llike_z,) = grad(decoded, z, grad_outputs=g_llike_decoded, retain_graph=True)
        g_enc = grad([l_prior, z], theta_enc, grad_outputs=[torch.ones_like(l_prior), g_llike_z])
        # theta_Dec <- theta_Dec - grad (gamma L_llike - L_GAN)
        g_decoded = [self.gamma * g_llike for g_llike in g_llike_decoded]
        if self.adversarial:  # `decoder_pull` is the gradient of -L_GAN, or of the decoder's cost in another game
            g_decoded = [g_llike + pull for g_llike, pull in zip(g_decoded, gan.decoder_pull, strict=True)]
        g_dec = grad(decoded, theta_dec, grad_outputs=g_decoded)
        # theta_Dis <- theta_Dis - grad L_GAN
        g_dis = gan.discriminator

        metrics = {
            **likelihoods,
            **gan.metrics,
            "loss/prior": kl_divergence(mu, log_variance),
            "discriminator/feature_norm": dis_l[0].float().flatten(1).square().sum(1).sqrt().mean(),
        }
        if self.adversarial:
            metrics["decoder/gradient_ratio"] = self.gamma * norm(g_llike_decoded) / norm(gan.decoder_pull)
        return Gradients(detached(metrics), g_enc, g_dec, g_dis, gan.cost_real, gan.cost_fake)

    def graph_key(self, step: int) -> int | None:
        """See `GenerativeModel.graph_key`."""
        known = (type(self), type(self.prior)) == (VAEGAN, Prior)  # subclasses may use the step in any way
        return self.adversary.graph_key(step) if known else None

    @property
    def _in_l_gan(self) -> list[int]:
        """Indices of X_tilde (0) and X_p (1), those that enter L_GAN."""
        return {"both": [0, 1], "reconstruction": [0], "prior": [1]}[self.fakes]

    def l_llike(self, dis_l_x: Tensor, dis_l_x_tilde: Tensor) -> Tensor:
        """L_llike of two feature maps, in nats."""
        if self.normalised_similarity:
            pixels = self.networks.image_channels * self.networks.image_size**2
            dis_l_x, dis_l_x_tilde = standardise_features(dis_l_x, dis_l_x_tilde, pixels)
        return feature_likelihood(dis_l_x, dis_l_x_tilde)

    def likelihoods(self, x: Images, x_tilde: Images, dis_l: Sequence[Tensor]) -> dict[str, Tensor]:
        """The terms of L_llike by the names they are logged under; L_llike is their sum.

        Subclasses can add their own, as docs/extending.md shows.

        Args:
            x: the images.
            x_tilde: their reconstructions.
            dis_l: Dis_l of both.

        Returns:
            Scalars in nats: `loss/llike` of Dis_l, and `loss/pixel` if `sigma` is set.
        """
        # Dis_l(X) is a constant target, although with shared batch norm it depends on X_tilde.
        terms = {"loss/llike": self.l_llike(dis_l[0].detach(), dis_l[1])}
        if self.sigma is not None:
            terms["loss/pixel"] = pixel_likelihood(x, x_tilde, self.sigma)
        return terms

    def _decode(self, z: Latents, z_p: Latents, y: Labels | None) -> list[Images]:
        """X_tilde, and X_p unless `fakes` excludes it."""
        latents = [z] if self.fakes == "reconstruction" else [z, z_p]
        together = [latents] if self.batch_norm == "joint" else [[each] for each in latents]
        return [
            images
            for group in together
            for images in self.networks.decoder(torch.cat(group), _repeated(y, group)).chunk(len(group))
        ]

    def _discriminate(
        self, batches: Sequence[Images], y: Labels | None, uniform: Tensor | None
    ) -> tuple[DiscriminatorOutput, list[Tensor]]:
        """Logits of X, X_tilde and X_p, and Dis_l of X and X_tilde."""
        if self.batch_norm == "authors":
            passes = [[0, 1], [0, *(1 + i for i in self._in_l_gan)]]
        else:
            passes = [[i for i in group if i < len(batches)] for group in TOGETHER[self.batch_norm]]
        views = self.adversary.views(batches, uniform)
        logits: dict[int, Tensor] = {}
        dis_l: dict[int, Tensor] = {}
        with parametrize.cached():  # spectral norm would otherwise update the weights in every pass
            for group in filter(None, passes):
                images = [views[i] for i in group]
                of_all, maps = self.networks.discriminator(torch.cat(images), _repeated(y, group))
                logits |= dict(zip(group, of_all.chunk(len(group)), strict=True))
                # With "authors", X is passed twice: its logits come from the second pass and its Dis_l from the first.
                dis_l = dict(zip(group, maps[self.similarity_layer].chunk(len(group)), strict=True)) | dis_l
        fakes = {name: logits[i] for i, name in enumerate(DECODED[: len(batches) - 1], 1)}
        seen = DiscriminatorOutput(views[0], logits[0], fakes, [DECODED[i] for i in self._in_l_gan])
        return seen, [dis_l[0], dis_l[1]]

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


def _repeated(y: Labels | None, group: Sequence[object]) -> Labels | None:
    return None if y is None else y.repeat(len(group))
