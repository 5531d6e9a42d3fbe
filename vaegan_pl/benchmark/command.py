"""Measure the speed of training on this machine: `python -m vaegan_pl.benchmark`, with any options of training.

A model other than `larsen` is timed alongside `larsen`.
"""

import logging
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vaegan_pl.cli.checks import check_supported
from vaegan_pl.errors import UserError
from vaegan_pl.storage.outputs import claim

if TYPE_CHECKING:
    from vaegan_pl.data.datamodule import ImageFolders

log = logging.getLogger(__name__)

OWN = ("rounds", "output", "overwrite")
"""Options of the benchmark that training does not have."""

OF_A_MODEL = re.compile(r"experiment=|[+~]*model(=|/gate=|\.(?!networks\.)|\.networks\.(classes=|\w+_channels=null))")
"""Options that make the model a different one from larsen. The sizes of the networks do not."""


def benchmark(config: DictConfig) -> None:
    """Time a whole epoch, then a step in each precision and in a naive loop. Print a table, write JSON and a chart."""
    if config.rounds < 1:
        raise UserError(f"rounds={config.rounds}: must be at least 1")
    check_supported(config)
    from hydra.utils import instantiate

    from vaegan_pl.benchmark import epoch, paired
    from vaegan_pl.benchmark import report as speed
    from vaegan_pl.hardware import choose_precision, pick_device, prepare_cpu

    output = Path(str(config.output)).resolve()
    claim(output, r"benchmark\.(json|png)", config.overwrite)
    device = pick_device(config.trainer.accelerator, "trainer.accelerator")
    chosen = choose_precision(config.trainer.precision, device)
    if chosen == "64-true":
        raise UserError("trainer.precision=64-true: is not benchmarked; use auto, 32-true or bf16-mixed")
    if device.type == "cpu":
        prepare_cpu()
    data: ImageFolders = instantiate(config.data, _convert_="all")
    data.prepare_data()
    data.setup("fit")
    overrides = [o for o in HydraConfig.get().overrides.task if o.partition("=")[0] not in OWN]
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".run-", dir=output) as folder:
        log.info("running one epoch of the training command")
        whole = epoch.measure([*overrides, *epoch.at(root=data.root, cache=data.cache)], Path(folder))
    larsen = hydra.compose("benchmark", [o for o in HydraConfig.get().overrides.task if not OF_A_MODEL.match(o)])
    own, reference = (paired.Variant(partial(build, _plain(c)), c.data.batch_size) for c in (config, larsen))
    variants = {chosen: own}
    variants |= {other: own for other in ("bf16-mixed", "32-true") if other != chosen}
    if _plain(larsen)["model"] != _plain(config)["model"]:
        variants[f"larsen, {chosen}"] = reference
    variants[paired.NAIVE] = reference
    result = speed.Speed(device, chosen, paired.measure(variants, device, config.rounds), whole)
    files = speed.write(result, output)
    log.info("%s", result.table())
    for path in files:
        log.info("%s", path)


def _plain(config: DictConfig) -> dict[str, Any]:
    return {key: OmegaConf.to_container(config[key], resolve=True) for key in ("model", "optimizer")}


def build(config: dict[str, Any]) -> tuple[Any, Any]:
    """Return the model and the factories of its optimizers."""
    from hydra.utils import instantiate

    optimizers = {name: each for name, each in config["optimizer"].items() if name != "schedule"}
    return instantiate(config["model"], _convert_="all"), instantiate(optimizers, _convert_="all")
