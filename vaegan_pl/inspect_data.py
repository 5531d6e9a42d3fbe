"""Look at a folder of images before training on it: `python -m vaegan_pl.inspect_data data=mri data.root=PATH`."""

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from vaegan_pl import commands
from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.report import data_report

log = logging.getLogger(__name__)


def inspect_data(config: DictConfig) -> None:
    """Write `data_report.json` and `data_report.html`, and say the main figures."""
    data: ImageFolders = instantiate(config.data, _convert_="all")
    data.prepare_data()
    output = Path(str(config.output))
    data_report.write(data.collection, output)
    log.info("%s, %s", data.source.caption, data.root.resolve())
    for line in data.collection.summary():
        log.info("%s", line)
    log.info("look at %s", output / data_report.PAGE)


if __name__ == "__main__":
    commands.run(inspect_data, "inspect_data")
