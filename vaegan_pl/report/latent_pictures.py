"""Grids and animations of paths through a model's latent space."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vaegan_pl.inference import read_images
from vaegan_pl.model.latents import evenly, loop
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.report.pictures import grid, save_png
from vaegan_pl.report.provenance import words
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import MADE_BY

MILLISECONDS = 80
MOST_TILES = 8
"""Tiles in a row of an animation that shows several paths at once."""

Images = Float[Tensor, "image channel side side"]


@dataclass(frozen=True)
class Tour:
    """Images along a path through the latent space.

    Attributes:
        still: images in [-1, 1], row by row.
        columns: images in a row of `still`.
        frames: images in [-1, 1]; each frame is a set of tiles.
        tiles: tiles in a row of a frame.
        closed: whether the last frame leads back to the first; an open tour is shown forwards and backwards.
        caption: what the pictures show.
        originals: whether some of the images are the user's originals.
    """

    still: Images
    columns: int
    frames: Float[Tensor, "frame tile channel side side"]
    tiles: int
    closed: bool
    caption: str
    originals: bool = False

    def grid(self) -> Image.Image:
        """The still picture."""
        return grid(self.still, self.columns, self.caption)

    def animation(self) -> list[Image.Image]:
        """One picture per frame."""
        frames = self.frames if self.closed else torch.cat([self.frames, self.frames.flip(0)[1:-1]])
        return [grid(tiles, self.tiles, self.caption) for tiles in frames]


class Guide:
    """Makes tours of a model's latent space.

    Args:
        model: the model.
        seed: seed of the samples.
        frames: number of frames in an animation.
        columns: number of frames that a grid shows in a row.
    """

    def __init__(self, model: SavedModel, seed: int, frames: int, columns: int) -> None:
        self.model = model
        self.generator = torch.Generator().manual_seed(seed)
        self.frames = frames
        self.shown = evenly(min(columns, frames), frames)
        self.trained = f"Trained on {model.trained_on.caption}."

    def read(self, path: Path, most: int) -> Images:
        """Read at most `most` images of a file or folder as inputs of the model.

        Raises:
            UserError: if none can be read.
        """
        return read_images(path, self.model, most)[1]

    def between_samples(self, n: int, label: str | None) -> Tour:
        """Arcs between `n` pairs of samples, from the prior or from a class."""
        z, y = self.model.draw(2 * n, label, self.generator)
        arcs = self.model.interpolate(z[:n], z[n:], self.frames, None if y is None else y[:n])
        still = arcs[self.shown].transpose(0, 1).flatten(0, 1)
        caption = f"Between samples{_of(label)}. Synthetic. {self.trained}"
        return Tour(still, len(self.shown), arcs, min(n, MOST_TILES), False, caption)

    def between_images(self, first: Images, last: Images, label: str | None) -> Tour:
        """The arc between two images' posterior means.

        Raises:
            UserError: if the model has no encoder, or `label` is missing for a conditional model or given to another.
        """
        start, end = (self.model.encode(images, label) for images in (first, last))
        arc = self.model.interpolate(start, end, self.frames, label)
        still = torch.cat([first, *arc[self.shown], last])
        frames = torch.stack([torch.cat([first, *frame[None], last]) for frame in arc])
        caption = f"From one image to another. The originals are at the ends, the rest is synthetic. {self.trained}"
        return Tour(still, len(still), frames, 3, False, caption, originals=True)

    def walk(self, n: int, label: str | None) -> Tour:
        """`n` closed loops through samples, from the prior or from a class."""
        stops = max(2, self.frames // 8)
        z, y = self.model.draw(n * stops, label, self.generator)
        steps = -(-self.frames // stops)  # rounded up, so there can be a few more frames
        loops = torch.stack([loop(own, steps) for own in z.split(stops)], 1)
        frames = self.model.decode_frames(loops, None if y is None else y[:n])
        shown = evenly(len(self.shown), len(frames))
        still = frames[shown].transpose(0, 1).flatten(0, 1)
        caption = f"A walk through samples{_of(label)}. Synthetic. {self.trained}"
        return Tour(still, len(self.shown), frames, min(n, MOST_TILES), True, caption)

    def attributes(self, x: Images, label: str | None, strength: float) -> Tour:
        """Images, their reconstructions, and the images changed in the direction of each class.

        Args:
            x: the images.
            label: their class, if known. Directions start from its mean, otherwise from the mean of the other classes.
            strength: distance, in units of the difference of class means.

        Raises:
            UserError: if the model has no encoder, knows fewer than two classes, or does not know `label`.
        """
        model, told = self.model, label if self.model.is_conditional else None
        model.encoding_label(told)  # a GAN has no attributes
        directions = model.attribute_vectors(label)
        z = model.encode(x, told)
        along = strength * torch.linspace(0, 1, self.frames)[:, None, None]
        columns = [x.expand(self.frames, *x.shape), model.decode(z, told).expand(self.frames, *x.shape)]
        for name, direction in directions.items():
            y = torch.full((len(x),), model.labels.index(name)) if model.is_conditional else None
            columns.append(model.decode_frames(z + along * direction, y))
        frames = torch.stack(columns, 2).flatten(1, 2)
        away = "" if label is None else f" from {label}"
        words = ", ".join(f"{'as' if model.is_conditional else 'more'} {name}" for name in directions)
        caption = (
            f"From the left: original, reconstruction, {words} (strength {strength:g}{away}). "
            f"All but the originals are synthetic. {self.trained}"
        )
        return Tour(frames[-1], len(columns), frames, len(columns), False, caption, originals=True)


def _of(label: str | None) -> str:
    return "" if label is None else f" of {label}"


def write(tour: Tour, path: Path, model: SavedModel) -> list[Path]:
    """Write the grid and the animation as `PATH.png` and `PATH.gif`; returns both paths.

    Raises:
        OSError: if that fails.
    """
    still, moving = path.with_suffix(".png"), path.with_suffix(".gif")
    provenance = f"original images next to {words(model)}" if tour.originals else words(model)
    save_png(tour.grid(), still, provenance)
    atomic_write(moving, gif(tour, provenance), durable=False)
    return [still, moving]


def gif(tour: Tour, provenance: str) -> bytes:
    """The animation as a GIF, with its provenance as a comment."""
    first, *rest = tour.animation()
    buffer = BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=MILLISECONDS,
        loop=0,
        comment=f"{MADE_BY}: {provenance}".encode(),
    )
    return buffer.getvalue()
