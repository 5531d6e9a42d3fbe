"""Check and measure training on this machine's GPU: `make gpu`. Without one it does the same on the CPU, shortened.

Every part runs in a process of its own, so that one failure leaves the others. Nothing is installed or downloaded.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NEEDED = ["torch", "torchvision", "lightning", "hydra", "omegaconf", "torchmetrics", "jaxtyping", "jinja2", "tqdm",
          "matplotlib", "sklearn", "scipy", "yaml", "onnxscript", "onnxruntime", "safetensors"]  # fmt: skip
MODELS = ("larsen", "larsen_plus")
PRECISIONS = ("bf16-mixed", "32-true")
FULL = {"epochs": 3, "steps": 20, "timed": 60, "images": {"larsen": 5708, "larsen_plus": 2898}, "whole": 25}
SHORT = {"epochs": 2, "steps": 3, "timed": 2, "images": {"larsen": 160, "larsen_plus": 160}, "whole": 2}
SMALL = [
    "data.batch_size=16",
    "model.networks.encoder_channels=[8,16,32]",
    "model.networks.decoder_channels=[32,32,16,8]",
    "model.networks.discriminator_channels=[8,16,32,32]",
]
FIRST = {"32-true": 1e-4, "bf16-mixed": 1e-2}
"""Largest relative difference of a loss of the first step to the CPU's in float32."""

LATER = {"32-true": 0.1, "bf16-mixed": 0.3}
"""Largest median of these differences over the steps after it.

RMSProp's first steps are as large where a gradient is nearly 0 as elsewhere, so rounding grows fast: on a CPU, float32
strays from float64 by 2e-2 within 12 steps, bfloat16 by 8e-2.
"""

REPLAYS = 30
PROFILER = "lightning.pytorch.profilers.SimpleProfiler"
LAUNCHES = re.compile(r"cu(da)?(LaunchKernel\w*|GraphLaunch|Mem(cpy|set)Async)")


class Place:
    """Where a campaign runs, and on what.

    Args:
        folder: where everything is written.
        short: whether it is shortened.
        data: a folder of images to train on; without one, random images are made.
    """

    def __init__(self, folder: Path, short: bool, data: Path | None) -> None:
        import torch

        self.folder = folder
        self.short = short
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.sizes: dict[str, Any] = SHORT if short else FULL
        self.phantoms = [
            f"output_root={folder / 'phantoms'}",
            "data.per_class.Training=64",
            "data.per_class.Testing=32",
        ]
        self.phantoms += SMALL if short else []
        self.data = data
        self.accelerator = "gpu" if self.device.type == "cuda" else "cpu"

    def images(self, model: str) -> list[str]:
        """Options that train a model on as many images as the campaign asks for."""
        root = self.data or self.folder / f"images_{self.sizes['images'][model]}"
        if self.data is None and not root.exists():
            write_images(root, self.sizes["images"][model])
        as_it_is = self.data is None or model == "larsen"  # all images, as the report did
        kind = "data=report" if as_it_is else "data=mri"
        return [kind, f"data.root={root}", f"output_root={self.folder / model}", *self.small]

    @property
    def small(self) -> list[str]:
        """Options that make networks small, where the campaign is shortened."""
        return SMALL if self.short else []

    def command(self, name: str, *options: str, accelerator: str | None = None) -> tuple[float, str]:
        """Run one of the project's commands; its seconds and what it said.

        Raises:
            RuntimeError: if it fails, with the end of what it said.
        """
        of_trainer = "trainer.accelerator" if name == "train" else "accelerator"
        where = [f"{of_trainer}={accelerator or self.accelerator}"]
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", f"vaegan_pl.{name}", *options, *where], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{name} {' '.join(options)}: {(done.stdout + done.stderr)[-1500:]}")
        return time.monotonic() - start, done.stdout + done.stderr


def recipe(model: str) -> str:
    """The option that trains a model as it should be."""
    return f"experiment={model}" if model == "larsen_plus" else f"model={model}"


