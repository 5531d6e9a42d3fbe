"""Start commands quickly, as forks of a process that has already imported PyTorch and Lightning.

An interpreter takes more than ten seconds of CPU to import them. Python's fork server does it once for all tests of a
process, starts no thread, and forks. A fork has a session, a folder, an environment and an output of its own, runs a
module as `python -m` does, and ends as an interpreter does, by signals, exceptions and exit codes (but with 1 and a
traceback, where an interpreter ends by SIGINT because nobody handles it).

What differs: variables that are read by an import or before it (`MPLBACKEND`, `PYTHONHASHSEED`) have no effect, nor can
a test see what a command imports; and whatever a command itself starts (torchrun, Lightning) is an interpreter. Tests
of such things use `interpreted`. Where there is no fork server, as on Windows, everything is interpreted.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

CHECKOUT = Path(__file__).parents[1]
IMPORTED = [
    "lightning.pytorch",
    "sklearn.cluster",
    "sklearn.mixture",
    "vaegan_pl.cli.train",
    "vaegan_pl.evaluation.features",
    "vaegan_pl.training.callbacks",
]
"""What the fork server imports; these import everything that training needs, except loggers."""


_FORKS: list[BaseProcess] = []


class Pipe(Protocol):
    """The reading end of a pipe."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Process(Protocol):
    """A started process with the interface of `subprocess.Popen`, standard error merged into its output."""

    pid: int

    @property
    def stdout(self) -> Pipe | None: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> int: ...

    def communicate(self, *, timeout: float) -> tuple[str, str]: ...

    def kill(self) -> None: ...


def interpreted(module: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start a module in an interpreter of its own, with some environment variables."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(variables),
        start_new_session=True,
    )


def started(module: str, *arguments: str, **variables: str) -> Process:
    """Start a module in a fork, with some environment variables."""
    context = server()
    if context is None:
        return interpreted(module, *arguments, **variables)
    return _Fork(context, module, arguments, _environment(variables))


def server() -> ForkServerContext | None:
    """The context of the fork server, to start functions; None where there is no fork server."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), **variables}


def end_forks() -> None:
    """Kill the forks that still run, with what they started: pytest would wait for them when it ends."""
    for process in _FORKS:
        if process.is_alive() and process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
    _FORKS.clear()


class _Fork:
    def __init__(
        self, context: ForkServerContext, module: str, arguments: tuple[str, ...], environment: dict[str, str]
    ) -> None:
        self._output, output = context.Pipe(duplex=False)
        given = (module, arguments, Path.cwd(), environment, output)
        self._process = context.Process(target=_run, args=given, name="MainProcess")
        self._process.start()
        _FORKS.append(self._process)
        output.close()
        self._read = b""
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def stdout(self) -> Pipe:
        return self._output

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self._process.exitcode

    def communicate(self, *, timeout: float) -> tuple[str, str]:
        end = time.monotonic() + timeout
        while wait([self._output], end - time.monotonic()):
            read = os.read(self._output.fileno(), 2**16)
            if not read:
                break
            self._read += read
        self.wait(max(0.0, end - time.monotonic()))
        return self._read.decode(), ""

    def kill(self) -> None:
        self._process.kill()


def _run(
    module: str, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], output: "Connection[str, str]"
) -> None:
    """What a fork does. The fork server ends it with the code of a `SystemExit`, or prints the traceback."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    sys.argv[1:] = arguments
    sys.path.insert(0, str(folder))
    multiprocessing.set_start_method(None, force=True)  # what it starts itself is started as usual
    if "OMP_NUM_THREADS" in environment:
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        for thread in {*threading.enumerate()} - {threading.main_thread()}:
            if not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
