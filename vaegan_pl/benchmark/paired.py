"""Time variants of the training step in turn, each in its own process, so that other load affects all alike."""

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch

from vaegan_pl.benchmark.lean import LeanStep, synchronise
from vaegan_pl.benchmark.naive import NaiveStep
from vaegan_pl.errors import UserError
from vaegan_pl.hardware import prepare_cpu
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.generative import GenerativeModel
from vaegan_pl.progress import track
from vaegan_pl.training.lightning_module import OptimizerFactory, VAEGANModule

Build = Callable[[], tuple[GenerativeModel, Mapping[str, OptimizerFactory]]]
NAIVE = "naive loop"
WARM_UP = 3


class Variant(NamedTuple):
    """A variant of the training step.

    Attributes:
        build: returns the model and its optimizers; called in the variant's own process.
        batch_size: images per step; they are random noise.
    """

    build: Build
    batch_size: int


@dataclass
class Timing:
    """Measurements of one variant. Lists hold one value per round; they are empty where a variant has none.

    Attributes:
        batch_size: images per step.
        seconds: duration of the step.
        sampled: images per second when sampling; lean variants only.
        matrix_rates: floating-point operations per second of a matrix product; lean variants only.
        flops: floating-point operations of the step's matrix products and convolutions; lean variants only.
        parts: seconds of the step by part; lean variants only.
        peak_bytes: peak memory, of the process on a CPU, of tensors on a CUDA device; 0 (unknown) elsewhere.
    """

    batch_size: int
    seconds: list[float] = field(default_factory=list)
    sampled: list[float] = field(default_factory=list)
    matrix_rates: list[float] = field(default_factory=list)
    flops: int = 0
    parts: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def fraction(self) -> float:
        """Rate of the step's operations relative to the rate of a matrix product, median over rounds."""
        rounds = zip(self.seconds, self.matrix_rates, strict=True)
        return median(self.flops / seconds / rate for seconds, rate in rounds)


def speedup(slow: Timing, fast: Timing) -> float:
    """How many times faster `fast` processes an image than `slow`, median over rounds."""
    ratio = median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))
    return ratio * fast.batch_size / slow.batch_size


def measure(variants: Mapping[str, Variant], device: torch.device, rounds: int) -> dict[str, Timing]:
    """Time each variant once per round. The order rotates from round to round.

    Args:
        variants: by name, which is `NAIVE` or ends in the precision, 32-true or bf16-mixed.
        device: device to compute on.
        rounds: how many times each variant is timed, after `WARM_UP` steps.

    Raises:
        UserError: if a process ends early, e.g. for lack of memory; its own message has been printed.
    """
    names = list(variants)
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    timings = {name: Timing(variant.batch_size) for name, variant in variants.items()}
    processes = []
    turns = [name for i in range(rounds) for name in (*names[i % len(names) :], *names[: i % len(names)])]
    try:
        for name, variant in track(variants.items(), "preparing the variants", "variant"):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, variant, name, str(device)), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            workers[name] = ours
            _answer(name, ours)
        for name in track(turns, "timing steps", "step"):
            workers[name].send(None)
            seconds, sampled, rate, flops, parts, peak = _answer(name, workers[name])
            timing = timings[name]
            timing.seconds.append(seconds)
            timing.flops, timing.peak_bytes = flops, peak
            if name != NAIVE:
                timing.sampled.append(sampled)
                timing.matrix_rates.append(rate)
                timing.parts.append(parts)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return timings


def _answer(name: str, pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise UserError(
            f"the process that timed {name} ended early; if it ran out of memory, lower data.batch_size"
        ) from error


def _work(pipe: Connection, variant: Variant, name: str, place: str) -> None:
    device = torch.device(place)
    if device.type == "cpu" and name != NAIVE:
        prepare_cpu()
    torch.manual_seed(0)
    model, optimizers = variant.build()
    size = model.networks.image_size
    x = torch.rand(variant.batch_size, model.networks.image_channels, size, size, device=device) * 2 - 1
    lean = None
    if name == NAIVE:
        networks = model.networks.to(device)
        own = [optimizers[each](getattr(networks, each).parameters()) for each in model.NETWORKS]
        assert isinstance(model, VAEGAN)
        step: Any = NaiveStep(networks, own, model.gamma, model.similarity_layer)
    else:
        torch.backends.cudnn.benchmark = True
        step = lean = LeanStep(VAEGANModule(model, optimizers, None, seed=0).to(device), name.endswith("bf16-mixed"))
    for _ in range(WARM_UP):
        step(x)
    pipe.send(None)
    flops = 0
    while True:
        pipe.recv()
        rate = lean.matrix_rate() if lean else 0.0
        synchronise(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = perf_counter()
        step(x)
        synchronise(device)
        seconds = perf_counter() - start
        peak, sampled, parts = _peak_bytes(device), 0.0, {}
        if lean:
            flops = flops or lean.flops(x)
            parts = lean.parts(x)
            start = perf_counter()
            lean.sample(variant.batch_size)
            synchronise(device)
            sampled = variant.batch_size / (perf_counter() - start)
        pipe.send((seconds, sampled, rate, flops, parts, peak))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
