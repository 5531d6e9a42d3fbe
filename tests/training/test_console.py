"""What training on large images will cost, from its first batches."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vaegan_pl.training.callbacks import Console, console


@pytest.mark.parametrize(
    ("side", "said"),
    [
        (64, []),
        (
            128,
            [
                "cost         about 20 minutes for an epoch, about 3 hours until epoch 10, without validation and "
                "pictures; memory so far 2.0 GiB"
            ],
        ),
    ],
)
def test_the_cost_of_large_images(
    side: int, said: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches of two seconds after slower ones: 600 of them are 20 minutes, and the 5,940 that are left 3.3 hours."""
    trainer: Any = SimpleNamespace(num_training_batches=600, max_epochs=10)
    clock = iter([0.0, 10.0, 20.0, 22.0, 24.0, 26.0, 28.0])
    monkeypatch.setattr(console, "data_of", lambda _: SimpleNamespace(decoding=SimpleNamespace(image_size=side)))
    monkeypatch.setattr(console, "trained", lambda _: 60)
    monkeypatch.setattr(console, "peak_memory", lambda _: 2**31)
    callback = Console("run")
    now = 0.0

    def monotonic() -> float:
        return now

    monkeypatch.setattr(console, "monotonic", monotonic)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    with caplog.at_level(logging.INFO):
        for i, now in enumerate(clock):  # noqa: B007 (monotonic returns it)
            callback.on_train_batch_end(trainer, module, None, None, i)
    assert [record.getMessage() for record in caplog.records] == said
