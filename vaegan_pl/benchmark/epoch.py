"""One whole epoch of the training command, started as a user starts it, and where its time goes."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time

import torch
from lightning.pytorch.profilers import SimpleProfiler

from vaegan_pl.console import as_option
from vaegan_pl.errors import UserError

STEPS, ONCE = "training steps", "classes, once at the end"
PARTS = {
    STEPS: r"run_training_batch",
    "data": r".*\.train_dataloader_next|\[Strategy\].*\.batch_to_device",
    "validation": r"\[Strategy\].*\.validation_step|.*\.val_next",
    "pictures and curves": r"\[Callback\](Pictures|Curves)\..*",
    "samples measured": r"\[Callback\]Quality\..*",
    "checkpoint and model file": r"\[Callback\](ModelCheckpoint\b.*|ModelFile\.on_train_epoch_end)",
    ONCE: r"\[Callback\]ModelFile\.on_train_end",
}
"""What Lightning times inside an epoch, by part."""
REST = "logging, bars, loop"


class EpochProfiler(SimpleProfiler):
    """Lightning's profiler, which times every action; writes the seconds of each as JSON when training ends.

    Args:
        path: the file to write.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.first_batch = 0.0

    def start(self, action_name: str) -> None:
        """Note when the first batch starts, by the system's clock."""
        if action_name == "run_training_batch" and not self.first_batch:
            self.first_batch = time()
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        """End a step only when a GPU has done it, not when it has been told."""
        if torch.accelerator.is_available() and re.fullmatch(f"{PARTS[STEPS]}|{PARTS['validation']}", action_name):
            torch.accelerator.synchronize()
        super().stop(action_name)

    def teardown(self, stage: str | None) -> None:
        """Write what was timed."""
        if stage == "fit":
            durations = {name: list(values) for name, values in self.recorded_durations.items()}
            content = {"first_batch": self.first_batch, "end": time(), "durations": durations}
            self.path.write_text(json.dumps(content))
        super().teardown(stage)

    def describe(self) -> None:
        """Print nothing; the benchmark reads the file."""


@dataclass(frozen=True)
class Epoch:
    """Where the time of a run of one epoch went.

    Attributes:
        start_up: seconds from the command to its first batch.
        batches: how many there were.
        parts: seconds by part, from the first batch to the end.
    """

    start_up: float
    batches: int
    parts: dict[str, float]

    @property
    def overhead(self) -> float:
        """The share of everything but training steps and validation; of a run, what is done once is left out."""
        rest = sum(seconds for part, seconds in self.parts.items() if part not in (STEPS, "validation", ONCE))
        return rest / (sum(self.parts.values()) - self.parts[ONCE])


def split(durations: Mapping[str, Sequence[float]], whole: float) -> dict[str, float]:
    """Seconds by part, of what Lightning timed and the seconds of it all."""
    parts = {
        part: sum(sum(values) for name, values in durations.items() if re.fullmatch(pattern, name))
        for part, pattern in PARTS.items()
    }
    return {**parts, REST: whole - sum(parts.values())}


def at(**paths: Path) -> list[str]:
    """Options of the data that name existing folders, as Hydra takes them."""
    return [as_option(f"data.{name}", path.resolve()) for name, path in paths.items()]


def measure(overrides: Sequence[str], directory: Path) -> Epoch:
    """Run `python -m vaegan_pl.train` for one epoch with everything on, and tell where the time went.

    Args:
        overrides: the user's options.
        directory: a folder for the run, without one in it.

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
        raise UserError("the training command failed, see above; the benchmark stops")
    content = json.loads(profile.read_text())
    parts = split(content["durations"], content["end"] - content["first_batch"])
    return Epoch(content["first_batch"] - start, len(content["durations"]["run_training_batch"]), parts)
