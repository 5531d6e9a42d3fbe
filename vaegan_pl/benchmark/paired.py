"""Variants of the training step, each in its own process, timed in turns so that all meet the same disturbances."""

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from vaegan_pl.benchmark.lean import LeanStep, synchronise
from vaegan_pl.benchmark.naive import NaiveStep
from vaegan_pl.errors import UserError
from vaegan_pl.hardware import prepare_cpu
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.generative import GenerativeModel
from vaegan_pl.training.lightning_module import OptimizerFactory, VAEGANModule

Build = Callable[[], tuple[GenerativeModel, Mapping[str, OptimizerFactory]]]
NAIVE = "naive loop"
WARM_UP = 3


class Variant(NamedTuple):
    """What is timed.

    Attributes:
        build: makes the model and its optimizers, in a process of its own.
        batch_size: images in a batch; they are noise.
    """

    build: Build
    batch_size: int


@dataclass
class Timing:
    """What was measured of one variant.

    Attributes:
        batch_size: images in a step.
        seconds: of each step, in the order of the rounds.
        sampled: images a second when sampling, in the order of the rounds; lean variants only.
        matrix_rates: operations a second of a matrix product, in the order of the rounds; lean variants only.
        flops: operations of the step's products and convolutions; lean variants only.
        parts: seconds by part, one for each round; lean variants only.
        peak_bytes: most memory held: of the process on the CPU, of tensors on CUDA devices; elsewhere 0, unknown.
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
        """The step's share of the rate of a matrix product, median over rounds."""
        rounds = zip(self.seconds, self.matrix_rates, strict=True)
        return median(self.flops / seconds / rate for seconds, rate in rounds)


def speedup(slow: Timing, fast: Timing) -> float:
    """How many times faster an image is done with, median over rounds."""
    ratio = median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))
    return ratio * fast.batch_size / slow.batch_size


def measure(variants: Mapping[str, Variant], device: torch.device, rounds: int) -> dict[str, Timing]:
    """Time each variant once a round, in an order that turns from round to round.

    Args:
        variants: each called `NAIVE`, or by any words that end in its precision, 32-true or bf16-mixed.
        device: what computes.
        rounds: how many times each is timed, after `WARM_UP` steps.

    Raises:
        UserError: if a process ends early, for want of memory, say; its own words have been printed.
    """
    names = list(variants)
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    timings = {name: Timing(variant.batch_size) for name, variant in variants.items()}
    processes = []
    bar = tqdm(total=len(variants) * (1 + rounds), desc="steps in turns", unit="step", leave=False)
    try:
        for name, variant in variants.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, variant, name, str(device)), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            workers[name] = ours
            _answer(name, ours)
            bar.update()
        for i in range(rounds):
            for name in (*names[i % len(names) :], *names[: i % len(names)]):
                bar.set_postfix_str(name)
                workers[name].send(None)
                seconds, sampled, rate, flops, parts, peak = _answer(name, workers[name])
                timing = timings[name]
                timing.seconds.append(seconds)
                timing.flops, timing.peak_bytes = flops, peak
                if name != NAIVE:
                    timing.sampled.append(sampled)
                    timing.matrix_rates.append(rate)
                    timing.parts.append(parts)
                bar.update()
    finally:
        bar.close()
        for process in processes:
            process.kill()
            process.join()
    return timings


def _answer(name: str, pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise UserError(
            f"the process that timed {name} ended early; a smaller data.batch_size needs less memory"
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
