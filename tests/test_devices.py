"""Training on several processes (gloo, two CPU processes), started by Lightning, torchrun and Slurm."""

import csv
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor

from vaegan_pl.cli.train import train
from vaegan_pl.evaluation import features
from vaegan_pl.training import checkpoints
from vaegan_pl.training.lightning_module import VAEGANModule

from .conftest import SMALL
from .processes import Process, interpreted, started

Run = Callable[..., str | None]
FEW = [
    *SMALL,
    "data.per_class.Training=16",
    "data.per_class.Testing=5",
    "data.classes=[glioma,meningioma,notumor]",  # 15 held-out images: one process has 8 of them, the other 7
    "data.split=official",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "logger=csv",
    "+callbacks.witness._target_=tests.test_devices.Witness",
]
TWO = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=8"]


class Witness(L.Callback):
    """Writes what each process has in the end. Its processes train the classifier of features for 5 steps."""

    def __init__(self) -> None:
        vars(features)["STEPS"] = 5

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, VAEGANModule)
        torch.save(dict(pl_module.model.named_parameters()), f"rank{trainer.global_rank}.pt")


class Stop(L.Callback):
    """Sends the first process SIGTERM in its eighth batch."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.is_global_zero and checkpoints.trained(trainer) == 7:
            signal.raise_signal(signal.SIGTERM)


def training(*arguments: str, **variables: str) -> Process:
    """With `trainer.devices=2`, and unless the variables say that there are several, Lightning starts the second."""
    return started("vaegan_pl.train", *arguments, OMP_NUM_THREADS="1", **variables)


def both(tasks: Sequence[dict[str, str]], *arguments: str) -> list[Process]:
    return [training(*arguments, **variables) for variables in tasks]


def finish(*processes: Process) -> str:
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return "".join(outputs)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def parameters(file: str) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(file, weights_only=True)
    return loaded


def torchrun() -> list[dict[str, str]]:
    """The environment of each of two processes, as torchrun sets it."""
    job = {
        "TORCHELASTIC_RUN_ID": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": free_port(),
    }
    return [{**job, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def slurm(tasks: int) -> list[dict[str, str]]:
    """The environment of each task, as `srun` sets it."""
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks),
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": free_port(),
    }
    return [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(tasks)]


def assert_ranks_agree() -> None:
    first, second = parameters("rank0.pt"), parameters("rank1.pt")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


GATE = ["model/gate=equilibrium", "model.fakes=both", "model.gate.margin=0.1"]
STABILISERS = [
    "model=conditional",
    "model.networks.classes=3",
    "model.networks.discriminator_norm=spectral",
    "model.ema=0.9",
    "model.sigma=0.5",
    "model.adversary.game=non_saturating",
    "model.adversary.diffaugment=[brightness,translation,cutout]",
    "model.adversary.r1=1.0",
    "model.adversary.lecam=0.1",
    "trainer.max_epochs=6",  # 18 batches: R1 is due twice
]


@pytest.mark.parametrize(("options", "launcher"), [(GATE, "Lightning"), (STABILISERS, "torchrun")])
def test_two_processes_are_one_with_the_joint_batch(run_command: Run, options: list[str], launcher: str) -> None:
    """With synchronised batch norm, to double precision's rounding, also where the gate rests the decoder."""
    exact = ["trainer.precision=64-true", *options]
    assert run_command(train, "train", *FEW, *exact, "hydra.run.dir=one") is None
    alone = parameters("rank0.pt")
    given = [*FEW, *exact, *TWO, "trainer.sync_batchnorm=true", "hydra.run.dir=two"]
    console = finish(*([training(*given)] if launcher == "Lightning" else both(torchrun(), *given)))
    assert "2 x cpu" in console
    assert_ranks_agree()
    together = parameters("rank0.pt")
    for name, parameter in alone.items():
        torch.testing.assert_close(together[name], parameter, rtol=1e-6, atol=1e-9)
    saved = [torch.load(f"{run}/vae_gan_model.pth", weights_only=True) for run in ("one", "two")]
    for network, tensors in saved[0]["state_dict"].items():
        for name, tensor in tensors.items():  # running statistics included
            torch.testing.assert_close(saved[1]["state_dict"][network][name], tensor, rtol=1e-6, atol=1e-9)
    assert [file["training"]["batches"] for file in saved] == ([6, 6] if options is GATE else [18, 18])
    one, two = (list(csv.DictReader(Path(run, "metrics.csv").read_text().splitlines())) for run in ("one", "two"))
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"decoder/gradient_ratio"}:  # of several devices, the mean of their ratios
            assert row[name] == other[name] or float(row[name]) == pytest.approx(float(other[name]), rel=1e-4)
    if options is GATE:
        assert {row["gate/decoder"] for row in one} == {"", "0.0", "1.0"}


