"""The script behind `make gpu`, shortened; on a machine with a GPU it uses it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .gpu import table

PARTS = [["compared", "larsen_plus"], ["timed", "larsen", "32-true"]]


@pytest.mark.parametrize("part", PARTS, ids=" ".join)
def test_a_part_runs_on_this_machine(part: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu", "--short", "--output", str(tmp_path), "--part", *part],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if part[0] == "compared":
        assert found["32-true"]["graph equals eager"]
        assert found["bf16-mixed"]["first step to the CPU"] > 0  # they are not the same numbers
    else:
        assert found["eager ms"] > 0
        assert found["share of the matrix rate"] > 0
        assert part[1] in table({" ".join(part): found})
