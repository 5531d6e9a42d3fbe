"""W&B that fails."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from . import final_weights, finished, forked, training


def history(run: Path) -> list[int]:
    """The batches whose losses an offline W&B run holds."""
    steps = []
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        items = (record["history"]["item"] for record in map(json.loads, lines) if record["type"] == "history")
        steps += [item["trainer/global_step"] for item in items if "loss/llike" in item]
    return steps


def wandb_faults(expected: list[str]) -> Counter[str]:
    """W&B that cannot start, fails in the middle, fails at the end, or is not there: training ends as ever."""
    import wandb

    def raising(*_: Any, **__: Any) -> Any:
        raise wandb.errors.CommError("the network is gone")

    def at_start() -> None:
        wandb.init = raising

    def in_the_middle() -> None:
        real, calls = wandb.Run.log, Counter[str]()

        def log(*arguments: Any, **options: Any) -> Any:
            calls["log"] += 1
            return raising() if calls["log"] > 3 else real(*arguments, **options)

        wandb.Run.log = log  # type: ignore[method-assign]

    def at_the_end() -> None:
        wandb.finish = raising

    def unreachable() -> None:
        os.environ |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": 40 * "0"}

    found: Counter[str] = Counter()
    online = ["logger.wandb.offline=false", "+logger.wandb.settings.init_timeout=5.0"]
    for name, before, options in (
        ("at_start", at_start, []),
        ("in_the_middle", in_the_middle, []),
        ("at_the_end", at_the_end, []),
        ("unreachable", unreachable, online),
    ):
        run, said = Path(f"wandb_{name}"), Path(f"wandb_{name}.txt")
        code = finished(forked(training("logger=default", f"hydra.run.dir={run}", *options, before=before), said))
        words = said.read_text(errors="replace")
        right = code == 0 and "W&B" in words and "Traceback" not in words and final_weights(run)[:-1] == expected[:-1]
        if name == "unreachable":
            right &= history(run) == list(range(1, 12, 2))
        found[
            f"{name}: trained to the end, and said so" if right else f"FAILED: {name}: exit {code}: {words[-800:]}"
        ] += 1
    return found
