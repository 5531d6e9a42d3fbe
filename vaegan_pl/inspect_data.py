"""Look at a folder of images before training on it: `python -m vaegan_pl.inspect_data data=mri data.root=PATH`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.inspect_data import inspect_data

if __name__ == "__main__":
    commands.run(inspect_data, "inspect_data")
