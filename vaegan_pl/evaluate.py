"""Measure a model: `python -m vaegan_pl.evaluate weights=PATH data=mri data.root=PATH`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.evaluate import evaluate

if __name__ == "__main__":
    commands.run(evaluate, "evaluate")
