"""The train command as a user runs it, on small networks and few phantoms."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.train import train
from vaegan_pl.runs.next_steps import data_options

from .conftest import CLASSES, SMALL

Run = Callable[..., str | None]
FEW = [*SMALL, "data.per_class.Training=16", "data.per_class.Testing=4", "trainer.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    values = [float(row[name]) for row in rows(run) if row[name]]
    assert values
    return values


def test_a_run_leaves_what_the_readme_says(run_command: Run) -> None:
    few = [option for option in FEW if not option.startswith("~callbacks")]
    assert run_command(train, "train", *few, "trainer.max_epochs=2", "model.gamma=0.5") is None
    run = Path("outputs/latest").resolve()
    images = {path.name for path in (run / "images").iterdir()}
    report = (run / "data_report.html").read_text()
    assert "These are PHANTOMS" in report
    assert images == {
        "progress.png",
        *(f"{kind}_epoch_{epoch:04d}.png" for kind in ("samples", "reconstructions") for epoch in (1, 2)),
    }
    assert (run / "curves.png").stat().st_size > 10_000
    assert OmegaConf.load(run / "hparams.yaml").model.gamma == 0.5

    # One step axis that counts batches: 64 images in batches of 16, twice.
    assert [int(row["step"]) for row in rows(run) if row["loss/gan"]] == list(range(8))
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.serialization.get_unsafe_globals_in_checkpoint(run / "checkpoints" / "last.ckpt") == []

    # The W&B run holds the same scalars, on the same axis of batches, and the pictures.
    (wandb_run,) = (run / "wandb").glob("offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(wandb_run)]
    records = map(json.loads, subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    in_wandb = {item["trainer/global_step"]: item["loss/llike"] for item in history if "loss/llike" in item}
    in_csv = {int(row["step"]): float(row["loss/llike"]) for row in rows(run) if row["loss/llike"]}
    assert in_wandb == pytest.approx(in_csv)
    for kind in ("samples", "reconstructions", "progress"):
        assert [item["trainer/global_step"] for item in history if f"images/{kind}.count" in item] == [4, 8]

    # Phantoms are called phantoms: on the console, in pictures and in the model.
    console = (run / "train.log").read_text()
    assert "These are PHANTOMS" in console
    assert "16 glioma, 16 meningioma, 16 notumor, 16 pituitary" in console
    assert str(run) in console
    with Image.open(run / "images" / "samples_epoch_0001.png") as picture:
        assert picture.info["Description"] == "trained on PHANTOMS (drawings, not MRI)"
    model = torch.load(run / "vae_gan_model.pth", weights_only=True)
    assert model["trained_on"]["kind"] == "phantom"
    assert model["trained_on"]["classes"] == CLASSES
    assert model["training"]["gamma"] == 0.5
    assert model["training"]["batches"] == 8


def test_the_command_that_a_run_ends_with_works_when_it_is_pasted(
    run_command: Run, caplog: pytest.LogCaptureFixture, write_classes: Callable[..., Path]
) -> None:
    root = write_classes(Path("my images (1)"), per_class=20)
    options = [option for option in SMALL if not option.startswith("callbacks.quality")]
    of_data = ["data=mri", "data.root='my images (1)'", "data.split_seed=3", "data.near_copy_correlation=null"]
    said = run_command(
        train, "train", *options, *of_data, "callbacks.quality.n=6", "trainer.max_epochs=2", "logger=csv"
    )
    assert said is None
    assert root.is_dir()
    lines = Path("outputs/latest/train.log").read_text().splitlines()
    (result,) = (line for line in lines if line.startswith("held out"))
    assert re.search(r"PSNR [\d.]+ dB, SSIM [\d.]+, KID -?[\d.]+", result)
    (best,) = (line for line in lines if line.startswith("best epoch"))
    assert re.match(r"best epoch   [12], by KID: .*vae_gan_model_best.pth", best)
    (command,) = (line.partition("python -m ")[2] for line in lines if line.startswith("measure it"))
    module, *typed = shlex.split(command)
    assert module == "vaegan_pl.evaluate"
    assert typed[1:] == ["data=mri", "data.image_size=32", *of_data[1:]]
    assert run_command(evaluate, "evaluate", *typed, "n=8", "seeds=0", "accelerator=cpu") is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["model.gamma=1", "data.batch_size=8"], ["data=phantom"]),
        (
            ["data.per_class.Training=8", "output_root=o"],
            ["data=phantom", "data.per_class.Training=8", "output_root=o"],
        ),
        (["data=report", "data.root=/a b", "~data.aliases"], ["data=report", "'data.root=/a b'", "'~data.aliases'"]),
    ],
)
def test_the_options_of_the_data_are_those_that_name_and_split_images(given: list[str], told: list[str]) -> None:
    assert data_options(told[0].removeprefix("data="), given) == told


def test_it_learns_to_reconstruct_images_it_never_saw(run_command: Run) -> None:
    """200 batches beat the untrained networks by far, and the discriminator's costs stay alive.

    At this size the later convolutions have too few features to outweigh L_prior, so Dis_l is the first.
    """
    overrides = [*FEW, "data.per_class.Training=32", "data.per_class.Testing=8", "logger=csv"]
    untrained = ["optimizer.encoder.lr=0", "optimizer.decoder.lr=0", "optimizer.discriminator.lr=0"]
    assert (
        run_command(train, "train", *overrides, *untrained, "trainer.max_epochs=1", "hydra.run.dir=untrained") is None
    )
    faster = ["optimizer.encoder.lr=1e-3", "optimizer.decoder.lr=1e-3", "trainer.max_steps=200"]
    larger = ["model.gamma=1", "model.similarity_layer=conv1"]
    assert run_command(train, "train", *overrides, *faster, *larger, "hydra.run.dir=trained") is None
    before, after = column(Path("untrained"), "validation/psnr")[-1], column(Path("trained"), "validation/psnr")[-1]
    assert after > before + 3
    assert column(Path("trained"), "validation/ssim")[-1] > column(Path("untrained"), "validation/ssim")[-1] + 0.1
    for name in ("cost_real", "cost_reconstruction", "cost_prior"):
        costs = column(Path("trained"), f"discriminator/{name}")
        assert all(0.01 < cost < 5 for cost in costs)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("~model.prior._target_", "model.prior: is a dict; set model.prior._target_=vaegan_pl.model.losses.Prior"),
        ("~model.adversary._target_", "model.adversary: is a dict; set model.adversary._target_=vaegan_pl.model"),
        ("~data.augmentation._target_", "data.augmentation: is a dict; set data.augmentation._target_=vaegan_pl"),
        ("~model._target_", "model._target_: does not name a model of this project"),
        ("~optimizer.encoder._target_", "optimizer.encoder: lacks its _target_ or _partial_"),
        ("~optimizer.decoder._partial_", "optimizer.decoder"),
    ],
)
def test_parts_without_their_class_are_refused(run_command: Run, option: str, message: str) -> None:
    output = str(run_command(train, "train", *FEW, option))
    assert output.startswith("error: ")
    assert message in output


def test_the_same_seed_trains_the_same_model(run_command: Run) -> None:
    models = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = ["logger=csv", "trainer.max_epochs=1", f"seed={seed}", f"hydra.run.dir={name}"]
        assert run_command(train, "train", *FEW, *options) is None
        models.append(torch.load(f"{name}/vae_gan_model.pth", weights_only=True)["state_dict"]["decoder"])
    a, b, c = (torch.cat([tensor.flatten().float() for tensor in model.values()]) for model in models)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_precision_is_chosen_told_and_kept(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, statistics and optimizers stay in float32 whatever is computed in."""
    for capabilities, chosen in (({"avx512_bf16": True}, "bf16-mixed"), ({}, "32-true")):
        with monkeypatch.context() as patches:
            patches.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
            options = ["logger=csv", "trainer.max_epochs=1", f"hydra.run.dir={chosen}"]
            assert run_command(train, "train", *FEW, *options) is None
        run = Path(chosen)
        assert f"precision    {chosen} (native bfloat16 here: " in (run / "train.log").read_text()
        assert OmegaConf.load(run / "hparams.yaml").trainer.precision == chosen
        assert torch.load(run / "vae_gan_model.pth", weights_only=True)["training"]["precision"] == chosen
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        states = [value for o in checkpoint["optimizer_states"] for s in o["state"].values() for value in s.values()]
        tensors = [*checkpoint["state_dict"].values(), *filter(torch.is_tensor, states)]
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}
    a, b = (
        torch.load(f"{run}/vae_gan_model.pth", weights_only=True)["state_dict"] for run in ("bf16-mixed", "32-true")
    )
    assert not torch.equal(a["decoder"]["image.0.weight"], b["decoder"]["image.0.weight"])


