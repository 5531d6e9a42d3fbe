"""Publish a model on the Hugging Face Hub: `python -m vaegan_pl.push weights=PATH repo=USER/NAME`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.push import push

if __name__ == "__main__":
    commands.run(push, "push")
