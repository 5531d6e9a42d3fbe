"""Draw images from a model file: `python -m vaegan_pl.sample weights=PATH n=64 seed=0 output=DIR`.

`label=CLASS` draws from one class, `n_per_class=N` writes class folders to train on, and `audit=true`, with the
data options of the training run, redraws samples that copy a training image.
"""

import json
import logging
import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import MADE_BY, claim, remove

if TYPE_CHECKING:
    from vaegan_pl.data.datamodule import ImageFolders
    from vaegan_pl.model.batch import Images

log = logging.getLogger(__name__)


def sample(config: DictConfig) -> None:
    """Decode draws into single images and one grid."""
    by_class = config.n_per_class is not None
    n = config.n_per_class if by_class else config.n
    if not isinstance(n, int) or n < 1:
        raise UserError(f"{'n_per_class' if by_class else 'n'}={n}: must be a whole number of at least 1")
    if by_class and config.label is not None:
        raise UserError("label, n_per_class: use only one of them; n_per_class draws every class")
    commands.check_seed(config.seed)
    if not 0 <= config.temperature < math.inf:
        raise UserError(f"temperature={config.temperature}: must be a number of at least 0; 1 is as trained")
    path = commands.model_path(config.weights)
    commands.import_torch("lightning.pytorch" if config.audit else "torchvision")
    import torch
    from hydra.utils import instantiate

    from vaegan_pl.data.phantoms import PHANTOM_MARKER, is_phantoms
    from vaegan_pl.hardware import pick_device
    from vaegan_pl.model import weights
    from vaegan_pl.progress import track
    from vaegan_pl.report import provenance
    from vaegan_pl.report.pictures import grid, save_png, single, titled_rows

    output = Path(str(config.output))
    model = weights.load(path).to(pick_device(config.accelerator))
    prior = model.density(config.prior)
    if prior != config.prior:
        log.info("the file contains no density fitted to images: samples are drawn from N(0, I)")
    generator = torch.Generator().manual_seed(config.seed)
    if (by_class or config.audit) and any(output.rglob("*.png")):
        raise UserError(f"output={output}: already contains pictures; a set to share needs a folder of its own")
    labels = model.labels if by_class else [None if config.label is None else str(config.label)]
    folders = {label: output / label if by_class and label else output for label in labels}
    earlier = [
        path
        for label, folder in folders.items()
        for path in claim(folder, rf"{re.escape(label or 'sample')}_\d{{5,}}\.png", config.overwrite)
    ]
    if is_phantoms(output):
        raise UserError(f"output={output}: contains phantoms to train on; write into another folder")
    claim(output, rf"grid\.png|{provenance.NAME}|{PHANTOM_MARKER}", config.overwrite)
    made_from = provenance.words(model)
    facts = provenance.facts(path, provenance.sha256(path), model, config.seed, config.temperature, prior)
    if config.audit:
        from vaegan_pl.evaluation import privacy, reference

        data: ImageFolders = instantiate(config.data, _convert_="all")
        data.prepare_data()
        reference.check_trained_on(path, model, data.source, data.decoding)
        detector, calibration = reference.copy_audit(data.collection, model.device, data.cache)
        facts["audit"] = {**vars(calibration), "rejected": {}}

    shown: dict[str, Images] = {}
    written = []
    for label, folder in folders.items():
        name = label or "sample"
        drawn = partial(model.sample, label=label, seed=generator, temperature=config.temperature, prior=prior)
        if config.audit:
            images, rejected = privacy.without_copies(drawn, n, detector, calibration.threshold)
            facts["audit"]["rejected"][name] = rejected
            log.info("%s: %d of %d draws were rejected as copies of training images", name, rejected, n + rejected)
        else:
            images = drawn(n)
        for i, image in enumerate(track(images, f"writing {name}", "image")):
            written.append(folder / f"{name}_{i:05d}.png")
            save_png(single(image), written[-1], made_from)
        facts["images"][name] = n
        shown[name] = images[:16] if by_class else images
    caption = f"Synthetic, {provenance.DRAWN[prior]}, seed {config.seed}. Trained on {model.trained_on.caption}."
    remove(earlier, written)
    if by_class:
        sheet = titled_rows(shown, caption, 8)
    else:
        sheet = grid(shown.popitem()[1], 8, f"{config.label}: {caption}" if config.label else caption)
    save_png(sheet, output / "grid.png", made_from)
    atomic_write(output / provenance.NAME, json.dumps(facts, indent=2, ensure_ascii=False), durable=False)
    if model.trained_on.is_phantom:
        marker = {"made_by": MADE_BY, "sampled_from": str(path)}
        atomic_write(output / PHANTOM_MARKER, json.dumps(marker), durable=False)
    else:
        (output / PHANTOM_MARKER).unlink(missing_ok=True)
    total = n * len(labels)
    log.info("%d images, %s, from a model trained on %s", total, provenance.DRAWN[prior], model.trained_on.caption)
    log.info("%s", output / "grid.png")
