"""Processes that are killed at random moments, and started again."""

import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from vaegan_pl.cli import commands
from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.inspect_data import inspect_data
from vaegan_pl.cli.sample import sample
from vaegan_pl.cli.train import train
from vaegan_pl.data.phantoms import draw_folders
from vaegan_pl.storage.files import UNFINISHED, RefusedError
from vaegan_pl.sweeps import jobs

from . import SHORT, command, final_weights, finished, first, forked, training
from .mutations import mutations

MOST_IN_A_ROW = 100


def is_writing(folder: Path) -> bool:
    """Whether a file in a folder is half-written."""
    return any(UNFINISHED.fullmatch(name) for _, _, names in os.walk(folder) for name in names)


def killed(work: Callable[[], None], said: Path, folder: Path, at: float, writing: bool) -> tuple[bool, bool]:
    """Do some work in a process that is killed, unless it ends before.

    Args:
        work: the work.
        said: where its output goes.
        folder: where it writes.
        at: after how many seconds it is killed.
        writing: whether to wait for a moment in which it writes a file.

    Returns:
        Whether it was killed, and whether it was writing.
    """
    process, end = forked(work, said), time.monotonic() + at
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        unfinished = writing and is_writing(folder)
        if time.monotonic() >= end and (unfinished or not writing):
            os.kill(process, signal.SIGKILL)
            finished(process)
            return True, unfinished
        time.sleep(0 if writing else 0.002)
    return False, False


def moment(chance: random.Random, seconds: float, i: int) -> float:
    """When to kill a process for the i-th time in a row: later and later, so that it ends on a slower machine, too."""
    return chance.uniform(0, (1.1 + 0.1 * i) * seconds)


