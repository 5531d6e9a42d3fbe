"""Look at a folder of images before training on it: `python -m vaegan_pl.inspect_data data=mri data.root=PATH`."""

import logging
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vaegan_pl.cli import checks, commands
from vaegan_pl.storage.outputs import claim

if TYPE_CHECKING:
    from vaegan_pl.data.datamodule import ImageFolders

NAMES = r"data_report\.(json|html)"
"""Names of the files that the command writes, as a regular expression."""

log = logging.getLogger(__name__)


def inspect_data(config: DictConfig) -> None:
    """Write `data_report.json` and `data_report.html`, and log the main numbers."""
    checks.check_folders(config)
    commands.import_torch()
    from hydra.utils import instantiate

    from vaegan_pl.report import data_report

    output = Path(str(config.output))
    claim(output, NAMES, config.overwrite)
    data: ImageFolders = instantiate(config.data, _convert_="all")
    data.prepare_data()
    started = monotonic()
    collection = data.collection
    read = monotonic()
    data_report.write(collection, output)
    log.info("%s, %s", data.source.caption, data.root.resolve())
    for line in collection.summary():
        log.info("%s", line)
    log.info("read, compared and split in %.1f s, reported in %.1f s", read - started, monotonic() - read)
    log.info("look at %s", output / data_report.PAGE)
