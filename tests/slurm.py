"""A Slurm of one node, for tests: `slurmctld` and `slurmd` of the system's packages, without cgroups."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={port}
SlurmdPort={other}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=3
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no Slurm can be started here."""
    missing = [program for program in PROGRAMS if _path(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed (packages slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "starting Slurm takes root"


@contextmanager
def single_node(folder: Path) -> Iterator[dict[str, str]]:
    """Start a Slurm whose files lie in a folder; gives the environment in which its commands find it.

    Raises:
        RuntimeError: if the node is not ready after half a minute.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    names = {"host": socket.gethostname(), "folder": folder, "cpus": os.cpu_count()}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(port=free_port(), other=free_port(), **names))
    subprocess.run([str(_path("mungekey")), "--create", f"--keyfile={folder}/munge.key"], check=True)
    files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.sock", *files],
        ["slurmctld", "-D", "-i", "-f", str(configuration)],
        ["slurmd", "-D", "-f", str(configuration)],
    ]
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    running = []
    try:
        for program, *arguments in commands:
            with (folder / f"{program}.out").open("w") as output:
                process = subprocess.Popen(
                    [str(_path(program)), *arguments], stdout=output, stderr=output, env=environment
                )
            running.append(process)
            time.sleep(1)
        for _ in range(30):
            node = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, env=environment)
            if node.stdout.strip() == "idle":
                break
            time.sleep(1)
        else:
            logs = {path.name: path.read_text()[-500:] for path in folder.glob("*.out")}
            raise RuntimeError(f"Slurm did not start: {node.stdout}{node.stderr} {logs}")
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def state(job: str, environment: dict[str, str]) -> str:
    """A job's state, such as RUNNING; empty once Slurm has forgotten it."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, env=environment)
    return next((word.split("=")[1] for word in shown.stdout.split() if word.startswith("JobState=")), "")


def start_now(job: str, environment: dict[str, str]) -> None:
    """Start a requeued job at once, which Slurm would do two minutes later."""
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True, env=environment)


def _path(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
