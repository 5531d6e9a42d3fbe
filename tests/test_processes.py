"""Forks behave as interpreters do, in all that tests of commands rely on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .processes import interpreted, started

MODULE = """
import atexit, logging, multiprocessing, os, signal, sys, threading, time
atexit.register(lambda: print("at exit", flush=True))
what = sys.argv[1]
if what == "world":
    main = sys.modules["__main__"]
    print(os.getcwd(), sys.argv[1:], os.environ["GIVEN"], os.environ.get("TAKEN"), os.getsid(0) == os.getpid())
    print(__name__, main.__spec__.name, main.what, multiprocessing.get_start_method(), sys.stdout.isatty())
    print(multiprocessing.current_process().name, logging.getLogger().handlers, signal.getsignal(signal.SIGINT))
    import beside
if what == "server":
    threads = os.listdir(f"/proc/{os.getppid()}/task")
    print([one.name for one in threading.enumerate()], len(threads), "lightning.pytorch" in sys.modules)
if what == "sleeps":
    open("ready", "w").close()
    time.sleep(60)
if what == "handles":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        open("ready", "w").close()
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
if what == "thread":
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
if what == "fails":
    raise KeyError("wrong")
if what == "message":
    sys.exit("error: no such thing")
if what == "code":
    sys.exit(3)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "at once":
    os._exit(4)
print("not flushed", end="")
"""


@pytest.fixture(autouse=True)
def in_a_folder_with_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAKEN", "from the test")
    Path("does.py").write_text(MODULE)
    Path("beside.py").write_text("print('beside')")


@pytest.mark.parametrize("what", ["thread", "fails", "message", "code", "killed", "at once", "nothing", "world"])
def test_a_fork_says_and_returns_what_an_interpreter_does(what: str) -> None:
    ends = []
    for start in (started, interpreted):
        process = start("does", what, "a b", GIVEN="x y")
        lines = process.communicate(timeout=60)[0].splitlines()
        if what == "fails":  # the traceback is not the same
            assert "Traceback (most recent call last):" in lines
            lines = [line for line in lines if line.startswith("KeyError")]
        ends.append((process.returncode, process.poll(), sorted(lines)))
    assert ends[0] == ends[1]
    assert ends[0][2] or what in ("killed", "at once")


@pytest.mark.parametrize(
    ("what", "number", "code"),
    [
        ("handles", signal.SIGTERM, 143),
        ("handles", signal.SIGINT, 130),
        *(("sleeps", one, -one) for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL)),
    ],
)
def test_signals_end_a_fork(what: str, number: signal.Signals, code: int) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("nohup ignores the signal")
    process, end = started("does", what), time.monotonic() + 60
    while not Path("ready").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.1)
    os.killpg(process.pid, signal.SIGCONT)
    assert process.poll() is None
    os.killpg(process.pid, number)
    assert process.wait(60) == code
    assert ("at exit" in process.communicate(timeout=60)[0]) == (what == "handles")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_fork_server_has_imported_training_and_started_no_thread() -> None:
    process = started("does", "server")
    words = process.communicate(timeout=60)[0]
    assert "['MainThread'] 1 True" in words
