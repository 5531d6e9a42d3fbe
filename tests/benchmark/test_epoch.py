import json
from pathlib import Path
from time import sleep

import pytest

from vaegan_pl.benchmark.epoch import Epoch, EpochProfiler, split, warm_up


def test_what_lightning_times_is_sorted_into_parts() -> None:
    epoch = split(
        {
            "run_training_epoch": [20.0],  # the sum of others
            "run_training_batch": [4.0, 5.0],
            "[Strategy]SingleDeviceStrategy.training_step": [3.0, 4.0],  # inside the batches
            "[_TrainingEpochLoop].train_dataloader_next": [0.25, 0.25],
            "[Strategy]SingleDeviceStrategy.batch_to_device": [0.5],
            "[Strategy]SingleDeviceStrategy.validation_step": [2.0],
            "[Callback]Pictures.on_train_epoch_end": [1.0],
            "[Callback]Curves.on_train_end": [0.5],
            "[Callback]Checkpoint.on_train_end": [0.5],
            "save_checkpoint": [0.4],  # inside Checkpoint's
            "[Callback]Checkpoint.on_save_checkpoint": [0.1],  # likewise
            "[Callback]ModelFile.on_train_epoch_end": [0.25],
            "[Callback]ModelFile.on_train_end": [3.0],
            "[Callback]Quality.on_train_epoch_end": [0.25],
        },
        before=1.0,
        whole=19.25,
    )
    assert epoch.parts == {
        "training steps": 9.0,
        "data": 1.0,
        "validation": 2.0,
        "pictures and curves": 1.5,
        "samples measured": 0.25,
        "checkpoint and model file": 0.75,
        "classes, once at the end": 3.0,
        "logging, bars, loop": 1.75,
    }
    assert (epoch.start_up, epoch.batches) == (1.0, 2)
    assert epoch.overhead == pytest.approx((1 + 1.5 + 0.25 + 0.75 + 1.75) / 16.25)


def test_what_the_first_batches_take_longer_is_start_up() -> None:
    steps = [7.0, 2.5, 1.5, 2.0, 2.0, 1.0, 3.0, 2.0]  # from the fifth on, 2 is the median
    assert warm_up(steps) == pytest.approx(5.0 + 0.5)
    epoch = split({"run_training_batch": steps}, before=10.0, whole=22.0)
    assert epoch.start_up == pytest.approx(15.5)
    assert epoch.parts["training steps"] == pytest.approx(21.0 - 5.5)
    assert epoch.parts["logging, bars, loop"] == pytest.approx(1.0)
    assert sum(epoch.parts.values()) == pytest.approx(22.0 - 5.5)
    assert warm_up([7.0, 2.0, 2.0, 2.0]) == 0.0  # nothing to compare with


def test_what_ran_before_the_first_batch_is_in_no_part(tmp_path: Path) -> None:
    profiler = EpochProfiler(tmp_path / "profile.json")
    actions = {
        "[Callback]Quality.on_fit_start": 0.2,
        "run_training_batch": 0.02,
        "[Callback]Pictures.on_train_end": 0.01,
    }
    for action, seconds in actions.items():
        profiler.start(action)
        sleep(seconds)
        profiler.stop(action)
    profiler.teardown("fit")
    content = json.loads((tmp_path / "profile.json").read_text())
    assert set(content["durations"]) == {"run_training_batch", "[Callback]Pictures.on_train_end"}
    parts = split(content["durations"], before=0.2, whole=content["whole"]).parts
    assert parts["samples measured"] == 0
    assert parts["training steps"] >= 0.02
    assert all(seconds >= 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(content["whole"])


def test_the_classes_found_once_at_the_end_are_no_overhead() -> None:
    parts = {"training steps": 6.0, "validation": 2.0, "data": 2.0, "classes, once at the end": 90.0}
    assert Epoch(start_up=1.0, batches=2, parts=parts).overhead == pytest.approx(0.2)
