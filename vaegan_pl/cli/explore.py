"""Explore models in the browser: `python -m vaegan_pl.explore weights=PATH`, or `'weights=[A,B]'` to compare."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vaegan_pl import pretrained
from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.runs import stored_config

if TYPE_CHECKING:
    from vaegan_pl.data.datamodule import ImageFolders
    from vaegan_pl.explorer.studio import Studio
    from vaegan_pl.explorer.trained import TrainingImages

log = logging.getLogger(__name__)


def explore(config: DictConfig) -> None:
    """Serve the page until it is interrupted."""
    paths = commands.model_paths(config.weights)
    if config.port is not None and not (isinstance(config.port, int) and 0 < config.port < 65536):
        raise UserError(f"port={config.port}: must be a number from 1 to 65535, or null for the first free one")
    commands.import_torch()
    from vaegan_pl.explorer.studio import Studio
    from vaegan_pl.hardware import pick_device, prepare_cpu
    from vaegan_pl.model import weights
    from vaegan_pl.report.provenance import sha256

    device = pick_device(config.accelerator)
    if device.type == "cpu":
        prepare_cpu()
    studios = []
    for path in paths:
        model = weights.load(path).to(device)
        resolved = path.resolve()  # outputs/latest may point elsewhere tomorrow
        studios.append(Studio(pretrained.name_of(path), resolved, sha256(resolved), model))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with TemporaryDirectory(prefix="vaegan_pl-", dir=os.environ.get("GRADIO_TEMP_DIR")) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # which Gradio looks at when it is imported
        try:
            from vaegan_pl.explorer import server
            from vaegan_pl.explorer.page import Page
        except ModuleNotFoundError as error:
            raise UserError("the page needs Gradio; pip install -e '.[explore]'") from error
        page = Page(studios, training_images(config), config.seed)
        url = server.serve(page.blocks, str(config.host), config.port, bool(config.open))
        log.info("open %s in a browser; Ctrl-C ends it", url)
        page.blocks.block_thread()


def training_images(config: DictConfig) -> "Callable[[Studio], TrainingImages]":
    """A function that finds the training images of a model, once for each model.

    They are given by the `data` options, or by the configuration of the model's run.
    """
    lock, known = Lock(), dict[Path, "TrainingImages"]()

    def find(studio: "Studio") -> "TrainingImages":
        with lock:
            if studio.path not in known:
                known[studio.path] = _read(studio, config)
            return known[studio.path]

    return find


def _read(studio: "Studio", config: DictConfig) -> "TrainingImages":
    from hydra.utils import instantiate

    from vaegan_pl.evaluation.reference import check_trained_on
    from vaegan_pl.explorer.trained import TrainingImages

    fix = "start the page with data=mri data.root=PATH if the model has no config.yaml next to it, else data.root=PATH"
    try:
        root = None if config.data.root is None else str(config.data.root)
        whole = "_target_" in config.data
        options = config.data if whole else stored_config.data_of(studio.path.parent, str(config.output_root), root)
        if not Path(str(options.root)).is_dir():
            raise UserError(f"{options.root}: the model's training images are not there; {fix}")
        own = (studio.model.networks.image_size, studio.model.preprocessing["aspect_ratio"])
        if (options.image_size, options.aspect_ratio) != own:
            raise UserError(
                f"{studio.path}: was trained with data.image_size={own[0]} data.aspect_ratio={own[1]}, not with those "
                f"given or stored next to it; {fix}"
            )
        data: ImageFolders = instantiate(options, _convert_="all")
        data.prepare_data()
        check_trained_on(studio.path, studio.model, data.source, data.decoding)
        return TrainingImages.of(data.collection, studio.model.device)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: is missing, so the model's training images are not known; {fix}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{commands.explain(error)}; {fix}") from error
