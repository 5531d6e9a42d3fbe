"""Commands to paste that evaluate and sample a trained model."""

import re
from collections.abc import Sequence
from pathlib import Path

from vaegan_pl.console import as_typed, quoted

OF_DATA = re.compile(r"output_root=|[+~]*data\.(?!batch_size|augmentation)")
"""Options that say which images there are, how they are split, and where phantoms are stored."""


def data_options(chosen: str, overrides: Sequence[str]) -> list[str]:
    """The options that tell `evaluate` which images a run used, quoted for a shell.

    Args:
        chosen: the run's choice of the group `data`: phantom, mri or report.
        overrides: the run's options.
    """
    given = [override for override in overrides if OF_DATA.match(override)]
    return [f"data={chosen}", *map(quoted, given)]


def evaluate(weights: Path, data: Sequence[str]) -> str:
    """The command that evaluates a model file.

    Args:
        weights: the model file.
        data: the options of its data; see `data_options`.
    """
    return " ".join(["python -m vaegan_pl.evaluate", as_typed("weights", weights), *data])


def sample(weights: Path) -> str:
    """The command that draws samples from a model file."""
    return f"python -m vaegan_pl.sample {as_typed('weights', weights)}"