class ReadingSpy(L.Callback):
    """Counts, for each batch, how often a number is read from a tensor, which makes a processor wait for a GPU."""

    reads: ClassVar[list[int]] = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                ReadingSpy.reads[-1] += 1
            return func(*args, **(kwargs or {}))

    def on_train_batch_start(self, *_: object) -> None:
        self.reads.append(0)
        self.mode = ExitStack()
        self.mode.enter_context(self.Mode())  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, *_: object) -> None:
        self.mode.close()


def test_most_batches_read_no_number(run_command: Run) -> None:
    """Without a gate, whose decision is the processor's, numbers are read when they are logged or checked."""
    spy = ["+callbacks.spy._target_=tests.test_train.ReadingSpy", "~callbacks.progress_bar"]
    options = [
        "logger=csv",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=5",
        "+trainer.enable_progress_bar=false",
    ]
    ReadingSpy.reads.clear()
    assert run_command(train, "train", *FEW, "data.per_class.Training=30", *options, *spy) is None
    assert len(ReadingSpy.reads) == 14
    assert [i for i, reads in enumerate(ReadingSpy.reads) if reads] == [0, 4, 9, 10]


def test_max_steps_means_batches(run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "logger=csv", "trainer.max_steps=3", "hydra.run.dir=run") is None
    assert torch.load("run/vae_gan_model.pth", weights_only=True)["training"]["batches"] == 3


