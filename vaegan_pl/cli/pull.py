"""Fetch a model from the Hugging Face Hub: `python -m vaegan_pl.pull repo=USER/NAME output=DIR`."""

import logging
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl.cli import commands, hub
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import claim

log = logging.getLogger(__name__)

MOST_BYTES = 2**31
"""Larger model files are not downloaded."""


def pull(config: DictConfig) -> None:
    """Download a model file and its card, check the file, and write both into a folder.

    Raises:
        UserError: if the folder contains such files, the file is not a model, or the Hub refuses.
    """
    output, repo = Path(str(config.output)), str(config.repo)
    claim(output, r"vae_gan_model\.pth|model_card\.md", config.overwrite)
    api = hub.connect()
    commands.import_torch("torch")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    from vaegan_pl.model import weights
    from vaegan_pl.report.provenance import sha256

    revision = None if config.revision is None else str(config.revision)
    with tempfile.TemporaryDirectory(prefix="vaegan_pl-") as folder:
        with hub.hub_errors(repo):
            size = get_hf_file_metadata(hf_hub_url(repo, hub.MODEL, revision=revision, endpoint=api.endpoint)).size
            if size is None or size > MOST_BYTES:
                raise UserError(f"repo={repo}: {hub.MODEL} has more than {MOST_BYTES:,} bytes, or an unknown size")
            fetched = [
                Path(hf_hub_download(repo, name, revision=revision, local_dir=folder, endpoint=api.endpoint))
                for name in (hub.MODEL, hub.CARD)
            ]
        model = weights.load(fetched[0])
        written = output / hub.MODEL
        atomic_write(written, fetched[0].read_bytes())
        atomic_write(output / "model_card.md", fetched[1].read_bytes())
    log.info("%s: a %s trained on %s; SHA-256 %s", written, model.kind, model.trained_on.caption, sha256(written))
    log.info("The Hub does not check models; what this one's images show is only its author's claim")
    log.info("draw from it  python -m vaegan_pl.sample weights=%s", written)
