"""The training step of published PyTorch ports of the VAE/GAN, as a baseline for speed; never used for training.

Each of the three losses has its own forward passes: 2 of the encoder, 3 of the decoder and 10 of the discriminator per
step. `backward` runs through the whole graph of each loss, and the losses are read in every step. Float32, in torch's
default memory layout. The networks are this project's own, so one pass costs the same arithmetic.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vaegan_pl.model.networks import Networks


class NaiveStep:
    """One step on a batch.

    Args:
        networks: encoder, decoder and discriminator.
        optimizers: their optimizers, in that order.
        gamma: weight of the reconstruction loss in the decoder's loss.
        similarity_layer: name of the discriminator's feature map in which reconstructions are compared.
    """

    def __init__(
        self, networks: Networks, optimizers: Sequence[Optimizer], gamma: float, similarity_layer: str
    ) -> None:
        self.networks = networks
        self.optimizers = optimizers
        self.gamma = gamma
        self.layer = similarity_layer
        self.bce = nn.BCELoss()

    def __call__(self, x: Tensor) -> tuple[float, float, float]:
        """Update discriminator, decoder and encoder in turn; return their losses in that order."""
        encoder_optimizer, decoder_optimizer, discriminator_optimizer = self.optimizers
        _, _, x_tilde = self._autoencode(x)
        x_p = self.networks.decoder(torch.randn(len(x), self.networks.latent_dim, device=x.device))

        gan = self._adversarial(x, x_tilde, x_p)
        discriminator_optimizer.zero_grad()
        gan.backward(retain_graph=True)
        discriminator_optimizer.step()

        decoder_loss = self.gamma * self._feature_loss(x, x_tilde) - self._adversarial(x, x_tilde, x_p)
        decoder_optimizer.zero_grad()
        decoder_loss.backward(retain_graph=True)
        decoder_optimizer.step()

        mean, log_variance, x_tilde = self._autoencode(x)
        prior = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / mean.numel()
        encoder_loss = prior + 5 * self._feature_loss(x, x_tilde)
        encoder_optimizer.zero_grad()
        encoder_loss.backward()
        encoder_optimizer.step()
        return gan.item(), decoder_loss.item(), encoder_loss.item()

    def _autoencode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.networks.encoder(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return mean, log_variance, self.networks.decoder(z)

    def _adversarial(self, x: Tensor, x_tilde: Tensor, x_p: Tensor) -> Tensor:
        costs = []
        for images, real in ((x, 1.0), (x_tilde, 0.0), (x_p, 0.0)):
            probability = torch.sigmoid(self.networks.discriminator(images)[0])
            costs.append(self.bce(probability, torch.full_like(probability, real)))
        return torch.stack(costs).sum()

    def _feature_loss(self, x: Tensor, x_tilde: Tensor) -> Tensor:
        features, target = (self.networks.discriminator(images)[1][self.layer] for images in (x_tilde, x))
        loss: Tensor = ((features - target) ** 2).mean()
        return loss
