"""Variants of the training step, each in its own process, timed in turns so that all meet the same disturbances."""

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

from vaegan_pl.errors import UserError
from vaegan_pl.hardware import prepare_cpu
from vaegan_pl.measure.lean import LeanStep, synchronise
from vaegan_pl.measure.naive import NaiveStep
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.generative import GenerativeModel
from vaegan_pl.model.lightning_module import OptimizerFactory, VAEGANModule

Build = Callable[[], tuple[GenerativeModel, Mapping[str, OptimizerFactory]]]
NAIVE = "naive loop"
WARM_UP = 3


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


def measure(
    builds: Mapping[str, Build], device: torch.device, batch_sizes: Mapping[str, int], rounds: int
) -> dict[str, Timing]:
    """Time each variant once a round, in an order that turns from round to round.

    Args:
        builds: for each variant, what makes its model and optimizers, in a process of its own. A variant is called
            `NAIVE`, or by any words that end in its precision, 32-true or bf16-mixed.
        device: what computes.
        batch_sizes: images in a batch of each variant; they are noise.
        rounds: how many times each is timed, after `WARM_UP` steps.

    Raises:
        UserError: if a process ends early, for want of memory, say; its own words have been printed.
    """
    variants = list(builds)
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    timings = {variant: Timing(batch_sizes[variant]) for variant in variants}
    processes = []
    bar = tqdm(total=len(variants) * (1 + rounds), desc="steps in turns", unit="step", leave=False)
    try:
        for variant in variants:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, builds[variant], variant, str(device), batch_sizes[variant]), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            workers[variant] = ours
            _answer(variant, ours)
            bar.update()
        for i in range(rounds):
            for variant in (*variants[i % len(variants) :], *variants[: i % len(variants)]):
                bar.set_postfix_str(variant)
                workers[variant].send(None)
                seconds, sampled, rate, flops, parts, peak = _answer(variant, workers[variant])
                timing = timings[variant]
                timing.seconds.append(seconds)
                timing.flops, timing.peak_bytes = flops, peak
                if variant != NAIVE:
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


def _answer(variant: str, pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise UserError(
            f"the process that timed {variant} ended early; a smaller data.batch_size needs less memory"
        ) from error


def _work(pipe: Connection, build: Build, variant: str, place: str, batch_size: int) -> None:
    device = torch.device(place)
    if device.type == "cpu" and variant != NAIVE:
        prepare_cpu()
    torch.manual_seed(0)
    model, optimizers = build()
    size = model.networks.image_size
    x = torch.rand(batch_size, model.networks.image_channels, size, size, device=device) * 2 - 1
    lean = None
    if variant == NAIVE:
        networks = model.networks.to(device)
        own = [optimizers[name](getattr(networks, name).parameters()) for name in model.NETWORKS]
        assert isinstance(model, VAEGAN)
        step: Any = NaiveStep(networks, own, model.gamma, model.similarity_layer)
    else:
        torch.backends.cudnn.benchmark = True
        step = lean = LeanStep(VAEGANModule(model, optimizers, None, seed=0).to(device), variant.endswith("bf16-mixed"))
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
            lean.sample(batch_size)
            synchronise(device)
            sampled = batch_size / (perf_counter() - start)
        pipe.send((seconds, sampled, rate, flops, parts, peak))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
