"""Write the benchmark's results as a table, JSON and a chart."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure

from vaegan_pl.benchmark.epoch import Epoch
from vaegan_pl.benchmark.paired import NAIVE, Timing, speedup
from vaegan_pl.hardware import native_bfloat16
from vaegan_pl.report.page import drawn
from vaegan_pl.storage.files import atomic_write
from vaegan_pl.storage.outputs import MADE_BY


@dataclass(frozen=True)
class Speed:
    """Results of the benchmark.

    Attributes:
        device: device that computed.
        chosen: the precision that training uses on it.
        timings: of each variant of the step, by name.
        epoch: of a whole epoch in the chosen precision.
    """

    device: torch.device
    chosen: str
    timings: Mapping[str, Timing]
    epoch: Epoch

    @property
    def machine(self) -> str:
        """Device, threads and versions in one line."""
        if self.device.type == "cpu":
            name = torch.cpu.get_capabilities().get("cpu_name", "CPU")
        elif self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = self.device.type
        native = native_bfloat16(self.device) or "none"
        versions = f"torch {torch.__version__}, Python {platform.python_version()}"
        return f"{name}, {torch.get_num_threads()} CPU threads, native bfloat16: {native}; {versions}"

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of a step in the chosen precision by part, median over rounds."""
        rounds = self.timings[self.chosen].parts
        return {part: median(parts[part] for parts in rounds) for part in rounds[0]}

    def table(self) -> str:
        """All results as text."""
        naive = self.timings[NAIVE]
        lines = [
            self.machine,
            "",
            f"{'step':<20}{'images':>7}{'seconds':>9}{'images/s':>10}{'x naive':>9}{'memory':>10}{'matrix product':>17}"
            f"{'share':>7}",
        ]
        for variant, timing in self.timings.items():
            seconds = median(timing.seconds)
            row = f"{variant:<20}{timing.batch_size:>7}{seconds:>9.3f}{timing.batch_size / seconds:>10.1f}"
            row += f"{speedup(naive, timing):>9.1f}"
            row += f"{timing.peak_bytes / 2**30:>7.1f} GB" if timing.peak_bytes else f"{'unknown':>10}"
            if variant != NAIVE:
                row += f"{median(timing.matrix_rates) / 1e12:>9.2f} TFLOP/s{timing.fraction:>7.0%}"
            lines.append(row)
        lines.append(f"sampling in float32: {median(self.timings[self.chosen].sampled):.0f} images/s")
        for title, parts in (
            (f"a step in {self.chosen}", self.parts),
            (f"an epoch of {self.epoch.batches} batches", self.epoch.parts),
        ):
            whole = sum(parts.values())
            lines += ["", f"{title:<28}{whole:>9.2f} s"]
            lines += [f"  {part:<26}{seconds:>9.3f} s{seconds / whole:>6.1%}" for part, seconds in parts.items()]
        lines += [
            "",
            f"start-up, not part of the epoch: {self.epoch.start_up:.1f} s",
            f"data, logging, pictures and checkpoints: {self.epoch.overhead:.1%} of the epoch",
        ]
        return "\n".join(lines)


def write(speed: Speed, directory: Path) -> list[Path]:
    """Write `benchmark.json` and `benchmark.png`; return both paths."""
    figures = {
        "made_by": MADE_BY,
        "machine": speed.machine,
        "precision": speed.chosen,
        "steps": {
            variant: {
                **asdict(timing),
                "times_naive": speedup(speed.timings[NAIVE], timing),
                "share_of_matrix_rate": timing.fraction if variant != NAIVE else None,
            }
            for variant, timing in speed.timings.items()
        },
        "parts": speed.parts,
        "epoch": {**asdict(speed.epoch), "overhead": speed.epoch.overhead},
    }
    paths = [directory / "benchmark.json", directory / "benchmark.png"]
    atomic_write(paths[0], json.dumps(figures, indent=1), durable=False)
    atomic_write(paths[1], drawn(_chart(speed), 90), durable=False)
    return paths


def _chart(speed: Speed) -> Figure:
    figure = Figure(figsize=(13, 4), layout="constrained")
    figure.suptitle(speed.machine, fontsize=9, parse_math=False)
    steps, parts, epoch = figure.subplots(1, 3)
    naive = speed.timings[NAIVE]
    times = {variant: speedup(naive, timing) for variant, timing in speed.timings.items()}
    for axes, title, unit, bars in (
        (steps, "training speed per image", "times the naive loop", times),
        (parts, f"one step, {speed.chosen}", "seconds", speed.parts),
        (epoch, f"one epoch, {speed.epoch.batches} batches", "seconds", speed.epoch.parts),
    ):
        drawn = axes.barh(list(bars), list(bars.values()), color="tab:blue")
        axes.bar_label(drawn, fmt="%.3g", padding=3)
        axes.margins(x=0.2)
        axes.invert_yaxis()
        axes.set_title(title)
        axes.set_xlabel(unit)
    return figure
