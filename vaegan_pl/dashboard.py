"""A W&B workspace for this project's runs: `python -m vaegan_pl.dashboard entity=NAME project=NAME`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.dashboard import dashboard

if __name__ == "__main__":
    commands.run(dashboard, "dashboard")