def kills(wanted: int, chance: random.Random, expected: list[str], seconds: float) -> Counter[str]:
    """Kill runs at random moments, resume them, kill them again; half of the kills while a file is being written.

    After some of the kills the newest checkpoint is damaged, too, where there is one before it.
    """
    found: Counter[str] = Counter()
    bar = tqdm(total=wanted, desc="kills", unit="kill")
    while found["kills"] < wanted:
        run = Path(f"run{found['runs']}")
        for i in range(MOST_IN_A_ROW):
            work, at = training(f"hydra.run.dir={run}", "resume=auto"), moment(chance, seconds, i)
            was_killed, unfinished = killed(work, Path(f"{run}.txt"), run, at, chance.random() < 0.5)
            if not was_killed:
                break
            found["kills"] += 1
            found["kills while a file was written"] += unfinished
            bar.update()
            last, previous = (run / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
            if previous.exists() and last.exists() and last.stat().st_size and chance.random() < 0.25:
                damaged = [b"", *(case for _, case in first(mutations(last.read_bytes(), chance), 9))]
                last.write_bytes(chance.choice(damaged))
                found["newest checkpoints damaged after a kill"] += 1
        found["runs"] += 1
        try:
            if final_weights(run) != expected:
                found["lost: other weights or figures"] += 1
            else:
                shutil.rmtree(run)
        except (OSError, KeyError, RefusedError) as error:
            found["lost: not finished"] += 1
            tqdm.write(f"{run}: {error}: {Path(f'{run}.txt').read_text()[-500:]}")
    bar.close()
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """What a command made, without what a killed one left half-written."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not UNFINISHED.fullmatch(path.name)
    }


def command_kills(wanted: int, chance: random.Random, names: str = ".*") -> Counter[str]:
    """Kill commands that write, start them again, and hold what they made against what an undisturbed one makes.

    Args:
        wanted: how many kills of each.
        chance: what decides.
        names: regular expression of the commands to kill.
    """
    weights, data = "weights=reference/vae_gan_model.pth", ["data.root=outputs/phantoms", "data.image_size=32"]
    into, cached = ["output=killed/made", "overwrite=false"], "data.cache=outputs/cache"
    works = {
        "sample": command(sample, weights, "n=300", *into),
        "evaluate": command(evaluate, weights, *data, "n=8", "seeds=0", cached, *into),
        "inspect_data, from no cache": command(inspect_data, *data, "data.cache=killed/cache", *into),
        "first phantoms": lambda: draw_folders(Path("killed/made"), ["glioma", "notumor"], {"Training": 40}, 0),
    }
    found: Counter[str] = Counter()
    chosen = {name: work for name, work in works.items() if re.fullmatch(names, name)}
    bar = tqdm(total=wanted * len(chosen), desc="kills of commands", unit="kill")
    for name, work in chosen.items():
        started = time.monotonic()
        shutil.rmtree("killed", ignore_errors=True)
        if finished(forked(work, Path("command.txt"))):
            found[f"FAILED: {name}: {Path('command.txt').read_text()[-500:]}"] += 1
            continue
        seconds, expected = time.monotonic() - started, contents(Path("killed/made"))
        found[f"seconds of {name}"] = round(seconds)
        while found[f"{name}: kills"] < wanted:
            shutil.rmtree("killed")
            mine = Path("killed/made/mine.png")
            if name != "first phantoms":
                mine.parent.mkdir(parents=True)
                mine.write_bytes(b"weeks of work")
            for i in range(MOST_IN_A_ROW):
                at, writing = moment(chance, seconds, i), name == "sample" and chance.random() < 0.5
                was_killed, _ = killed(work, Path("command.txt"), Path("killed"), at, writing)
                if not was_killed:
                    break
                found[f"{name}: kills"] += 1
                bar.update()
            made = contents(Path("killed/made")) if Path("killed/made").exists() else {}
            if mine.exists() and made.pop("mine.png") != b"weeks of work":
                found[f"lost: {name}: a file of the user's"] += 1
            if made != expected:
                differing = sorted(key for key in {*made, *expected} if made.get(key) != expected.get(key))
                found[f"lost: {name}: {differing[:3]}: {Path('command.txt').read_text()[-500:]}"] += 1
    bar.close()
    return found


def sweep_kills(wanted: int, chance: random.Random) -> Counter[str]:
    """Kill sweeps in their second job and start them again; the first is not trained again, and all end the same."""
    options = ["--multirun", *(option for option in SHORT if "max_epochs" not in option), "trainer.max_epochs=2"]
    options += ["model.gamma=0.1,1", "sweep.audit=0"]
    found: Counter[str] = Counter()

    def sweeping(name: str) -> Callable[[], None]:
        def work() -> None:
            sys.argv = ["train", *options, f"sweep.name={name}"]
            commands.run(train, "train")

        return work

    started = time.monotonic()
    if finished(forked(sweeping("whole"), Path("sweep.txt"))):
        return Counter({f"FAILED: {Path('sweep.txt').read_text()[-500:]}": 1})
    seconds, folder = time.monotonic() - started, Path("outputs/multirun")
    expected = [final_weights(folder / "whole" / number / "seed_0") for number in "01"]
    bar = tqdm(total=wanted, desc="kills of sweeps", unit="kill")
    while found["kills"] < wanted:
        name = f"killed{found['sweeps']}"
        for i in range(MOST_IN_A_ROW):
            model = folder / name / "0" / "seed_0" / "vae_gan_model.pth"
            was_done = model.exists() and jobs.read(folder / name / "0").state == "finished"
            before = model.stat().st_mtime_ns if was_done else None
            at, writing = 0.4 * seconds + moment(chance, 0.7 * seconds, i), chance.random() < 0.5
            was_killed, _ = killed(sweeping(name), Path("sweep.txt"), folder, at, writing)
            if before is not None and model.stat().st_mtime_ns != before:
                found["lost: a finished job was trained again"] += 1
            if not was_killed:
                break
            found["kills"] += 1
            found["kills in the second job"] += (folder / name / "1").exists()
            bar.update()
        found["sweeps"] += 1
        try:
            made = [final_weights(folder / name / number / "seed_0") for number in "01"]
            if made != expected or [job.state for job in jobs.in_directory(folder / name)] != ["finished"] * 2:
                found["lost: other weights, figures or records"] += 1
            shutil.rmtree(folder / name)
        except (OSError, KeyError, RefusedError) as error:
            found["lost: not finished"] += 1
            tqdm.write(f"{name}: {error}: {Path('sweep.txt').read_text()[-500:]}")
    bar.close()
    return found
