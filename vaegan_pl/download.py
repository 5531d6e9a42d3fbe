"""Fetch the public dataset from Kaggle: `python -m vaegan_pl.download output=DIR` (needs the network)."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.download import download

if __name__ == "__main__":
    commands.run(download, "download")
