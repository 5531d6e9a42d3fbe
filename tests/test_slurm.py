"""A job on a real Slurm that is told to go, requeues itself, and goes on where it was; and one without srun."""

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vaegan_pl.training import checkpoints

from . import faults, slurm


def test_a_preempted_job_requeues_itself_and_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = slurm.why_not()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    options = [*faults.SHORT, "trainer.max_epochs=60", "callbacks.quality.n=0", "callbacks.pictures.samples=1"]
    command = [sys.executable, "-m", "vaegan_pl.train", *options]
    slow = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    for name, value in slow.items():
        monkeypatch.setenv(name, value)
    Path("job.sh").write_text(
        "#!/bin/bash\n"
        "#SBATCH --ntasks-per-node=1 --requeue --open-mode=append --output=job.out\n"
        f"srun {' '.join(command)} hydra.run.dir=outputs/slurm-$SLURM_JOB_ID resume=auto\n"
    )
    with slurm.single_node(tmp_path / "slurm") as environment:
        submitted = subprocess.run(
            ["sbatch", "--parsable", "job.sh"], capture_output=True, text=True, check=True, env=environment
        )
        job = submitted.stdout.strip()
        run = Path(f"outputs/slurm-{job}")
        _wait_for(lambda: (run / "checkpoints" / "last.ckpt").exists(), 120)
        subprocess.run(["scancel", "--signal=USR1", job], check=True, env=environment)
        _wait_for(lambda: "was requeued" in (run / "train.log").read_text(), 60)
        _wait_for(lambda: slurm.state(job, environment) == "PENDING", 60)
        slurm.start_now(job, environment)
        _wait_for(lambda: slurm.state(job, environment) in ("COMPLETED", "FAILED", ""), 300)
        said = Path("job.out").read_text()
        assert slurm.state(job, environment) == "COMPLETED", said[-2000:]
        alone = " ".join([*command, "trainer.max_epochs=1", "hydra.run.dir=alone"])
        shell = f"#!/bin/bash\n#SBATCH --ntasks=2 --output=shell.out\n{alone}\n"
        Path("shell.sh").write_text(shell)
        submitted = subprocess.run(
            ["sbatch", "--parsable", "shell.sh"], capture_output=True, text=True, check=True, env=environment
        )
        other = submitted.stdout.strip()
        _wait_for(lambda: slurm.state(other, environment) in ("COMPLETED", "FAILED", ""), 120)
        assert slurm.state(other, environment) == "COMPLETED", Path("shell.out").read_text()[-2000:]
    assert Path("alone/vae_gan_model.pth").exists()
    assert "stopped by SIGUSR1 after" in (run / "train.log").read_text()
    checkpoint = checkpoints.read(run / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 4 * 60
    rows = (run / "metrics.csv").read_text().splitlines()
    steps = [int(row["step"]) for row in csv.DictReader(rows) if row["loss/gan"]]
    assert steps == list(range(1, 240, 2))


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)
