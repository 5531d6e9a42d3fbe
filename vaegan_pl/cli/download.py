"""Fetch the public dataset from Kaggle: `python -m vaegan_pl.download output=DIR` (needs the network)."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl.errors import UserError

log = logging.getLogger(__name__)


def download(config: DictConfig) -> None:
    """Download `dataset` into `output` and print the `data.root` to use.

    Raises:
        UserError: if kagglehub is not installed or the download fails; the message says how to do it by hand.
    """
    page = f"https://www.kaggle.com/datasets/{config.dataset}"
    by_hand = f"or download {page} by hand and unpack it into a folder for data.root"
    output = Path(str(config.output))
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UserError(f"output={output}: is not empty; download into a folder of its own")
    try:
        import kagglehub
    except ImportError as error:
        raise UserError(f"downloading needs kagglehub: run pip install -e '.[kaggle]', {by_hand}") from error
    try:
        folder = Path(kagglehub.dataset_download(str(config.dataset), output_dir=str(output)))
    except Exception as error:  # network, credentials or a damaged archive: the advice is the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = f"check the connection and try again with an empty output folder, {by_hand}"
        raise UserError(f"{config.dataset} could not be downloaded ({reason}); {advice}") from error
    log.info("train on it  python -m vaegan_pl.train data=mri data.root=%s", folder.resolve())