def write_images(root: Path, training: int) -> None:
    """Random grey images of heads' size, so that data of a stated size is there without a download."""
    random = np.random.default_rng(0)
    for split, n in (("Training", training), ("Testing", 160)):
        for i in range(n):
            path = root / split / ("glioma", "meningioma", "notumor", "pituitary")[i % 4] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = random.integers(0, 256, (12, 12), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path)


def trained(place: Place, model: str, precision: str) -> dict[str, Any]:
    """A few epochs of the training command, and what it left."""
    run = place.folder / f"train_{model}_{precision}"
    epochs = place.sizes["epochs"]
    seconds, said = place.command(
        "train", *place.phantoms, recipe(model), f"trainer.precision={precision}", f"trainer.max_epochs={epochs}",
        "logger=csv", f"hydra.run.dir={run}",
    )  # fmt: skip
    assert (run / "vae_gan_model.pth").exists(), said
    rows = (run / "metrics.csv").read_text().splitlines()
    assert "nan" not in "".join(rows)
    warned = [line for line in said.splitlines() if "CUDA graph" in line]
    assert not warned, warned
    return {"seconds": round(seconds, 1), "rows": len(rows)}


def resumed(place: Place) -> dict[str, Any]:
    """A run that was stopped and resumed ends in the same bits as one that was not."""
    import torch

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    same = [
        *place.phantoms,
        "experiment=larsen_plus",
        "+trainer.deterministic=true",
        "trainer.benchmark=false",
        "logger=csv",
    ]
    for run, epochs in (("whole", 3), ("stopped", 2)):
        place.command("train", *same, f"trainer.max_epochs={epochs}", f"hydra.run.dir={place.folder / run}")
    place.command("train", *place.phantoms[:1], f"resume={place.folder / 'stopped'}", "trainer.max_epochs=3")
    models = [
        torch.load(place.folder / run / "vae_gan_model.pth", map_location="cpu", weights_only=True)
        for run in ("whole", "stopped")
    ]
    different = [
        f"{network}.{name}"
        for network, tensors in models[0]["state_dict"].items()
        for name, tensor in tensors.items()
        if not torch.equal(tensor, models[1]["state_dict"][network][name])
    ]
    assert not different, different
    return {"equal": "bit for bit"}


def used(place: Place) -> dict[str, Any]:
    """Files trained on the CPU open on the GPU and the other way round; every command runs."""
    here, there = place.folder / "used_here", place.folder / "used_cpu"
    few = [*place.phantoms, *SMALL, "trainer.max_epochs=1", "logger=csv", "callbacks.quality.n=0"]
    place.command("train", *few, f"hydra.run.dir={here}")
    place.command("train", *few, f"hydra.run.dir={there}", accelerator="cpu")
    seconds = {}
    for run, accelerator in ((here, "cpu"), (there, place.accelerator)):
        weights = f"weights={run / 'vae_gan_model.pth'}"
        place.command("sample", weights, "n=8", f"output={run / 'drawn'}", accelerator=accelerator)
        assert len(list((run / "drawn").rglob("*.png"))) >= 8
    weights = f"weights={here / 'vae_gan_model.pth'}"
    root = place.folder / "phantoms" / "phantoms"
    seconds["evaluate"], _ = place.command(
        "evaluate", weights, "data=phantom", *place.phantoms[:3], "n=64", "seeds=1", f"output={here / 'evaluation'}"
    )
    place.command("export", weights, "format=onnx", f"output={here / 'exported'}")
    seconds["reconstruct"], _ = place.command(
        "reconstruct", weights, f"images={root / 'Testing' / 'glioma'}", f"output={here / 'pairs.png'}"
    )
    return {name: round(value, 1) for name, value in seconds.items()}


