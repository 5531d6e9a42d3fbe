"""Explore the latent space of a model: `python -m vaegan_pl.latent weights=PATH tool=interpolate output=DIR`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.latent import latent

if __name__ == "__main__":
    commands.run(latent, "latent")
