"""TensorBoard in place of W&B."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vaegan_pl.cli.train import train
from vaegan_pl.training.loggers import TensorBoard

from .conftest import SMALL

Run = Callable[..., str | None]
FEW = [*SMALL, "data.per_class.Training=16", "data.per_class.Testing=4", "trainer.log_every_n_steps=1"]
accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_tensorboard_holds_what_wandb_does_and_goes_on_with_the_run(run_command: Run) -> None:
    options = ["logger=tensorboard", "trainer.max_epochs=1", "hydra.run.dir=run"]
    assert run_command(train, "train", *FEW, *options) is None
    assert run_command(train, "train", "resume=run", "trainer.max_epochs=2") is None
    events = accumulators.EventAccumulator("run/tensorboard", size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("loss/llike")] == list(range(8))
    assert [event.step for event in events.Scalars("validation/psnr")] == [3, 7]
    for name in ("samples", "reconstructions", "progress"):
        pictures = events.Images(f"images/{name}")
        assert [picture.step for picture in pictures] == [3, 7]
        assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
    assert "tensorboard --logdir" in Path("run/train.log").read_text()
    assert not Path("run/wandb").exists()


def test_tensorboard_that_fails_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = TensorBoard(tmp_path / "file" / "x")
    (tmp_path / "file").write_text("in the way")
    logger.log_metrics({"loss/gan": 1.0}, 0)
    logger.log_metrics({"loss/gan": 1.0}, 1)
    assert logger.unavailable
    assert caplog.text.count("training continues without it") == 1