@pytest.mark.parametrize(("equilibrium", "rests"), [(100, "discriminator"), (0, "decoder")])
def test_a_gate_rests_a_network_and_batches_still_count(run_command: Run, equilibrium: int, rests: str) -> None:
    gate = ["model/gate=equilibrium", f"model.gate.equilibrium={equilibrium}", "model.gate.margin=0"]
    overrides = [*FEW, "logger=csv", "trainer.max_epochs=1", "hydra.run.dir=run", *gate]
    assert run_command(train, "train", *overrides) is None
    stepped = {name: int(name != rests) for name in ("encoder", "decoder", "discriminator")}
    for name in ("decoder", "discriminator"):
        assert column(Path("run"), f"gate/{name}") == [stepped[name]] * 4
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert [len(state["state"]) > 0 for state in checkpoint["optimizer_states"]] == [*map(bool, stepped.values())]
    assert checkpoint["global_step"] == 4


def test_real_folders_train_and_are_not_called_phantoms(run_command: Run, write_classes: Callable[..., Path]) -> None:
    write_classes(Path("mine"), 10)
    Path("mine/glioma/0.png").rename("mine/glioma/broken.png")
    Path("mine/glioma/broken.png").write_bytes(b"no image")
    options = [
        "data=mri",
        "data.root=mine",
        "data.max_unreadable=1",
        "logger=csv",
        "trainer.max_epochs=1",
        "hydra.run.dir=run",
    ]
    assert run_command(train, "train", *SMALL, "trainer.log_every_n_steps=1", *options) is None
    console = Path("run/train.log").read_text()
    assert "PHANTOM" not in console
    assert "unreadable glioma/broken.png: cannot identify" in console
    assert torch.load("run/vae_gan_model.pth", weights_only=True)["trained_on"]["caption"] == "images of mine"


