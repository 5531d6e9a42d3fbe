"""Measure the speed of training on this machine: `python -m vaegan_pl.benchmark`."""

from vaegan_pl.benchmark.command import benchmark
from vaegan_pl.cli import commands

if __name__ == "__main__":
    commands.run(benchmark, "benchmark")
