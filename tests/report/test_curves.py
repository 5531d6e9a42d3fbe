from pathlib import Path

import numpy as np
from PIL import Image

from vaegan_pl.report.curves import draw_curves


def colours(picture: Path) -> np.ndarray:
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_curves_are_drawn_from_the_columns_that_are_there(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text(
        "epoch,step,loss/prior,decoder/gradient_ratio,validation/psnr\n0,0,3.5,0.1,\n0,10,2.5,0.2,\n0,10,,,17.5\n1,20,,,19.5\n"
    )
    draw_curves(metrics, tmp_path / "full.png", "caption")
    metrics.write_text("epoch,step,loss/prior\n")
    draw_curves(metrics, tmp_path / "empty.png", "caption")
    full, empty = colours(tmp_path / "full.png"), colours(tmp_path / "empty.png")
    blue = np.array([31, 119, 180])  # the first colour of matplotlib's cycle
    drawn = [int((np.abs(part - blue).max(2) < 8).sum()) for part in np.array_split(full, 3, axis=1)]
    assert min(drawn) > 50  # the three columns that are there, one panel each
    assert not (np.abs(empty - blue).max(2) < 8).any()
