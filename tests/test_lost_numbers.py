"""Losses and gradients that are not finite: named, stopped or skipped, and nothing saved is lost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vaegan_pl.cli.train import train
from vaegan_pl.data.datamodule import ImageDataset
from vaegan_pl.model import algorithm
from vaegan_pl.model.batch import Batch, Noise
from vaegan_pl.model.generative import Gradients
from vaegan_pl.storage import tensor_files

from .conftest import digest
from .test_resume import FEW

Run = Callable[..., str | None]
OPTIONS = [*FEW, "callbacks.quality.n=0", "callbacks.checkpoint.batches=1", "hydra.run.dir=run"]


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Callable[[range], None]:
    """Lets the images of some batches, counted from 0, hold NaN on their way into Algorithm 1."""
    real, calls = algorithm.VAEGAN.gradients, iter(range(1000))

    def arrange(batches: range) -> None:
        def gradients(self: algorithm.VAEGAN, batch: Batch, noise: Noise) -> Gradients:
            return real(self, replace(batch, x=batch.x * torch.nan) if next(calls) in batches else batch, noise)

        monkeypatch.setattr(algorithm.VAEGAN, "gradients", gradients)

    return arrange


def test_the_run_stops_and_names_step_loss_network_and_files(
    run_command: Run, lose: Callable[[range], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    choose = ImageDataset.choose

    def spy(self: ImageDataset, numbers: Sequence[int]) -> Any:
        chosen, draws = choose(self, numbers)
        seen.append(chosen)
        return chosen, draws

    monkeypatch.setattr(ImageDataset, "choose", spy)
    lose(range(5, 6))
    output = run_command(train, "train", *OPTIONS)
    assert output is not None
    for words in (
        "loss/prior, loss/llike, loss/gan, the encoder's gradient, the decoder's gradient, the discriminator's",
        "not finite in batch 6 of the run, epoch 2",
        "not_finite_in_batch_6.txt",
        "set on_nan=skip",
    ):
        assert words in output
    files = Path("run/not_finite_in_batch_6.txt").read_text().splitlines()
    assert len(files) == 16
    assert all(Path(file).is_file() for file in files)
    # The sixth batch of the loader: 4 in the first epoch, 1 of validation images between.
    from_loader = [batch for batch in seen if len(batch) == 16][5]
    listed = sorted(path for path in Path("outputs/phantoms").rglob("*.png"))
    assert files == [str(listed[image]) for image in from_loader]
    checkpoint = tensor_files.load(Path("run/checkpoints/last.ckpt"))
    assert checkpoint["global_step"] == 5
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())


def test_one_network_alone_is_named(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = algorithm.VAEGAN.gradients

    def gradients(self: algorithm.VAEGAN, *inputs: Any) -> Gradients:
        step = real(self, *inputs)
        step.decoder[0].view(-1)[0] = torch.inf
        return step

    monkeypatch.setattr(algorithm.VAEGAN, "gradients", gradients)
    output = run_command(train, "train", *OPTIONS)
    assert output is not None
    assert output.startswith("error: the decoder's gradient not finite in batch 1 of the run, epoch 1")
    assert not Path("run/checkpoints").exists()


def test_skipped_batches_change_nothing_and_are_counted(run_command: Run, lose: Callable[[range], None]) -> None:
    lose(range(2, 5))
    assert run_command(train, "train", *OPTIONS, "on_nan=skip") is None
    checkpoint = tensor_files.load(Path("run/checkpoints/last.ckpt"))
    assert checkpoint["skipped"] == 3
    assert checkpoint["global_step"] == 12 - 3
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    said = Path("run/train.log").read_text()
    assert "skipping batch 3 (1 so far): loss/prior, loss/llike" in said
    assert "skipping batch 5 (3 so far)" in said
    assert "skipped_batches" in Path("run/metrics.csv").read_text()


def test_skipping_and_stopping_are_the_same_where_all_is_finite(run_command: Run) -> None:
    assert run_command(train, "train", *OPTIONS) is None
    assert run_command(train, "train", *OPTIONS[:-1], "on_nan=skip", "hydra.run.dir=skip") is None
    a, b = (tensor_files.load(Path(run, "vae_gan_model.pth"))["state_dict"] for run in ("run", "skip"))
    assert digest(a) == digest(b)


def test_a_run_that_loses_everything_stops_even_if_it_may_skip(
    run_command: Run, lose: Callable[[range], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaegan_pl.training.lightning_module.MOST_SKIPPED", 3)
    lose(range(1, 100))
    output = run_command(train, "train", *OPTIONS, "on_nan=skip")
    assert output is not None
    assert "not finite in batch 5 of the run" in output


def test_another_choice_is_refused(run_command: Run) -> None:
    assert run_command(train, "train", *OPTIONS, "on_nan=ignore") == "error: on_nan=ignore: must be one of stop, skip"
