"""Write a page on which a person tells real slices from samples."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import claim

if TYPE_CHECKING:
    from vaegan_pl.data.datamodule import ImageFolders

log = logging.getLogger(__name__)

NAME = "blind_test.html"


def blind_test(config: DictConfig) -> None:
    """Pair random held-out images with samples, and write the page."""
    if not isinstance(config.pairs, int) or config.pairs < 1:
        raise UserError(f"pairs={config.pairs}: must be a whole number of at least 1")
    commands.check_seed(config.seed)
    path = commands.model_path(config.weights)
    output = Path(str(config.output))
    claim(output, NAME.replace(".", r"\."), config.overwrite)
    commands.import_torch()
    import numpy as np
    import torch
    from hydra.utils import instantiate

    from vaegan_pl.data.tensors import images_of
    from vaegan_pl.evaluation import reference
    from vaegan_pl.evaluation.features import held_out_images
    from vaegan_pl.hardware import pick_device
    from vaegan_pl.model import weights
    from vaegan_pl.report import blind_page
    from vaegan_pl.report.pictures import single

    model = weights.load(path).to(pick_device(config.accelerator))
    data: ImageFolders = instantiate(config.data, _convert_="all")
    data.prepare_data()
    reference.check_trained_on(path, model, data.source, data.decoding)
    held_out = held_out_images(data.collection)
    if len(held_out) < config.pairs:
        raise UserError(f"pairs={config.pairs}: only {len(held_out)} images are held out; lower pairs, or add images")
    random = np.random.default_rng(config.seed)
    chosen = random.choice(held_out, config.pairs, replace=False).tolist()
    real = [single(image) for image in images_of(data.collection, chosen)]
    generator = torch.Generator().manual_seed(config.seed)
    samples = [single(image) for image in model.sample(config.pairs, None, generator)]
    left = (random.random(config.pairs) < 0.5).tolist()
    page = blind_page.render(list(zip(real, samples, left, strict=True)), model.trained_on.caption)
    atomic_write(output / NAME, page, durable=False)
    log.info("open in a browser: %s", output / NAME)
