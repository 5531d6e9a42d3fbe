import pytest

from vaegan_pl.benchmark.epoch import Epoch, split


def test_what_lightning_times_is_sorted_into_parts() -> None:
    checkpoint = "[Callback]ModelCheckpoint{'monitor': None}.on_train_epoch_end"
    parts = split(
        {
            "run_training_epoch": [20.0],  # the sum of others
            "run_training_batch": [4.0, 5.0],
            "[Strategy]SingleDeviceStrategy.training_step": [3.0, 4.0],  # inside the batches
            "[_TrainingEpochLoop].train_dataloader_next": [0.25, 0.25],
            "[Strategy]SingleDeviceStrategy.batch_to_device": [0.5],
            "[Strategy]SingleDeviceStrategy.validation_step": [2.0],
            "[Callback]Pictures.on_train_epoch_end": [1.0],
            "[Callback]Curves.on_train_end": [0.5],
            checkpoint: [0.5],
            "[Callback]ModelFile.on_train_epoch_end": [0.25],
            "[Callback]ModelFile.on_train_end": [3.0],
            "[Callback]Quality.on_train_epoch_end": [0.25],
        },
        whole=19.25,
    )
    assert parts == {
        "training steps": 9.0,
        "data": 1.0,
        "validation": 2.0,
        "pictures and curves": 1.5,
        "samples measured": 0.25,
        "checkpoint and model file": 0.75,
        "classes, once at the end": 3.0,
        "logging, bars, loop": 1.75,
    }
    assert Epoch(start_up=1.0, batches=2, parts=parts).overhead == pytest.approx((1 + 1.5 + 0.25 + 0.75 + 1.75) / 16.25)