def test_a_few_batches_of_the_real_data(run_command: Run, mri_root: Path) -> None:
    options = ["data=report", f"data.root={mri_root}", "logger=csv", "trainer.max_steps=3", "hydra.run.dir=run"]
    assert run_command(train, "train", *SMALL, *options) is None
    trained_on = torch.load("run/vae_gan_model.pth", weights_only=True)["trained_on"]
    assert trained_on["kind"] == "images"
    assert trained_on["counts"]["train"] == {"glioma": 1321, "meningioma": 1339, "notumor": 1591, "pituitary": 1457}
    assert "LEAKS      992 of 1311 test images (76%)" in Path("run/train.log").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=mri", "data.root=???"], "data.root is not set; add data.root=VALUE"),
        (["data=mri", "data.root=nowhere"], "data.root=nowhere: no such folder"),
        (["data=mri", "data.root=/dev/null"], "data.root=/dev/null: is a file"),
        (["data=mri", "data.root=incomplete"], "incomplete/pituitary: the class folder is missing"),
        (["data=mri", "data.root=broken"], "cannot be read, more than data.max_unreadable=0.05 allows"),
        (["data.aliases=null"], "data.aliases=None: must map each alternative name to the name of a class"),
        (["data.batch_size=500"], "64 training images are fewer than one batch; lower data.batch_size=500"),
        (["data.image_size=36"], "image_size=36: the model's networks halve images 4 times; use 32 or 48"),
        (["model.gama=1"], "there is no option model.gama; did you mean model.gamma?"),
        (["optimizer.decoder.learning_rate=1"], "there is no option optimizer.decoder.learning_rate"),
        (["model=nosuch"], "model=nosuch: use one of conditional, gan"),
        (["model.gamma=-1"], "model.gamma=-1: must be a number of at least 0"),
        (["trainer.accelerator=quantum"], "use trainer.accelerator=auto"),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed: is not supported; use one of auto, 32-true"),
        (["hydra.run.dir=/dev/null/run"], "/dev/null/run: Not a directory; check the path"),
        (["seed=abc"], "seed=abc: must be a whole number, such as 0"),
        (["seed=-1"], "seed=-1: must lie between 0 and"),
        (["trainer.max_epochs=1.5"], "trainer.max_epochs=1.5: must be a whole number, such as 25"),
        (["trainer.max_steps=0"], "0 would train nothing"),
        (["model.gamma=abc"], "model.gamma=abc: must be a number, such as 0.01"),
        (["data.classes=glioma"], "data.classes=glioma: must be a list"),
        (["optimizer.encoder.lr=-1"], "optimizer.encoder: Invalid learning rate: -1"),
        (["+trainer.gradient_clip_val=1", "logger=csv"], "clip"),
        (["+foo=1"], "there is no option foo"),
        (["~optimizer.decoder"], "must have encoder, decoder, discriminator"),
        (["model.networks.image_size=64"], "set only data.image_size"),
        (["optimizer.decoder.lr=1e30", "logger=csv"], "training stopped"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_with_one_clear_message(
    run_command: Run, write_classes: Callable[..., Path], overrides: list[str], message: str
) -> None:
    write_classes(Path("incomplete"), 1, CLASSES[:3])
    write_classes(Path("broken"), 10)
    for i in range(5):
        Path(f"broken/glioma/{i}.png").write_bytes(b"no image")
    few = [option for option in FEW if not (option.startswith("data.per_class") and "data=mri" in overrides)]
    output = run_command(train, "train", *few, "trainer.max_epochs=12", *overrides)
    assert output is not None
    assert output.startswith("error: ")
    assert message in output


def test_an_interrupt_before_the_first_batch_says_so(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Lightning would exit with 1, without a word."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vaegan_pl.training.callbacks.quality.Quality.on_fit_start", interrupted)
    assert run_command(train, "train", *FEW, "callbacks.quality.n=16") == "130"
    assert "interrupted" in capfd.readouterr().err
    assert not list(Path("outputs").glob("*/*/vae_gan_model.pth"))


def test_several_devices_are_refused_in_a_sweep(run_command: Run) -> None:
    """Jobs of a sweep share one process, which Lightning would start again for every further device."""
    ranked = ["sweep.objective=validation/psnr", "sweep.direction=maximize"]
    output = run_command(train, "train", "--multirun", *FEW, *ranked, "trainer.devices=2", "model.gamma=0.1,1")
    assert output == (
        "error: 2 of 2 jobs failed; job 0: trainer.devices: 2 devices do not work in a sweep (--multirun), whose jobs "
        "share one process; use trainer.devices=1, or start each run separately"
    )
    assert not list(Path("outputs").glob("multirun/**/vae_gan_model.pth"))


def test_a_run_is_never_overwritten(run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "logger=csv", "trainer.max_steps=1", "hydra.run.dir=run") is None
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    latest = Path("outputs/latest").resolve()
    output = run_command(train, "train", *FEW, "hydra.run.dir=run", "model.gamma=99")
    assert output is not None
    assert "run: already contains a run (checkpoints); choose another hydra.run.dir" in output
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert Path("outputs/latest").resolve() == latest


def test_lost_numbers_never_replace_a_good_model(run_command: Run) -> None:
    """The parameters explode in the only batch after its losses were taken, so no loss shows it."""
    options = ["logger=csv", "trainer.max_steps=1", "optimizer.encoder.lr=1e38", "hydra.run.dir=run"]
    output = run_command(train, "train", *FEW, *options)
    assert output is not None
    assert "is not finite in epoch 1, after 1 batches" in output
    assert not Path("run/vae_gan_model.pth").exists()
    assert not Path("run/checkpoints").exists()


def test_a_run_cut_short_says_how_far_it_came(run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "logger=csv", "trainer.max_steps=6", "hydra.run.dir=run") is None
    assert torch.load("run/vae_gan_model.pth", weights_only=True)["training"]["epochs"] == 1.5
    assert "1.5 of 25 epochs, 6 batches" in Path("run/train.log").read_text()


def test_a_mistake_in_a_real_process_shows_no_traceback() -> None:
    command = [sys.executable, "-m", "vaegan_pl.train", "data=mri", "data.root=nowhere"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HYDRA_FULL_ERROR": "0"}, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: data.root=nowhere: no such folder; set data.root to the folder of your images\n"
    assert done.stdout == ""
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HYDRA_FULL_ERROR": "1"}, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
