"""What the page does with one model: sample, encode, edit, interpolate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.data.images import UNREADABLE
from vaegan_pl.errors import UserError
from vaegan_pl.inference import read_image
from vaegan_pl.model.latents import evenly
from vaegan_pl.model.networks import Labels
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.report import provenance
from vaegan_pl.report.latent_pictures import Tour
from vaegan_pl.report.pictures import grid, png, single

DIRECTIONS = 6
"""Number of leading directions that the page offers."""

FRAMES, COLUMNS = 24, 8

Images = Float[Tensor, "image channel side side"]


@dataclass(frozen=True)
class Samples:
    """Samples in [-1, 1], with their latents and, for conditional models, class indices."""

    images: Images
    z: Float[Tensor, "image latent"]
    y: Labels | None


@dataclass(frozen=True)
class Point:
    """A point in a model's latent space.

    Attributes:
        z: the latent.
        label: the class for a conditional decoder; None for others.
        image: the image that was encoded; None for a sample.
    """

    z: Float[Tensor, "1 latent"]
    label: str | None
    image: Images | None


@dataclass(frozen=True)
class Studio:
    """A model on the page.

    Attributes:
        name: the name that the page shows.
        path: the model file.
        sha256: the digest of the file when it was loaded.
        model: the model.
    """

    name: str
    path: Path
    sha256: str
    model: SavedModel

    @property
    def labels(self) -> list[str]:
        """The classes that can be sampled; empty if the model knows none."""
        return self.model.labels if self.model.knows_classes else []

    @property
    def directed(self) -> list[str]:
        """The classes towards which images can be changed."""
        means = self.model.class_means
        return list(means) if len(means) > 1 else []

    @property
    def directions(self) -> int:
        """Number of leading directions."""
        return len(self._leading)

    @cached_property
    def _leading(self) -> Float[Tensor, "direction latent"]:
        return self.model.leading_directions(DIRECTIONS)

    def draw(self, label: str | None, n: int, seed: int, temperature: float) -> Samples:
        """Draw the same samples as `python -m vaegan_pl.sample` with the same options.

        Args:
            label: the class; None draws from all.
            n: how many.
            seed: the seed.
            temperature: see `SavedModel.draw`.
        """
        z, y = self.model.draw(n, label, torch.Generator().manual_seed(seed), temperature)
        return Samples(self.model.decode(z, y), z, y)

    def point(self, samples: Samples, i: int) -> Point:
        """The point of one of the samples."""
        label = None if samples.y is None else self.model.trained_on.classes[int(samples.y[i])]
        return Point(samples.z[i : i + 1], label, None)

    def encoded(self, path: Path, label: str | None) -> Point:
        """Encode an image file to its posterior mean.

        Args:
            path: the file.
            label: its class; required by conditional models, ignored by others.

        Raises:
            UserError: if it cannot be read, the model has no encoder, or the class is missing.
        """
        told = label if self.model.is_conditional else None
        self.model.encoding_label(told)  # before the file is read
        try:
            x = read_image(path, self.model)[None]
        except UNREADABLE as error:
            reason = str(error).replace(str(path), path.name)
            raise UserError(f"{path.name}: cannot be read ({reason}); use an intact image file") from error
        return Point(self.model.encode(x, told), told, x)

    def decoded(self, point: Point) -> Images:
        """Decode a point: a sample, or the reconstruction of an image."""
        return self.model.decode(point.z, self._told(point))

    def moved(self, point: Point, towards: Mapping[str, float], along: Sequence[float]) -> Point:
        """Move a point.

        Args:
            point: the start.
            towards: factor of the attribute vector of each class in `directed`.
            along: distance along each leading direction, in standard deviations of the prior.
        """
        n = min(len(along), self.directions)
        z = point.z + torch.tensor([list(along[:n])], dtype=point.z.dtype) @ self._leading[:n]
        vectors = self.model.attribute_vectors() if towards else {}
        for name, strength in towards.items():
            z = z + strength * vectors[name]
        return Point(z, point.label, point.image)

    def between(self, start: Point, end: Point) -> Tour:
        """The arc from one point to another, with the encoded images at its ends.

        Raises:
            UserError: if the model is conditional and the points have different classes.
        """
        if start.label != end.label:
            raise UserError(f"one end is {start.label}, the other {end.label}: this model needs both ends in one class")
        frames = self.model.interpolate(start.z, end.z, FRAMES, self._told(start))
        shown = frames[evenly(COLUMNS, FRAMES)].flatten(0, 1)
        ends = [[] if point.image is None else [point.image] for point in (start, end)]
        named = " and ".join(name for name, end in zip(("first", "last"), ends, strict=True) if end)
        still = torch.cat([*ends[0], shown, *ends[1]])
        caption = f"{f'Original: the {named} image. ' if named else ''}{self._source}"
        return Tour(still, len(still), frames, 1, False, caption)

    def sheet(self, images: Images, words: str) -> bytes:
        """A PNG of samples in rows of eight, above a caption."""
        return png(grid(images, min(COLUMNS, len(images)), f"{words}. {self._source}"), provenance.words(self.model))

    def class_folders(self, n: int, seed: int, temperature: float) -> bytes:
        """A ZIP with a folder of `n` samples for each class, and `provenance.json`.

        Raises:
            UserError: if the model knows no classes.
        """
        facts = provenance.facts(self.path, self.sha256, self.model, seed, temperature, self.model.density())
        facts["images"] = dict.fromkeys(self.model.labels, n)
        generator = torch.Generator().manual_seed(seed)
        buffer = BytesIO()
        with ZipFile(buffer, "w", ZIP_STORED) as file:
            for label in self.model.labels:
                for i, image in enumerate(self.model.sample(n, label, generator, temperature)):
                    content = png(single(image), provenance.words(self.model))
                    file.writestr(f"{label}/{label}_{i:05d}.png", content)
            words = json.dumps(facts, indent=2, ensure_ascii=False)
            file.writestr(provenance.NAME, words.encode(errors="backslashreplace"))
        return buffer.getvalue()

    @property
    def _source(self) -> str:
        return f"Synthetic, not for diagnosis. Trained on {self.model.trained_on.caption}."

    def _told(self, point: Point) -> str | None:
        if self.model.is_conditional and point.label is None:
            raise UserError("choose the image's class: this model needs it")
        return point.label if self.model.is_conditional else None
