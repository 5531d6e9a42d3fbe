"""What a sweep found so far: `python -m vaegan_pl.sweep_report sweep=DIR`."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl.sweeps import driver, jobs

log = logging.getLogger(__name__)


def sweep_report(config: DictConfig) -> None:
    """Write `sweep.csv`, `sweep.json` and `sweep.html` into a sweep's directory."""
    directory = Path(str(config.sweep))
    for path in driver.write_report(directory, jobs.in_directory(directory), config.overwrite):
        log.info("%s", path)
