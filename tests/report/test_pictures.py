from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vaegan_pl.report.pictures import captioned, grid, pairs, save_png, side_by_side, single


def constant(*levels: float) -> torch.Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def tile(picture: Image.Image, row: int, column: int) -> list[int]:
    """The grey values in a tile of 8 pixels and margin 2, all at twice the size."""
    left, top = 2 * (2 + 10 * column), 2 * (2 + 10 * row)
    return [int(level) for level in np.unique(np.asarray(picture)[top : top + 16, left : left + 16])]


def test_grid_places_images_row_by_row() -> None:
    picture = grid(constant(-1, 0, 1), 2, "caption")
    assert tile(picture, 0, 0) == [0]
    assert tile(picture, 0, 1) == [128]
    assert tile(picture, 1, 0) == [255]


def test_pairs_stand_above_each_other() -> None:
    above, below = constant(*[-1.0] * 9), constant(*[1.0] * 9)
    picture = pairs(above, below, "caption")
    assert [tile(picture, row, 0) for row in range(4)] == [[0], [255], [0], [255]]
    assert [tile(picture, row, 7) for row in range(2)] == [[0], [255]]


def test_a_long_caption_takes_more_lines_and_every_line_has_ink() -> None:
    picture = Image.new("L", (200, 50), 77)
    short, long = captioned(picture, "short"), captioned(picture, "many words in one long caption " * 3)
    assert np.asarray(short)[:50].tolist() == np.asarray(picture).tolist()
    assert short.height == 50 + 22
    lines = (long.height - 50) // 22
    assert lines >= 3
    assert all(np.asarray(long)[50 + 22 * i : 72 + 22 * i].min() < 60 for i in range(lines))


def test_side_by_side_keeps_both_whole() -> None:
    left, right = Image.new("L", (10, 20), 5), Image.new("L", (30, 10), 9)
    sheet = np.asarray(side_by_side([left, right]))
    assert sheet.shape == (20, 10 + 16 + 30)
    assert (sheet == 5).sum() == 200
    assert (sheet == 9).sum() == 300


def test_saved_pictures_carry_their_provenance(tmp_path: Path) -> None:
    save_png(single(torch.zeros(1, 8, 8)), tmp_path / "new" / "a.png", "trained on PHANTOMS")
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.info["Description"] == "trained on PHANTOMS"
        assert image.size == (8, 8)
        assert image.getextrema() == (128, 128)
