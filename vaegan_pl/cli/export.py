"""Write a model for other programs: `python -m vaegan_pl.export weights=PATH format=onnx output=DIR`."""

import hashlib
import logging
import re
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.storage.outputs import MADE_BY, claim

log = logging.getLogger(__name__)

FORMATS = ("safetensors", "onnx", "pt2", "decoder")


def export(config: DictConfig) -> None:
    """Write the networks and where to draw z, or a model file of the decoder alone; print what the format changes."""
    if config.format not in FORMATS:
        raise UserError(f"format={config.format}: must be one of {', '.join(FORMATS)}")
    path = commands.model_path(config.weights)
    commands.import_torch("torch")
    from vaegan_pl.model import exports, sharing, weights

    output = Path(str(config.output))
    if config.format == "decoder":
        claim(output, re.escape(sharing.NAME), config.overwrite)
        levels = sharing.save_decoder(output / sharing.NAME, weights.load(path))
        log.info("%s: the decoder and the density that sample draws z from", output / sharing.NAME)
        log.info("Half precision changes the grey values of samples by %.2f of 255 at most (root mean square)", levels)
        return
    claim(output, rf"(encoder|decoder)\.{config.format}|density\.npz", config.overwrite)
    model = weights.load(path)
    metadata = {
        "what": f"part of a {model.kind}; its images are synthetic, and not for diagnosis",
        "made_by": MADE_BY,
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "networks": model.networks.arguments,
        "preprocessing": dict(model.preprocessing),
        "trained_on": model.trained_on.plain,
    }
    written = exports.export(model.networks.float(), config.format, output, metadata)
    for file, difference in written.items():
        log.info("%s: outputs differ from PyTorch's by %.1e at most, in batches of 1, 3 and 16", file, difference)
    if model.mixtures is not None:
        log.info(
            "%s: the density that sample draws z from; docs/using.md shows its use",
            exports.export_density(model.mixtures, model.trained_on.counts["train"], output),
        )
    else:
        log.info("Draw z from N(0, I): the model file contains no fitted density")
