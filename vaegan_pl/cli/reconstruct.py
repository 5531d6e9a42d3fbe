"""Reconstruct your own images with a model: `python -m vaegan_pl.reconstruct weights=PATH images=DIR output=DIR`."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.storage.outputs import claim, remove

log = logging.getLogger(__name__)


def reconstruct(config: DictConfig) -> None:
    """Decode every image's posterior mean; write the images, and a grid of originals above reconstructions."""
    if config.shown < 1:
        raise UserError(f"shown={config.shown}: must be at least 1")
    output = Path(str(config.output))
    earlier = claim(output, r"reconstruction_\d{5,}_.*\.png", config.overwrite)
    claim(output, r"grid\.png", config.overwrite)
    path = commands.model_path(config.weights)
    commands.import_torch()
    from torchmetrics.functional.image import peak_signal_noise_ratio

    from vaegan_pl.hardware import pick_device
    from vaegan_pl.inference import read_images
    from vaegan_pl.model import weights
    from vaegan_pl.progress import track
    from vaegan_pl.report.pictures import pairs, save_png, single

    model = weights.load(path).to(pick_device(config.accelerator))
    label = None if config.label is None else str(config.label)
    model.encoding_label(label)  # before images are read
    names, x = read_images(Path(str(config.images)), model)
    x_tilde = model.reconstruct(x, label)
    provenance = f"reconstruction; trained on {model.trained_on.caption}"
    written = [output / f"reconstruction_{i:05d}_{name}.png" for i, name in enumerate(names)]
    for path, image in zip(track(written, "writing images", "image"), x_tilde, strict=True):
        save_png(single(image), path, provenance)
    remove(earlier, written)
    psnr = peak_signal_noise_ratio(x_tilde, x, data_range=2.0).item()
    caption = f"Originals above their reconstructions, PSNR {psnr:.1f} dB. Trained on {model.trained_on.caption}."
    save_png(pairs(x[: config.shown], x_tilde[: config.shown], caption), output / "grid.png", provenance)
    log.info("%d images, PSNR %.1f dB; model trained on %s", len(x), psnr, model.trained_on.caption)
    log.info("look at %s", output / "grid.png")