def fitted(place: Place, model: str, precision: Any, steps: int, device: str, **choices: Any) -> Any:
    """What is noted of the first steps of a model under Lightning's Trainer.

    Args:
        place: see `Place`.
        model: its name.
        precision: Lightning's name of it.
        steps: how many.
        device: what computes.
        **choices: `options` of the configuration; `graph` records the step; `same_noise` draws it on the CPU, and notes
            the losses; `warm` notes the time from that step on; `at_end` is given the module when all is done.
    """
    import lightning as L
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from vaegan_pl.cli.commands import CONFIG_DIRECTORY
    from vaegan_pl.model.batch import Noise
    from vaegan_pl.training.lightning_module import VAEGANModule

    class SameNoise(VAEGANModule):
        def _noise(self, batch: int, step: int) -> Noise:
            if not choices.get("same_noise"):
                return super()._noise(batch, step)
            generator = torch.Generator().manual_seed(step)
            shape = 2, batch, self.model.networks.latent_dim
            normal = torch.randn(shape, generator=generator, dtype=torch.float32).to(
                self.device, next(self.parameters()).dtype
            )
            uniform = torch.rand(batch, self.model.uniform, generator=generator, dtype=torch.float32)
            return Noise(normal[0], normal[1], uniform.to(self.device, next(self.parameters()).dtype))

    class Losses(L.Callback):
        """Notes what each step lost, or when the steps between two began and ended."""

        def __init__(self) -> None:
            self.losses: list[dict[str, float]] = []
            self.times: list[float] = []
            self.found: dict[str, Any] = {}

        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if "at_end" in choices:
                self.found = choices["at_end"](pl_module)

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.log_every_n_steps == 1:  # type: ignore[attr-defined]
                found = trainer.callback_metrics.items()
                self.losses.append({name: float(value) for name, value in found if "/" in name})
            elif trainer.global_step in (choices["warm"], steps):
                if device == "cuda":
                    torch.cuda.synchronize()
                self.times.append(time.perf_counter())

    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        config = compose(
            "train", [recipe(model), *place.images(model), *choices.get("options", []), "directory=unused"]
        )
    L.seed_everything(0, verbose=False)
    data = instantiate(config.data, _convert_="all")
    optimizers = instantiate(config.optimizer, _convert_="all")
    schedule = optimizers.pop("schedule")
    network = instantiate(config.model, _convert_="all")
    module = SameNoise(network, optimizers, schedule, 0, graph=choices.get("graph", True))
    losses = Losses()
    trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, precision=precision, max_steps=steps,
        log_every_n_steps=1 if "warm" not in choices else 1000, logger=False, callbacks=[losses],
        benchmark=not choices.get("same_noise"), limit_val_batches=0, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0, max_epochs=-1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return losses


