"""Report on a sweep, finished or not: `python -m vaegan_pl.sweep_report sweep=DIR`."""

from pathlib import Path

from omegaconf import DictConfig

from vaegan_pl.sweeps import bookkeeping, jobs


def sweep_report(config: DictConfig) -> None:
    """Write `sweep.csv`, `sweep.json`, `sweep.png` and `sweep.html` into a sweep's directory, and name the winner."""
    directory = Path(str(config.sweep))
    bookkeeping.report(directory, jobs.in_directory(directory), config.overwrite)
