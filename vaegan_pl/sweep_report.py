"""What a sweep found so far: `python -m vaegan_pl.sweep_report sweep=DIR`."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl import commands, jobs

log = logging.getLogger(__name__)


def sweep_report(config: DictConfig) -> None:
    """Write `sweep.csv`, `sweep.json` and `sweep.html` into a sweep's directory."""
    from vaegan_pl.report import sweep_report as report

    directory = Path(str(config.sweep))
    for path in report.write(jobs.in_directory(directory), directory):
        log.info("%s", path)


if __name__ == "__main__":
    commands.run(sweep_report, "sweep_report")
