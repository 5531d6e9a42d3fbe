"""Tell real slices from samples by eye: `python -m vaegan_pl.blind_test weights=PATH data=mri data.root=PATH`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.blind_test import blind_test

if __name__ == "__main__":
    commands.run(blind_test, "blind_test")
