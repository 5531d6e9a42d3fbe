"""The inputs of one iteration: images and random numbers."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vaegan_pl.model.networks import Labels

Images = Float[Tensor, "batch channel side side"]
Latents = Float[Tensor, "batch latent"]
Scalar = Float[Tensor, ""]


@dataclass(frozen=True)
class Batch:
    """A mini-batch of real images.

    Attributes:
        x: the images, in [-1, 1].
        y: their class indices, for conditional networks.
        step: index of the training step, from 0.
    """

    x: Images
    y: Labels | None = None
    step: int = 0


@dataclass(frozen=True)
class Noise:
    """The random numbers of an iteration.

    Attributes:
        epsilon: standard normal noise of the reparameterisation z = mu + sigma * epsilon.
        z_p: samples of the prior N(0, I).
        uniform: numbers in [0, 1), `GenerativeModel.uniform` for each image; None if the model needs none.
    """

    epsilon: Latents
    z_p: Latents
    uniform: Float[Tensor, "batch draw"] | None = None
