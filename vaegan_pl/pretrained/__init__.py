"""The model that comes with the project: `weights=pretrained`, or `vaegan_pl.load("pretrained")`."""

from pathlib import Path

NAME = "pretrained"
"""Stands for the file wherever a command takes a model file; `./pretrained` is a file of that name."""

FILE = Path(__file__).resolve().with_name("vae_gan_decoder.pth")


def path_of(name: str | Path) -> Path:
    """The path of a model file, given by its path or as the text `pretrained`."""
    return FILE if name == NAME else Path(name)


def is_pretrained(path: Path) -> bool:
    """Whether a path leads to the file."""
    return path.resolve() == FILE


def name_of(path: Path) -> str:
    """The inverse of `path_of`."""
    return NAME if is_pretrained(path) else str(path)