def compared(place: Place, model: str) -> dict[str, Any]:
    """The first steps' losses, against the CPU's and, with and without a CUDA graph, against each other."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    import torch

    steps, device = place.sizes["steps"], place.device.type
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.allow_tf32 = False
    few = ["data.batch_size=16"]
    on_cpu = fitted(place, model, "32-true", steps, "cpu", same_noise=True, options=few).losses
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        eager, graph = (
            fitted(place, model, precision, steps, device, same_noise=True, options=few, graph=graph).losses
            for graph in (False, True)
        )
        assert len(eager) == len(on_cpu) == steps
        apart = [
            [abs(row[name] - there[name]) / abs(there[name]) for name in there if name.startswith("loss/")]
            for row, there in zip(eager, on_cpu, strict=True)
        ]
        found[precision] = {
            "first step to the CPU": max(apart[0]),
            "median later": float(np.median(apart[1:])),
            "graph equals eager": eager == graph,
        }
    for precision, row in found.items():
        assert row["graph equals eager"], found
        assert row["first step to the CPU"] < FIRST[precision], found
        assert row["median later"] < LATER[precision], found
    return found


def timed(place: Place, model: str, precision: str) -> dict[str, Any]:
    """What a step takes, launched piece by piece and replayed, and of what it is made."""
    import torch

    from vaegan_pl.benchmark.lean import LeanStep

    torch.set_float32_matmul_precision("high")
    device, steps, warm = place.device.type, place.sizes["timed"], 2 if place.short else 20

    def of_eager(module: Any) -> dict[str, Any]:
        lean, networks = LeanStep(module, precision == "bf16-mixed"), module.model.networks
        size = module.trainer.datamodule.batch_size
        x = torch.rand(size, 1, networks.image_size, networks.image_size, device=module.device) * 2 - 1
        found = {"batch": size, "TFLOP": lean.flops(x) / 1e12, "matrix TFLOP/s": lean.matrix_rate() / 1e12}
        return found | _launches(lean, x)

    def of_graph(module: Any) -> dict[str, Any]:
        if module.recordings is None:
            return {}
        replays = [recorded.replay for _, recorded in module.recordings.known.values() if recorded.replay]
        seconds = _seconds(lambda: [replay() for replay in replays])
        return {"replays": len(replays), "replay ms": 1000 * seconds}

    found: dict[str, Any] = {}
    for name, graph, at_end in (("eager", False, of_eager), ("graph", True, of_graph)):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        noted = fitted(place, model, precision, steps + warm, device, graph=graph, warm=warm, at_end=at_end)
        found[f"{name} ms"] = 1000 * (noted.times[1] - noted.times[0]) / steps
        found |= noted.found
        if device == "cuda":
            found[f"{name} peak GB"] = torch.cuda.max_memory_allocated() / 1e9
    found["images/s"] = 1000 * found["batch"] / found["graph ms"]
    found["share of the matrix rate"] = 1000 * found["TFLOP"] / found["graph ms"] / found["matrix TFLOP/s"]
    found["times eager"] = found["eager ms"] / found["graph ms"]
    return found


def _seconds(what: Callable[[], object]) -> float:
    import torch

    what()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(REPLAYS):
        what()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / REPLAYS


def _launches(step: Callable[[Any], None], x: Any) -> dict[str, Any]:
    """How often a step tells the GPU something, how long the GPU works, and the kernels that take longest."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if not x.is_cuda:
        return {}
    step(x)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step(x)
        torch.cuda.synchronize()
    table = profiler.key_averages()
    kernels = sorted(table, key=lambda row: -row.self_device_time_total)
    return {
        "launches": sum(row.count for row in table if LAUNCHES.fullmatch(row.key)),
        "kernels ms": sum(row.self_device_time_total for row in kernels) / 1000,
        "kernels": [
            f"{row.self_device_time_total / 1000:8.3f} ms {row.count:4d} x {row.key[:110]}" for row in kernels[:30]
        ],
    }


def whole(place: Place, model: str) -> dict[str, Any]:
    """The training command from its start to the saved model."""
    run = place.folder / f"whole_{model}"
    epochs = place.sizes["whole"]
    seconds, _ = place.command(
        "train", *place.images(model), recipe(model), f"trainer.max_epochs={epochs}", "logger=csv",
        f"+trainer.profiler={{_target_:{PROFILER},dirpath:{run},filename:spent}}", f"hydra.run.dir={run}",
    )  # fmt: skip
    assert (run / "vae_gan_model.pth").exists()
    (report,) = run.glob("*spent*.txt")
    rows = r"^\|\s*(\S.*?)\s*\|\s*[\d.e+-]+\s*\|\s*(\d+)\s*\|\s*([\d.]+)\s*\|"
    spent = re.findall(rows, report.read_text(), re.MULTILINE)
    stepping = next(float(total) for name, _, total in spent if name == "run_training_batch")
    lines = [f"{total:>8} s {calls:>6} x {name}" for name, calls, total in spent[:30]]
    return {"seconds": seconds, "stepping": stepping / seconds, "spent": lines}


def several(place: Place) -> dict[str, Any]:
    """Two devices, where there are two."""
    import torch

    if torch.cuda.device_count() < 2:
        return {"devices": torch.cuda.device_count()}
    seconds, _ = place.command(
        "train", *place.phantoms, "trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1", "logger=csv",
        f"hydra.run.dir={place.folder / 'ddp'}",
    )  # fmt: skip
    return {"devices": 2, "seconds": seconds}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "trained": trained,
    "resumed": resumed,
    "used": used,
    "compared": compared,
    "timed": timed,
    "whole": whole,
    "several": several,
}


