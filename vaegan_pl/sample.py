"""Draw images from a model: `python -m vaegan_pl.sample weights=PATH n=64 seed=0 output=DIR`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.sample import sample

if __name__ == "__main__":
    commands.run(sample, "sample")
