import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from vaegan_pl.benchmark.epoch import ONCE, Epoch
from vaegan_pl.benchmark.paired import NAIVE, Timing, speedup
from vaegan_pl.benchmark.report import Speed, write

FAST = Timing(
    batch_size=64,
    seconds=[1.0, 2.0, 1.0],
    sampled=[100.0, 300.0, 200.0],
    matrix_rates=[4e12, 2e12, 4e12],
    flops=2 * 10**12,
    parts=[{"encoder": 0.1, "decoder": 0.7}, {"encoder": 0.3, "decoder": 0.5}, {"encoder": 0.2, "decoder": 0.6}],
    peak_bytes=3 * 2**30,
)
SLOW = Timing(batch_size=64, seconds=[4.0, 8.0, 6.0], peak_bytes=2**30)
SPEED = Speed(
    torch.device("cpu"),
    "bf16-mixed",
    {"bf16-mixed": FAST, NAIVE: SLOW},
    Epoch(
        start_up=9.5,
        batches=20,
        parts={"training steps": 80.0, "validation": 10.0, "data": 10.0, ONCE: 0.0},
    ),
)


def test_ratios_are_medians_over_rounds() -> None:
    assert speedup(SLOW, FAST) == 4.0  # of 4, 4 and 6
    assert speedup(SLOW, replace(FAST, batch_size=32)) == 2.0  # for half the images
    assert FAST.fraction == 0.5  # of 2/1/4, 2/2/2 and 2/1/4


def test_the_table_says_it_all() -> None:
    table = SPEED.table()
    assert "bf16-mixed               64    1.000      64.0      4.0    3.0 GB     4.00 TFLOP/s    50%" in table
    assert "naive loop               64    6.000      10.7      1.0    1.0 GB" in table
    assert "sampling in float32: 200 images/s" in table
    assert "  decoder                       0.600 s 75.0%" in table
    assert "an epoch of 20 batches         100.00 s" in table
    assert "start-up, not part of the epoch: 9.5 s" in table
    assert "data, logging, pictures and checkpoints: 10.0% of the epoch" in table


def test_json_and_chart(tmp_path: Path) -> None:
    figures, chart = write(SPEED, tmp_path)
    content = json.loads(figures.read_text())
    assert content["precision"] == "bf16-mixed"
    assert content["steps"]["bf16-mixed"]["times_naive"] == 4.0
    assert content["steps"]["bf16-mixed"]["share_of_matrix_rate"] == 0.5
    assert content["steps"]["naive loop"]["seconds"] == [4.0, 8.0, 6.0]
    assert content["epoch"]["overhead"] == pytest.approx(0.1)
    with Image.open(chart) as picture:
        assert picture.size == (1170, 360)
