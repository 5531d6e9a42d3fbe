"""Directories of runs and sweeps that a stranger passed on: true ones, changed, in a world that is watched."""

import copy
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from vaegan_pl.cli import commands
from vaegan_pl.cli.sweep_report import sweep_report
from vaegan_pl.cli.train import train
from vaegan_pl.errors import UserError
from vaegan_pl.runs import stored_config

from .. import hostile
from . import SHORT, command, finished, first, forked, training
from .mutations import mutations

SECONDS = 120
"""After which a command counts as hanging."""

SWEPT = [o for o in SHORT if "max_epochs" not in o] + ["trainer.max_epochs=1", "model.gamma=0.1,1", "sweep.audit=0"]


class Listener:
    """Counts who connects to it."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.visits = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                self.socket.accept()[0].close()
                self.visits += 1


def snapshot(world: Path, own: Path) -> dict[str, tuple[str, str]]:
    """Everything in a folder but one directory: what each entry is, and what it holds."""
    found = {}
    for parent, folders, files in os.walk(world):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path == own or own in path.parents:
                continue
            if path.is_symlink():
                kind, holds = "link", str(path.readlink())
            elif path.is_file():
                kind, holds = "file", hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                kind, holds = "folder", ""
            found[str(path.relative_to(world))] = kind, holds
    found.pop("out/latest", None)  # the link to the newest run
    return found


def values(chance: random.Random, port: int) -> Any:
    """A value that somebody might put in the place of another."""
    touch = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["precious/executed"]}}
    return chance.choice(
        [
            "../precious/file",
            str(Path("precious/file").resolve()),
            "precious",
            "~/precious",
            f"http://127.0.0.1:{port}",
            f"127.0.0.1:{port}",
            "os.system",
            "shutil.rmtree",
            "lightning.pytorch.callbacks.ModelCheckpoint",
            "${oc.env:HOME}",
            "${output_root}/../precious",
            "${hydra:runtime.cwd}/precious",
            "${oc.create:{_target_: os.system}}",
            touch,
            [touch],
            {"base_url": f"http://127.0.0.1:{port}"},
            {},
            [],
            None,
            True,
            False,
            0,
            -1,
            1e308,
            float("nan"),
            10**12,
            2**70,
            "\x1b[2J",
            "\x00",
            "$\\frac$",
            "x" * 5000,
            list(range(1000)),
        ]
    )


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a tree, with each of its keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []:
        yield node, key
        yield from places(node[key])


def changed(tree: Any, chance: random.Random, port: int) -> Any:
    """A tree of plain values with one to three changes."""
    for _ in range(chance.choice([1, 1, 2, 3])):
        if not tree:
            break
        node, key = chance.choice(list(places(tree)))
        what = chance.random()
        if what < 0.6:
            node[key] = values(chance, port)
        elif what < 0.7:
            del node[key]
        elif what < 0.9 and isinstance(node, dict):
            node[chance.choice(["_target_", "path", "directory", "settings", "plugins", "x", "../x"])] = values(
                chance, port
            )
        else:
            other, other_key = chance.choice(list(places(tree)))
            node[key] = copy.deepcopy(other[other_key])
    return tree


def change_checkpoint(path: Path, chance: random.Random, port: int) -> None:
    """Change what a checkpoint says, and save it as a whole file."""
    content = torch.load(path, weights_only=True)
    tree = {key: value for key, value in content.items() if key != "state_dict"}
    if chance.random() < 0.3:
        name = chance.choice([*content["state_dict"]])
        tensor = content["state_dict"][name]
        content["state_dict"][name] = chance.choice(
            [tensor * float("nan"), tensor.reshape(-1)[:1], tensor.double(), tensor.long()]
        )
        torch.save(content, path)
        return
    parts = [key for key in tree if key != "optimizer_states"] + 6 * ["optimizer_states"]
    key = chance.choice(parts)
    tree[key] = changed({"part": tree[key]}, chance, port).get("part")
    torch.save({**tree, "state_dict": content["state_dict"]}, path)


def plant(folder: Path, chance: random.Random) -> None:
    """A link to what is precious, a pipe, or another file in the place of one."""
    entries = [path for path in folder.rglob("*") if not path.is_symlink()]
    path = chance.choice(entries)
    what = chance.random()
    if what < 0.6:
        (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        path.symlink_to(Path("precious", *([] if chance.random() < 0.5 else ["file"])).resolve())
    elif what < 0.7:
        (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        os.mkfifo(path)
    elif what < 0.85 and path.is_file():
        path.write_bytes(hostile.png_bomb(30_000) if path.suffix == ".png" else chance.randbytes(1000))
    elif path.is_dir():
        (path / "stray").symlink_to(Path("precious").resolve())
    else:
        path.unlink()


def change_run(run: Path, chance: random.Random, port: int) -> str:
    """Change something in a run's directory; says what."""
    what = chance.choice(
        ["config", "config", "config", "config", "raw", "checkpoint", "checkpoint", "entries", "figures"]
    )
    if what == "config":
        path = run / "config.yaml"
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), chance, port)))
    elif what == "checkpoint":
        change_checkpoint(run / "checkpoints" / "last.ckpt", chance, port)
        shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "previous.ckpt")
    elif what == "entries":
        plant(run, chance)
    else:
        names = ["config.yaml", "hparams.yaml", "checkpoints/last.ckpt"] if what == "raw" else ["metrics.csv"]
        path = run / chance.choice(names)
        path.write_bytes(chance.choice([*first(mutations(path.read_bytes(), chance), 9)])[1])
    return what


