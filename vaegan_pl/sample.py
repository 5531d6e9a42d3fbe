"""Draw images from a model file: `python -m vaegan_pl.sample weights=PATH n=64 seed=0 output=DIR`."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl import commands
from vaegan_pl.errors import UserError

log = logging.getLogger(__name__)


def sample(config: DictConfig) -> None:
    """Decode `n` draws from the prior N(0, I) into single images and one grid."""
    if config.n < 1:
        raise UserError(f"n={config.n}: must be at least 1")
    import torch

    from vaegan_pl.hardware import pick_device
    from vaegan_pl.inference import clear, in_batches
    from vaegan_pl.model import weights
    from vaegan_pl.report.pictures import grid, save_png, single

    model = weights.load(Path(str(config.weights)))
    device = pick_device(config.accelerator)
    z = torch.randn(config.n, model.networks.latent_dim, generator=torch.Generator().manual_seed(config.seed))
    images = in_batches(model.networks.decoder.to(device), z, device, "sampling")

    output, provenance = Path(str(config.output)), f"synthetic; trained on {model.trained_on['caption']}"
    clear(output, "sample")
    for i, image in enumerate(images):
        save_png(single(image), output / f"sample_{i:05d}.png", provenance)
    caption = f"Synthetic, seed {config.seed}. Trained on {model.trained_on['caption']}."
    save_png(grid(images, 8, caption), output / "grid.png", provenance)
    log.info("%d images, trained on %s: %s", config.n, model.trained_on["caption"], output / "grid.png")


if __name__ == "__main__":
    commands.run(sample, "sample")
