"""A model loaded from its file, and everything that can be done with it: draw, encode, decode, interpolate, edit."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.errors import UserError
from vaegan_pl.model import latents
from vaegan_pl.model.batch import Images, Latents
from vaegan_pl.model.mixtures import ClassMixtures
from vaegan_pl.model.networks import Labels, Networks
from vaegan_pl.model.running import in_batches, posteriors
from vaegan_pl.model.trained_on import TrainedOn

KINDS = ("VAE/GAN", "VAE", "GAN")
"""All kinds of model."""

FITTED, NORMAL = "fitted", "normal"
PRIORS = (FITTED, NORMAL)
"""What to draw z from: the density fitted to the posteriors of the training images, or N(0, I), as in training."""

Vector = Float[Tensor, " latent"]


@dataclass(frozen=True)
class SavedModel:
    """A model loaded from its file.

    Images are in [-1, 1] and have the networks' size. All methods return tensors on the CPU, and raise `UserError` if
    the networks output NaN or infinity.

    Attributes:
        networks: whichever of encoder, decoder and discriminator the model has, in evaluation mode.
        preprocessing: how images become inputs: image_size, colour, resize, aspect_ratio, white, grey_range, range.
        trained_on: the training images.
        training: epochs, batches and hyperparameters, for the record.
        mixtures: where each class lies in the latent space; None in files of unfinished runs and of earlier versions.
    """

    networks: Networks
    preprocessing: Mapping[str, Any]
    trained_on: TrainedOn
    training: Mapping[str, Any]
    mixtures: ClassMixtures | None = None

    @property
    def kind(self) -> str:
        """The kind of model: VAE/GAN, VAE or GAN."""
        return str(self.training.get("model", KINDS[0]))

    @property
    def has_encoder(self) -> bool:
        """Whether images can be encoded; a GAN, or a decoder alone, can only be sampled."""
        return "encoder" in self.networks.names

    @property
    def is_conditional(self) -> bool:
        """Whether encoder and decoder take the class as an input."""
        return self.networks.classes > 0

    @property
    def knows_classes(self) -> bool:
        """Whether classes can be sampled."""
        return self.mixtures is not None or self.is_conditional

    @property
    def labels(self) -> list[str]:
        """The classes that can be sampled.

        Raises:
            UserError: if the file contains none.
        """
        if self.mixtures is not None:
            return list(self.mixtures)
        if self.is_conditional:
            return list(self.trained_on.classes)
        if not self.has_encoder:
            raise UserError("weights: the file contains no encoder, so it has no classes to sample from")
        raise UserError("weights: the file contains no classes to sample from; a run adds them when it ends")

    @property
    def device(self) -> torch.device:
        """The device that the networks are on."""
        return next(self.networks.parameters()).device

    def to(self, device: torch.device | str) -> "SavedModel":
        """Move the networks to a device; returns the same model."""
        self.networks.to(device)
        return self

    def density(self, prior: str = FITTED) -> str:
        """The density that `draw` uses: `prior`, or `normal` if the file contains no fitted one.

        Raises:
            UserError: if the prior is unknown.
        """
        if prior not in PRIORS:
            raise UserError(f"prior={prior}: must be one of {', '.join(PRIORS)}")
        return NORMAL if self.mixtures is None else prior

    def sample(
        self,
        n: int,
        label: str | None = None,
        seed: int | torch.Generator = 0,
        temperature: float = 1.0,
        prior: str = FITTED,
    ) -> Images:
        """Decode `n` draws.

        Args:
            n: number of images.
            label: class to draw from; see `draw`.
            seed: the seed, or a generator on the CPU.
            temperature: see `draw`.
            prior: see `draw`.

        Raises:
            UserError: as `draw` does.
        """
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        z, y = self.draw(n, label, generator, temperature, prior)
        z = z.to(next(self.networks.parameters()).dtype)
        return in_batches(self.networks.decoder, z, y, self.device, f"sampling {label or ''}".strip())

    def draw(
        self, n: int, label: str | None, generator: torch.Generator, temperature: float = 1.0, prior: str = FITTED
    ) -> tuple[Latents, Labels | None]:
        """Draw `n` latents and, for conditional networks, their class indices.

        Args:
            n: number of latents.
            label: class to draw from; None draws from all, in the proportions of the training images.
            generator: the random generator, on the CPU.
            temperature: factor on the deviations from the mean (in a mixture, from the mean of each component); below
                1, samples are more alike.
            prior: `fitted` draws from the mixtures of the classes, or from N(0, I) if the file contains none (a GAN, an
                unfinished run, or an earlier version); `normal` draws from N(0, I), the prior in training.

        Raises:
            UserError: if the model does not know the class, the prior is unknown, or N(0, I) is asked for a class of a
                model that is not conditional.
        """
        density = self.density(prior)
        self._check_known(label)
        if prior == NORMAL and label is not None and not self.is_conditional:
            raise UserError(f"label={label}: N(0, I) has no classes; leave out label or prior=normal")
        of_one = None if label is None else torch.full((n,), self.labels.index(label))
        if density == NORMAL or self.mixtures is None:
            z = temperature * torch.randn(n, self.networks.latent_dim, generator=generator)
            if not self.is_conditional:
                return z, None
            return z, self.draw_classes(n, generator) if of_one is None else of_one
        y = self.draw_classes(n, generator) if of_one is None else of_one
        z = torch.empty(n, self.networks.latent_dim)
        for index in y.unique().tolist():
            own = y == index
            z[own] = self.mixtures[self.labels[index]].sample(int(own.sum()), generator, temperature)
        return z, y if self.is_conditional else None

    def draw_classes(self, n: int, generator: torch.Generator) -> Labels:
        """Draw `n` indices into `labels` in the proportions of the training images."""
        counts = self.trained_on.counts["train"]
        shares = torch.tensor([float(counts[name]) for name in self.labels])
        return torch.multinomial(shares, n, replacement=True, generator=generator)

    def encode(self, x: Images, label: str | Labels | None = None) -> Latents:
        """Encode images to their posterior means.

        Args:
            x: images.
            label: their class, or class indices; required by conditional models.

        Raises:
            UserError: as `encoding_label` does.
        """
        y = self._encoding_labels(label, len(x))
        return in_batches(lambda x, y: self.networks.encoder(x, y)[0], x, y, self.device, "encoding")

    def posteriors(self, x: Images, y: Labels | None) -> tuple[Latents, Latents]:
        """The means and the logarithms of the variances of images' posteriors.

        Args:
            x: images.
            y: their class indices; required by conditional models, ignored by others.

        Raises:
            UserError: if the model has no encoder.
        """
        self._check_encoder()
        return posteriors(self.networks.encoder, x, y, self.device, "encoding")

    def decode(self, z: Latents, label: str | Labels | None = None) -> Images:
        """Decode latents to images.

        Args:
            z: latents.
            label: their class, or class indices; required by conditional models, ignored by others.

        Raises:
            UserError: if a conditional model is not given one of its classes.
        """
        return in_batches(self.networks.decoder, z, self._labels(label, len(z)), self.device, "decoding")

    def reconstruct(self, x: Images, label: str | Labels | None = None) -> Images:
        """Decode the posterior means of images; arguments and errors as for `encode`."""
        y, networks = self._encoding_labels(label, len(x)), self.networks
        return in_batches(
            lambda x, y: networks.decoder(networks.encoder(x, y)[0], y), x, y, self.device, "reconstructing"
        )

    def interpolate(
        self, start: Latents, end: Latents, steps: int, label: str | Labels | None = None
    ) -> Float[Tensor, "step batch channel side side"]:
        """Decode `steps` points on the arc from each start to its end, both included; see `latents.slerp`.

        Args:
            start: latents at which the arcs begin.
            end: as many latents, at which they end.
            steps: number of points on each arc.
            label: the class of each arc, as for `decode`.
        """
        arcs = latents.slerp(start, end, torch.linspace(0, 1, steps)).transpose(0, 1)
        return self.decode_frames(arcs, self._labels(label, len(start)))

    def decode_frames(
        self, z: Float[Tensor, "step batch latent"], y: Labels | None
    ) -> Float[Tensor, "step batch channel side side"]:
        """Decode the latents of several frames; `y` holds the class indices of one frame, for conditional models."""
        steps, n = z.shape[:2]
        images: Tensor = self.decode(z.flatten(0, 1), None if y is None else y.repeat(steps)).unflatten(0, (steps, n))
        return images

    @cached_property
    def class_means(self) -> Mapping[str, Vector]:
        """The mean of z over the training images of each class; empty if the file contains no mixtures."""
        return {} if self.mixtures is None else latents.class_means(self.mixtures)

    def attribute_vectors(self, away_from: str | None = None) -> dict[str, Vector]:
        """The directions in the latent space that make an image more like each class (paper, section 4.1.1).

        Args:
            away_from: the class to start from; None starts from the mean of all other classes, in the proportions of
                the training images.

        Returns:
            Differences of means by class, without `away_from`: a factor of 1 goes from one mean to the other.

        Raises:
            UserError: if the model does not know the class, or knows fewer than two.
        """
        if len(self.labels) < 2 or self.mixtures is None:
            raise UserError("weights: attribute vectors lead from one class to another; the file must have two classes")
        self._check_known(away_from)
        means = self.class_means
        if away_from is not None:
            return {name: mean - means[away_from] for name, mean in means.items() if name != away_from}
        counts = {name: float(self.trained_on.counts["train"][name]) for name in means}
        return {name: latents.attribute_vector(means, name, counts) for name in means}

    def leading_directions(self, n: int) -> Float[Tensor, "direction latent"]:
        """The `n` directions in the latent space that change images most; see `latents.leading_directions`."""
        return latents.leading_directions(self.networks.decoder, n).cpu()

    def encoding_label(self, label: str | None) -> int | None:
        """The class index that encoding images needs; None for models that are not conditional.

        Raises:
            UserError: if the model has no encoder, is conditional and the label is not one of its classes, or is not
                conditional and there is a label.
        """
        self._check_encoder()
        if label is not None and not self.is_conditional:
            raise UserError(f"label={label}: the model is not conditional; leave label out")
        return self._index(label)

    def _encoding_labels(self, label: str | Labels | None, n: int) -> Labels | None:
        if isinstance(label, Tensor):
            self._check_encoder()
        else:
            self.encoding_label(label)
        return self._labels(label, n)

    def _labels(self, label: str | Labels | None, n: int) -> Labels | None:
        if isinstance(label, Tensor):
            return label
        index = self._index(label)
        return None if index is None else torch.full((n,), index)

    def _index(self, label: str | None) -> int | None:
        if not self.is_conditional:
            return None
        classes = self.trained_on.classes
        if label not in classes:
            given = "label" if label is None else f"label={label}"
            raise UserError(f"{given}: the model is conditional; give the images' class, {' or '.join(classes)}")
        return classes.index(label)

    def _check_known(self, label: str | None) -> None:
        if label is not None and label not in self.labels:
            raise UserError(f"label={label}: must be one of the model's classes: {', '.join(self.labels)}")

    def _check_encoder(self) -> None:
        if not self.has_encoder:
            raise UserError("weights: the file contains no encoder; the model can only be sampled")
