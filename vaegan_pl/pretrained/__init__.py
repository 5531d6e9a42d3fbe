"""The model that comes with the project: `weights=pretrained`, or `vaegan_pl.load("pretrained")`."""

from pathlib import Path

NAME = "pretrained"
"""Stands for the file wherever a command takes a model file; `./pretrained` is a file of that name."""

FILE = Path(__file__).with_name("vae_gan_decoder.pth")


def path_of(name: str | Path) -> Path:
    """The path of a model file, given by its path or as `pretrained`."""
    return FILE if str(name) == NAME else Path(name)


def name_of(path: Path) -> str:
    """The inverse of `path_of`."""
    return NAME if path == FILE else str(path)
