"""Break things at random and count what is lost: `make faults`.

Commands are killed and started again, files mutated, directories of strangers made up, images broken, disks filled and
W&B made to fail. Every process is forked from this one, which has imported everything, so that one start takes seconds
less.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from vaegan_pl.cli import commands
from vaegan_pl.cli.train import train
from vaegan_pl.storage import tensor_files

from ..conftest import SMALL, digest

Cases = Iterator[tuple[str, bytes]]

SHORT = [
    *SMALL,
    "data.per_class.Training=16",
    "data.per_class.Testing=4",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=2",
    "trainer.precision=32-true",
    "callbacks.checkpoint.batches=1",
    "callbacks.quality.n=8",
    "logger=csv",
]


def forked(work: Callable[[], None], output: Path) -> int:
    """The process id of a fork of this process that does some work; it exits with 1 if that raises anything."""
    sys.stdout.flush()
    tqdm.set_lock(threading.RLock())  # the default one is shared with forks, and a killed fork would keep it forever
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(descriptor, "a", buffering=1)
        torch.set_num_threads(1)
        work()
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            os.write(2, f"{stop.code}\n".encode())
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        os.write(2, f"UNHANDLED {type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        sys.stdout.flush()
        logging.shutdown()
        os._exit(code)


def finished(process: int) -> int:
    """Wait for a process; its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def training(*options: str, before: Callable[[], None] | None = None) -> Callable[[], None]:
    """What a process that trains does."""

    def work() -> None:
        if before is not None:
            before()
        sys.argv = ["train", *SHORT, *options]
        commands.run(train, "train")

    return work


def final_weights(run: Path) -> list[str]:
    """Digests of what a run made: its model without the record of what made it, its optimizers, its figures."""
    model, checkpoint = (
        tensor_files.load(run / "vae_gan_model.pth"),
        tensor_files.load(run / "checkpoints" / "last.ckpt"),
    )
    parts = [model["state_dict"], model["mixtures"], checkpoint["state_dict"], checkpoint["optimizer_states"]]
    return [*map(digest, parts), (run / "metrics.csv").read_text()]


def reference() -> tuple[list[str], float]:
    """What a run makes that nobody disturbs, and how long it takes."""
    finished(forked(training("hydra.run.dir=warm"), Path("warm.txt")))  # draws the phantoms, fills the cache
    started = time.monotonic()
    code = finished(forked(training("hydra.run.dir=reference"), Path("reference.txt")))
    if code:
        sys.exit(f"the reference run failed: {Path('reference.txt').read_text()[-2000:]}")
    return final_weights(Path("reference")), time.monotonic() - started


def command(task: Callable[[DictConfig], Any], *options: str) -> Callable[[], None]:
    """What a process that runs a command does."""

    def work() -> None:
        sys.argv = [task.__name__, *options]
        commands.run(task, task.__name__)

    return work


def first(cases: Cases, n: int) -> Cases:
    """The first `n` of endless cases."""
    for _, case in zip(range(n), cases, strict=False):
        yield case
