"""Fetch a model from the Hugging Face Hub: `python -m vaegan_pl.pull repo=USER/NAME output=DIR`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.pull import pull

if __name__ == "__main__":
    commands.run(pull, "pull")