def change_sweep(sweep: Path, chance: random.Random, port: int) -> str:
    """Change something in a sweep's directory; says what."""
    what = chance.choice(["job.json", "job.json", "options.json", "raw", "entries", "config"])
    job = sweep / chance.choice(["0", "1"])
    if what in ("job.json", "options.json"):
        path = (job if what == "job.json" else sweep) / what
        path.write_text(json.dumps(changed(json.loads(path.read_text()), chance, port)))
    elif what == "config":
        change_run(job / "seed_0", chance, port)
        record = json.loads((job / "job.json").read_text())
        record["state"], record["runs"][0]["value"] = "running", None  # so that the run is looked at
        (job / "job.json").write_text(json.dumps(record))
    elif what == "entries":
        plant(sweep, chance)
    else:
        path = chance.choice([job / "job.json", sweep / "options.json", job / "seed_0" / "metrics.csv"])
        path.write_bytes(chance.choice([*first(mutations(path.read_bytes(), chance), 9)])[1])
    return what


def ended(work: Callable[[], None], said: Path) -> int | None:
    """Do some work in a process of its own; its exit code, or None if it hangs."""
    process, end = forked(work, said), time.monotonic() + SECONDS
    while time.monotonic() < end:
        pid, status = os.waitpid(process, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    finished(process)
    return None


@contextmanager
def inside(world: Path) -> Iterator[None]:
    """Work in a folder that is also the home and the place of temporary files."""
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(world)
    os.environ |= {"HOME": str(world / "home"), "TMPDIR": str(world / "tmp"), "WANDB_API_KEY": 40 * "0"}
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ |= environment


def directories(wanted: int, chance: random.Random) -> Counter[str]:
    """Resume changed runs, go on with changed sweeps, report on them, and read which images trained a model.

    Nothing outside the directory may be made, changed or removed, no connection opened, and every refusal is one line.
    """
    world = Path("world").resolve()
    for folder in ("home", "tmp", "precious", "bases"):
        (world / folder).mkdir(parents=True)
    (world / "precious" / "file").write_text("weeks of work")
    listener, found = Listener(), Counter[str]()
    said = world.parent / "directories.txt"

    def sweeping() -> None:
        sys.argv = ["train", "--multirun", *SWEPT, "sweep.name=s", "output_root=out"]
        commands.run(train, "train")

    def reading() -> None:
        stored_config.data_of(Path("run"), "out", None)

    with inside(world):
        for work in (training("trainer.max_epochs=2", "hydra.run.dir=run", "output_root=out"), sweeping):
            if finished(forked(work, said)):
                return Counter({f"FAILED: {said.read_text()[-800:]}": 1})
        shutil.move("run", "bases/run")
        shutil.move("out/multirun/s", "bases/s")
        resuming = command(train, "resume=run", "trainer.max_epochs=3", "output_root=out")
        reporting = command(sweep_report, "sweep=out/multirun/s")
        bar = tqdm(total=wanted, desc="directories of strangers", unit="directory")
        for i in range(wanted):
            of_a_sweep = i % 3 == 2
            own = world / ("out/multirun/s" if of_a_sweep else "run")
            base = world / "bases" / own.name
            shutil.copytree(base, own, symlinks=True)
            what = (change_sweep if of_a_sweep else change_run)(own, chance, listener.port)
            before, visits = snapshot(world, own), listener.visits
            for work in (sweeping, reporting) if of_a_sweep else (resuming, reading):
                said.unlink(missing_ok=True)
                code = ended(_told(work), said)
                words = said.read_text(errors="replace") if said.exists() else ""
                name = f"{'sweep' if of_a_sweep else 'run'}, {what}"
                if code is None:
                    found[f"FAILED: {name}: hangs"] += 1
                elif code not in (0, 1) or "Traceback" in words or "UNHANDLED" in words:
                    found[f"FAILED: {name}: exit {code}: {words[-600:]}"] += 1
                elif code == 1 and "error: " not in words:
                    found[f"FAILED: {name}: no message: {words[-300:]}"] += 1
                elif any(ord(c) < 32 and c not in "\n\r\t" for c in words.replace("\x1b[A", "")):
                    found[f"FAILED: {name}: control characters: {words[-300:]!r}"] += 1
                else:
                    found[f"{name}: {'refused in a line' if code else 'harmless, and went on'}"] += 1
            if snapshot(world, own) != before:
                after = snapshot(world, own)
                differing = {key for key in {*before, *after} if before.get(key) != after.get(key)}
                found[f"FAILED: {name}: touched {sorted(differing)[:5]}"] += 1
                for key in differing - {*before}:
                    with suppress(OSError):
                        (world / key).unlink()
            if listener.visits != visits:
                found[f"FAILED: {name}: opened a connection"] += 1
            shutil.rmtree(own, ignore_errors=True)
            own.unlink(missing_ok=True)
            bar.update()
        bar.close()
    found["directories"] = wanted
    return found


def _told(work: Callable[[], None]) -> Callable[[], None]:
    """The same, with a mistake told as commands tell it."""

    def tell() -> None:
        try:
            work()
        except (UserError, OSError) as error:
            sys.exit(f"error: {error}")

    return tell
