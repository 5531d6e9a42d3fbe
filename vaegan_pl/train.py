"""Train a VAE/GAN: `python -m vaegan_pl.train model=larsen trainer.devices=1`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.train import train

if __name__ == "__main__":
    commands.run(train, "train")
