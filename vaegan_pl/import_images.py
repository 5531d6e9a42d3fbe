"""Import volumes, DICOM series, tables and archives: `python -m vaegan_pl.import_images from=PATH to=DIR`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.import_images import import_images

if __name__ == "__main__":
    commands.run(import_images, "import_images")
