"""Explore the latent space of a model: `python -m vaegan_pl.latent weights=PATH tool=interpolate output=DIR`.

`tool=interpolate` goes from one image to another (`images=[A,B]`) or between samples, `tool=attributes` turns your
images (`images=PATH`) into each class, `tool=walk` moves through samples. Each writes a grid and an animation.
"""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig

from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.storage.outputs import claim

if TYPE_CHECKING:
    from vaegan_pl.report.latent_pictures import Guide, Tour

log = logging.getLogger(__name__)

TOOLS = ("interpolate", "attributes", "walk")
MOST_IMAGES = 16


def latent(config: DictConfig) -> None:
    """Write `TOOL.png` and `TOOL.gif`."""
    if config.tool not in TOOLS:
        raise UserError(f"tool={config.tool}: must be one of {', '.join(TOOLS)}")
    for name, least in (("n", 1), ("frames", 2), ("columns", 2)):
        if config[name] < least:
            raise UserError(f"{name}={config[name]}: must be at least {least}")
    commands.check_seed(config.seed)
    if not math.isfinite(config.strength):
        raise UserError(f"strength={config.strength}: must be a finite number, such as 1")
    path = commands.model_path(config.weights)
    commands.import_torch("torchvision")
    from vaegan_pl.hardware import pick_device
    from vaegan_pl.model import weights
    from vaegan_pl.report import latent_pictures

    output = Path(str(config.output))
    claim(output, rf"{config.tool}\.(png|gif)", config.overwrite)
    model = weights.load(path).to(pick_device(config.accelerator))
    tour = _tour(config, latent_pictures.Guide(model, config.seed, config.frames, config.columns))
    for path in latent_pictures.write(tour, output / config.tool, model):
        log.info("%s", path)


def _tour(config: DictConfig, guide: "Guide") -> "Tour":
    label = None if config.label is None else str(config.label)
    if config.tool == "walk":
        return guide.walk(config.n, label)
    if config.tool == "attributes":
        if config.images is None:
            raise UserError("images: tool=attributes needs an image or a folder of images; add images=PATH")
        if isinstance(config.images, ListConfig):
            raise UserError(f"images={config.images}: attributes takes one image or one folder; give images=PATH")
        return guide.attributes(guide.read(Path(str(config.images)), MOST_IMAGES), label, config.strength)
    if config.images is None:
        return guide.between_samples(config.n, label)
    named = config.images if isinstance(config.images, ListConfig) else []
    if len(named) != 2:
        raise UserError(f"images={config.images}: interpolate needs two images; give images=[A,B]")
    first, last = (guide.read(Path(str(name)), 1) for name in named)
    return guide.between_images(first, last, label)
