"""A picture of some slices of each class, to look at after an import."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vaegan_pl.data.images import fit, read_grey
from vaegan_pl.report.pictures import MARGIN, PAPER, captioned

_SIDE = 128
_COLUMNS = 8
_MOST = 24
_MOST_CLASSES = 12


def contact_sheet(folder: Path, classes: Mapping[str, Sequence[str]], titles: Mapping[str, str]) -> Image.Image:
    """Up to 24 slices of each of at most 12 classes, evenly spread over its files, above its title.

    Args:
        folder: where the files are.
        classes: the files of each class, relative to the folder, in order.
        titles: the title of each class.
    """
    strips = []
    for label, files in list(classes.items())[:_MOST_CLASSES]:
        chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(_MOST, len(files))).round().astype(int)]
        rows = -(-len(chosen) // _COLUMNS)
        strip = Image.new("L", (_COLUMNS * (_SIDE + MARGIN) + MARGIN, rows * (_SIDE + MARGIN) + MARGIN), PAPER)
        for i, name in enumerate(chosen):
            row, column = divmod(i, _COLUMNS)
            picture = Image.fromarray(fit(read_grey(folder / name, 255, "fixed"), _SIDE, "pad"))
            strip.paste(picture, (MARGIN + column * (_SIDE + MARGIN), MARGIN + row * (_SIDE + MARGIN)))
        strips.append(captioned(strip, titles[label]))
    sheet = Image.new("L", (strips[0].width, sum(strip.height for strip in strips)), PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    more = len(classes) - len(strips)
    return captioned(sheet, f"and {more} more classes") if more > 0 else sheet
