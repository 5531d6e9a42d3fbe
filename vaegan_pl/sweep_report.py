"""Report on a sweep, finished or not: `python -m vaegan_pl.sweep_report sweep=DIR`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.sweep_report import sweep_report

if __name__ == "__main__":
    commands.run(sweep_report, "sweep_report")
