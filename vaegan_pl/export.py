"""Write encoder and decoder for other programs: `python -m vaegan_pl.export weights=PATH format=onnx output=DIR`."""

from vaegan_pl.cli import commands
from vaegan_pl.cli.export import export

if __name__ == "__main__":
    commands.run(export, "export")
