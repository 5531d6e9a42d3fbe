"""Time one epoch of the training command, started as a user would start it, and split the time into parts."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic, time

import torch
from lightning.pytorch.profilers import SimpleProfiler

from vaegan_pl.console import as_option
from vaegan_pl.errors import UserError
from vaegan_pl.training.recorded import WARM_UP

BATCH = "run_training_batch"
STEPS, ONCE = "training steps", "classes, once at the end"
PARTS = {
    STEPS: BATCH,
    "data": r".*\.train_dataloader_next|\[Strategy\].*\.batch_to_device",
    "validation": r"\[Strategy\].*\.validation_step|.*\.val_next",
    "pictures and curves": r"\[Callback\](Pictures|Curves)\..*",
    "samples measured": r"\[Callback\]Quality\..*",
    "checkpoint and model file": r"\[Callback\](Checkpoint\.on_train_(batch_start|end)|ModelFile\.on_train_epoch_end)",
    ONCE: r"\[Callback\]ModelFile\.on_train_end",
}
"""The actions that Lightning times, by part of the epoch. None runs inside another."""
REST = "logging, bars, loop"

FIRST = WARM_UP + 1
"""Batches that may include one-off work: choosing algorithms, allocating memory, capturing CUDA graphs."""


class EpochProfiler(SimpleProfiler):
    """Lightning's profiler, from the first batch on. Writes the durations of each action as JSON when training ends.

    Whatever ran before the first batch, e.g. training the feature classifier in `Quality.on_fit_start`, counts as
    start-up and is dropped.

    Args:
        path: file to write.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.first_batch = self.began = 0.0

    def start(self, action_name: str) -> None:
        """Start timing an action. The first batch discards everything timed before it."""
        if action_name == BATCH and not self.began:
            self.first_batch, self.began = time(), monotonic()
            self.recorded_durations.clear()
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        """Stop timing an action. Training and validation steps end when the GPU has finished them."""
        if torch.accelerator.is_available() and re.fullmatch(f"{PARTS[STEPS]}|{PARTS['validation']}", action_name):
            torch.accelerator.synchronize()
        super().stop(action_name)

    def teardown(self, stage: str | None) -> None:
        """Write the durations."""
        if stage == "fit":
            durations = {name: list(values) for name, values in self.recorded_durations.items()}
            content = {"first_batch": self.first_batch, "whole": monotonic() - self.began, "durations": durations}
            self.path.write_text(json.dumps(content))
        super().teardown(stage)

    def describe(self) -> None:
        """Print nothing; the benchmark reads the file."""


@dataclass(frozen=True)
class Epoch:
    """Where the time of a run of one epoch went.

    Attributes:
        start_up: seconds from the command to its first batch, plus `warm_up`.
        batches: number of training batches.
        parts: seconds by part, from the first batch to the end, without `warm_up`.
    """

    start_up: float
    batches: int
    parts: dict[str, float]

    @property
    def overhead(self) -> float:
        """Share of the epoch that is neither training steps nor validation; work done once at the end is left out."""
        rest = sum(seconds for part, seconds in self.parts.items() if part not in (STEPS, "validation", ONCE))
        return rest / (sum(self.parts.values()) - self.parts[ONCE])


def warm_up(steps: Sequence[float]) -> float:
    """Seconds by which the first `FIRST` batches exceed the median of the later ones; 0 if there are no later ones."""
    usual = median(steps[FIRST:]) if len(steps) > FIRST else float("inf")
    return sum(max(0.0, seconds - usual) for seconds in steps[:FIRST])


def split(durations: Mapping[str, Sequence[float]], before: float, whole: float) -> Epoch:
    """Split the time of a run into start-up and the parts of its epoch.

    The parts and `warm_up` sum to `whole`.

    Args:
        durations: seconds of each call of each action, from the first batch on.
        before: seconds from the command to the first batch.
        whole: seconds from the first batch to the end.
    """
    extra = warm_up(durations[BATCH])
    parts = {
        part: sum(sum(values) for name, values in durations.items() if re.fullmatch(pattern, name))
        for part, pattern in PARTS.items()
    }
    rest = whole - sum(parts.values())
    return Epoch(before + extra, len(durations[BATCH]), {**parts, STEPS: parts[STEPS] - extra, REST: rest})


def at(**paths: Path) -> list[str]:
    """Data options that name existing folders, in Hydra's syntax."""
    return [as_option(f"data.{name}", path.resolve()) for name, path in paths.items()]


def measure(overrides: Sequence[str], directory: Path) -> Epoch:
    """Run `python -m vaegan_pl.train` for one epoch with all features enabled, and return where the time went.

    Args:
        overrides: the user's options.
        directory: empty folder that the run is written to.

    Raises:
        UserError: if training fails; its own message has been printed.
    """
    profile = directory / "profile.json"
    options = [
        *overrides,
        "trainer.max_epochs=1",
        "trainer.devices=1",
        as_option("hydra.run.dir", directory.resolve() / "run"),
        as_option("output_root", directory.resolve()),
        "+trainer.profiler._target_=vaegan_pl.benchmark.epoch.EpochProfiler",
        as_option("+trainer.profiler.path", profile.resolve()),
    ]
    start = time()
    command = [sys.executable, "-m", "vaegan_pl.train", *options]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 (the user's own options)
    if done.returncode:
        raise UserError("the training command failed; see its message above")
    content = json.loads(profile.read_text())
    return split(content["durations"], content["first_batch"] - start, content["whole"])
