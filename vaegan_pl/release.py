"""Release private images' density under differential privacy: `python -m vaegan_pl.release weights=PATH epsilon=1`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.release import release

if __name__ == "__main__":
    commands.run(release, "release")