def run_part(arguments: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """Do one part in a process of its own; its findings, or why it failed."""
    start = time.monotonic()
    options = ["--output", str(arguments.output), *(["--short"] if arguments.short else [])]
    options += ["--data", str(arguments.data)] if arguments.data else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu", *options, "--part", *words], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    try:
        found = json.loads(lines[-1]) if done.returncode == 0 else {"FAILED": done.stderr[-2500:]}
    except (IndexError, ValueError):
        found = {"FAILED": (done.stdout + done.stderr)[-2500:]}
    sys.stdout.write(f"[{time.monotonic() - start:5.0f} s] {' '.join(words)}: {json.dumps(found)[:3000]}\n")
    sys.stdout.flush()
    return found


def table(results: dict[str, Any]) -> str:
    """What was measured, a row for each model and precision."""
    columns = {
        "eager ms": "{:.2f}",
        "graph ms": "{:.2f}",
        "replay ms": "{:.2f}",
        "times eager": "{:.1f}",
        "launches": "{:.0f}",
        "images/s": "{:.0f}",
        "share of the matrix rate": "{:.0%}",
        "graph peak GB": "{:.1f}",
    }
    lines = ["", "".join(f"{name:>26}" if name == "share of the matrix rate" else f"{name:>15}" for name in columns)]
    for part, found in results.items():
        if part.startswith("timed") and "FAILED" not in found:
            cells = [form.format(found[name]) if name in found else "" for name, form in columns.items()]
            lines.append(
                "".join(f"{cell:>{max(15, len(name) + 2)}}" for cell, name in zip(cells, columns, strict=True))
            )
            lines[-1] += f"   {part.removeprefix('timed ')}"
        elif part.startswith("whole") and "FAILED" not in found:
            took, share = found["seconds"], found["stepping"]
            lines.append(f"{part}: {took:.0f} s from the command to the saved model, {share:.0%} of it steps")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do everything, print a table and write `gpu.json`; exits with 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--data", type=Path, help="class folders to train on, instead of random images")
    parser.add_argument("--short", action="store_true", help="small networks, few steps")
    parser.add_argument("--only", nargs="*", help="names of parts")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; make install")
    import torch

    arguments.short |= not torch.cuda.is_available()
    arguments.output = arguments.output.resolve()
    arguments.output.mkdir(parents=True, exist_ok=True)
    place = Place(arguments.output, arguments.short, arguments.data and arguments.data.resolve())
    if arguments.part:
        name, *words = arguments.part
        found = PARTS[name](place, *words)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    results: dict[str, Any] = {"device": card, "torch": torch.__version__, "short": arguments.short}
    pairs = [(model, precision) for model in MODELS for precision in PRECISIONS]
    together: list[tuple[str, ...]] = [("trained", *pair) for pair in pairs]
    together += [*(("compared", model) for model in MODELS), ("resumed",), ("used",), ("several",)]
    alone: list[tuple[str, ...]] = [("timed", *pair) for pair in pairs]
    alone += [("whole", model) for model in MODELS]
    if arguments.only:
        together, alone = ([words for words in each if words[0] in arguments.only] for each in (together, alone))
    for model in MODELS:
        place.images(model)
    for words in alone:
        results[" ".join(words)] = run_part(arguments, words)
        (arguments.output / "gpu.json").write_text(json.dumps(results, indent=1))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (len(together) or 1))))
    if together:
        place.command("train", *place.phantoms, *SMALL, "trainer.max_epochs=1", "logger=csv")  # phantoms and features
    with ThreadPoolExecutor(2 if card == "CPU" else len(together) or 1) as pool:
        for words, found in zip(together, pool.map(lambda words: run_part(arguments, words), together), strict=True):
            results[" ".join(words)] = found
    (arguments.output / "gpu.json").write_text(json.dumps(results, indent=1))
    sys.stdout.write(table(results))
    failed = [name for name, found in results.items() if isinstance(found, dict) and "FAILED" in found]
    sys.stdout.write(f"{card}, torch {torch.__version__}: {len(failed)} parts failed {failed}\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
