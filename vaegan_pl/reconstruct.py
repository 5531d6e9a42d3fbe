"""Reconstruct your own images with a model: `python -m vaegan_pl.reconstruct weights=PATH images=DIR output=DIR`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.reconstruct import reconstruct

if __name__ == "__main__":
    commands.run(reconstruct, "reconstruct")
