"""The two models that the VAE/GAN combines, VAE and GAN, with the same networks (report, sections 2.1 and 2.2)."""

from torch.autograd import grad
from torch.nn.utils import parametrize

from vaegan_pl.errors import check_part
from vaegan_pl.model.adversary import Adversary
from vaegan_pl.model.batch import Batch, Noise
from vaegan_pl.model.generative import GenerativeModel, Gradients, detached
from vaegan_pl.model.losses import Prior, Sigma, check_sigma, kl_divergence, pixel_likelihood
from vaegan_pl.model.networks import Networks


class VAE(GenerativeModel):
    """A variational autoencoder with a Gaussian likelihood in pixel space (arXiv 1312.6114; report, section 2.1).

    Args:
        networks: encoder and decoder.
        sigma: standard deviation of the Gaussian, or `learned`; see `losses.pixel_likelihood`.
        prior: how L_prior enters the loss.
        ema: see `GenerativeModel`.

    Raises:
        ValueError: if an option is out of its range.
    """

    NETWORKS = ("encoder", "decoder")
    LOSSES = ("loss/prior", "loss/pixel")
    AGAINST_COLLAPSE = "lower model.prior.weight"

    def __init__(self, networks: Networks, sigma: Sigma, prior: Prior, ema: float | None) -> None:
        super().__init__(networks, ema)
        check_sigma(sigma)
        check_part("model.prior", prior, Prior)
        self.sigma = sigma
        self.prior = prior

    def gradients(self, batch: Batch, noise: Noise) -> Gradients:
        """Both networks descend L_prior - E_q[log p(x|z)]; see `GenerativeModel.gradients`."""
        theta = [tuple(getattr(self.networks, name).parameters()) for name in self.NETWORKS]
        mu, log_variance = self.networks.encoder(batch.x, batch.y)
        x_tilde = self.networks.decoder(mu + (0.5 * log_variance).exp() * noise.epsilon, batch.y)
        pixel = pixel_likelihood(batch.x, x_tilde, self.sigma)
        every = grad(self.prior(mu, log_variance) + pixel, [*theta[0], *theta[1]])
        metrics = {"loss/prior": kl_divergence(mu, log_variance), "loss/pixel": pixel}
        return Gradients(detached(metrics), encoder=every[: len(theta[0])], decoder=every[len(theta[0]) :])

    def graph_key(self, step: int) -> int | None:
        """See `GenerativeModel.graph_key`."""
        return 0 if (type(self), type(self.prior)) == (VAE, Prior) else None

    @property
    def description(self) -> dict[str, object]:
        """See `GenerativeModel.description`."""
        return {"model": "VAE", "sigma": self.sigma, **self.prior.description, **super().description}


class GAN(GenerativeModel):
    """A generative adversarial network (arXiv 1406.2661; report, section 2.2), whose generator is the decoder.

    Args:
        networks: decoder and discriminator.
        adversary: the adversarial game and its stabilisers.
        ema: see `GenerativeModel`.

    Raises:
        ValueError: if an option is out of its range.
    """

    NETWORKS = ("decoder", "discriminator")
    LOSSES = ("loss/gan",)
    AGAINST_COLLAPSE = "lower optimizer.discriminator.lr or use model.adversary.diffaugment=[translation,cutout]"
    AGAINST_DEFEAT = "lower optimizer.discriminator.lr or use model.adversary.game=non_saturating"

    def __init__(self, networks: Networks, adversary: Adversary, ema: float | None) -> None:
        super().__init__(networks, ema)
        check_part("model.adversary", adversary, Adversary)
        adversary.check_batch_norm(networks)
        self.adversary = adversary
        self.uniform = adversary.uniform

    def gradients(self, batch: Batch, noise: Noise) -> Gradients:
        """The discriminator learns to tell x from x_p, the decoder to fool it; see `GenerativeModel.gradients`."""
        dec, dis, y, step = self.networks.decoder, self.networks.discriminator, batch.y, batch.step
        x_p = dec(noise.z_p, y)
        views = self.adversary.views([batch.x, x_p], noise.uniform)
        with parametrize.cached():  # see `VAEGAN._discriminate`
            logits, logits_p = (dis(view, y)[0] for view in views)
        cost = self.adversary.discriminator_cost(logits, [logits_p])
        g_dec = grad(self.adversary.decoder_cost([logits_p]), tuple(dec.parameters()), retain_graph=True)
        l_dis = cost + self.adversary.lecam_cost(logits, [logits_p], step)
        g_dis = self.adversary.penalised(grad(l_dis, tuple(dis.parameters())), dis, views[0], y, step)
        game = self.adversary.game
        metrics = {
            "loss/gan": cost,
            "discriminator/cost_real": game.real(logits),
            "discriminator/cost_prior": game.fake(logits_p),
        }
        return Gradients(detached(metrics), decoder=g_dec, discriminator=g_dis)

    def graph_key(self, step: int) -> int | None:
        """See `GenerativeModel.graph_key`."""
        return self.adversary.graph_key(step) if type(self) is GAN else None

    @property
    def description(self) -> dict[str, object]:
        """See `GenerativeModel.description`."""
        return {"model": "GAN", **self.adversary.description, **super().description}