def test_under_torchrun_processes_agree_and_leave_one_directory() -> None:
    """With W&B, which keeps one run as well, and with samples measured, which the first process does alone."""
    all_on = [option for option in FEW if option not in ("logger=csv", "callbacks.quality.n=0")]
    launch = ["--nproc-per-node=2", f"--master-port={free_port()}", "-m", "vaegan_pl.train"]
    options = [*all_on, *TWO, "callbacks.quality.n=10"]
    finish(interpreted("torch.distributed.run", *launch, *options, OMP_NUM_THREADS="1"))
    assert_ranks_agree()
    (model,) = Path("outputs").glob("*/*/vae_gan_model.pth")
    assert model.parent == Path("outputs/latest").resolve().relative_to(Path.cwd())
    assert [path.name for path in model.parent.parent.iterdir()] == [model.parent.name]
    assert len(list(model.parent.glob("wandb/offline-run-*"))) == 1
    assert model.with_name("vae_gan_model_best.pth").is_file()
    assert {path.name for path in Path().iterdir()} == {"outputs", "rank0.pt", "rank1.pt"}


def test_under_slurm_processes_agree_and_leave_one_directory() -> None:
    finish(*both(slurm(2), *FEW, *TWO))
    assert_ranks_agree()
    assert len(list(Path("outputs").glob("*/*/vae_gan_model.pth"))) == 1
    assert {path.name for path in Path().iterdir()} == {"outputs", "rank0.pt", "rank1.pt"}


def refusal(process: Process) -> str:
    """What a failed command said."""
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert "vaegan_pl/" not in output  # no traceback
    assert not list(Path().glob("**/*.pth"))
    return output


def test_as_many_processes_as_devices_or_a_message() -> None:
    for process in both(torchrun(), *FEW, "trainer.devices=1"):
        assert "error: several processes were started for one device; set trainer.devices" in refusal(process)
    output = refusal(training(*FEW, *TWO, **slurm(4)[0]))
    assert "error: trainer.devices=2 on each of 1 nodes: You set `devices=2`" in output


def test_what_cannot_be_dealt_out_ends_with_one_message() -> None:
    output = refusal(training(*FEW, *TWO, "data.batch_size=30"))
    assert output.count("error: ") == 1
    assert "are fewer than one batch on each of 2 devices; lower data.batch_size=30" in output


def test_two_processes_are_stopped_by_one_signal_and_end_as_if_they_had_not_been() -> None:
    finish(*both(torchrun(), *FEW, *TWO, "trainer.max_epochs=6", "hydra.run.dir=whole"))
    whole = parameters("rank0.pt")
    stopped = training(
        *FEW, *TWO, "+callbacks.stop._target_=tests.test_devices.Stop", "trainer.max_epochs=5", "hydra.run.dir=run"
    )
    output = stopped.communicate(timeout=300)[0]
    assert stopped.returncode == 143, output
    assert "stopped by SIGTERM after 10 batches; continue with" in output
    again = [FEW[-1], "+callbacks.stop._target_=tests.test_devices.Stop"]
    finish(training("resume=run", *again, "trainer.max_epochs=6"))  # and made longer
    assert_ranks_agree()
    resumed = parameters("rank0.pt")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
