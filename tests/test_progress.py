"""Progress bars on terminals, lines in files, and the announcement of long waits."""

import logging
import os
import pty
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

from vaegan_pl import progress
from vaegan_pl.cli import commands
from vaegan_pl.cli.train import train
from vaegan_pl.progress import announce, duration, track

from .conftest import SMALL

FEW = [
    *SMALL,
    "data.per_class.Training=16",
    "data.per_class.Testing=4",
    "trainer.max_epochs=3",
    "callbacks.pictures.samples=1",
    "logger=csv",
    "hydra.run.dir=run",
]


class Terminal:
    """The reading end of a terminal."""

    def __init__(self) -> None:
        self.reader, self.writer = pty.openpty()
        termios.tcsetwinsize(self.writer, (24, 200))
        self.content = b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self.reader, 4096):
                self.content += piece
        except OSError:  # nobody writes any more
            pass

    def shown(self) -> str:
        os.close(self.writer)
        self.thread.join(10)
        os.close(self.reader)
        return self.content.decode(errors="replace")


@pytest.mark.parametrize(
    ("items", "seconds_each", "lines"),
    [
        (1000, 0.02, 0),  # 20 s in all
        (1000, 1.0, 9),  # every tenth of the work, which is rarer than every 30 s
        (20, 5.0, 3),  # every 30 s, after 6, 12 and 18 items
        (2, 100.0, 1),
    ],
)
def test_files_get_a_line_now_and_then(
    items: int, seconds_each: float, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: clock)
    caplog.set_level(logging.INFO)
    for _ in track(range(items), "drawing", "image"):
        clock += seconds_each
    assert len(caplog.messages) == lines
    if lines:
        assert "drawing" in caplog.messages[0]
        assert f"of {items}" in caplog.messages[0]


def test_the_time_left_is_what_the_rate_so_far_predicts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: clock)
    caplog.set_level(logging.INFO)
    for _ in track(iter(range(40)), "drawing", "image", total=40):
        clock += 6.0
    assert caplog.messages[0] == "drawing: 5 of 40, about 4 minutes left"  # 35 x 6 s = 3.5 minutes
    assert [message.split(",")[0] for message in caplog.messages[1:3]] == ["drawing: 10 of 40", "drawing: 15 of 40"]


SCRIPT = "from vaegan_pl.progress import track; print(sum(track(range(500), 'adding', 'number')))"


def test_a_pipe_sees_no_bar_and_a_terminal_does() -> None:
    command = [sys.executable, "-c", SCRIPT]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (piped.stdout, piped.stderr) == ("124750\n", "")
    terminal = Terminal()
    seen = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal.writer, text=True, check=True)
    assert seen.stdout == "124750\n"
    shown = terminal.shown()
    assert "adding" in shown
    assert "\r" in shown
    assert "number/s" in shown


@pytest.fixture
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_a_fresh_directory")
def test_the_log_of_training_holds_a_line_for_each_epoch_and_no_bar(
    run_command: Callable[..., str | None], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command(train, "train", *FEW) is None
    output, errors = capfd.readouterr()
    assert "\r" not in output + errors
    assert errors.count("\n") == 0
    epochs = [line for line in output.splitlines() if line.startswith("epoch ")]
    assert ["epoch 1 of 3" in epochs[0], "epoch 2 of 3" in epochs[1], len(epochs)] == [True, True, 2]
    assert "PSNR" in epochs[0]
    assert output.count("\n") < 30


@pytest.mark.usefixtures("in_a_fresh_directory")
def test_training_shows_its_bar_on_a_terminal(
    run_command: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    with os.fdopen(os.dup(terminal.writer), "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_command(train, "train", *FEW) is None
    shown = terminal.shown()
    assert "epoch 3/3: 100%" in shown
    assert "epoch 1 of 3" not in shown


def test_only_long_waits_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    announce("reading 10 images", 0.1)
    assert not caplog.messages
    announce("reading 9,000 images", 25.0)
    assert caplog.messages == ["reading 9,000 images; this takes about 30 seconds"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "10 seconds"),
        (11.0, "20 seconds"),
        (50.0, "50 seconds"),
        (59.0, "1 minute"),
        (600.0, "10 minutes"),
        (9000.0, "2 hours"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == f"about {words}"


@pytest.mark.parametrize(("seconds", "lines"), [(0.5, 1), (0.0, 0)])
def test_a_slow_import_of_torch_is_announced(
    seconds: float, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    imported = []

    def slow(name: str) -> None:
        sleep(seconds)
        imported.append(name)

    monkeypatch.setattr(commands, "SLOW_IMPORT", 0.1)
    monkeypatch.setattr(commands, "import_module", slow)
    caplog.set_level(logging.INFO)
    commands.import_torch()
    assert imported == ["lightning.pytorch"]
    assert sum("loading PyTorch" in message for message in caplog.messages) == lines


@pytest.mark.usefixtures("in_a_fresh_directory")
def test_phantoms_are_announced_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from vaegan_pl.data import phantoms

    monkeypatch.setattr(progress, "LEAST_ANNOUNCED", 0.01)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        phantoms.draw_folders(Path("phantoms"), ["glioma"], {"Training": 3}, seed=0)
    assert len(caplog.messages) == 1
    assert "drawing 3 phantoms" in caplog.messages[0]
