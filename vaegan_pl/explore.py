"""Explore models in the browser: `python -m vaegan_pl.explore weights=PATH`, or `'weights=[A,B]'` to compare."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.explore import explore

if __name__ == "__main__":
    commands.run(explore, "explore")
