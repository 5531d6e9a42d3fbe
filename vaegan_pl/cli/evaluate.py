"""Measure a model: `python -m vaegan_pl.evaluate weights=PATH data=mri data.root=PATH`."""

import logging
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vaegan_pl import pretrained
from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.storage.outputs import claim

if TYPE_CHECKING:
    from vaegan_pl.data.datamodule import ImageFolders

log = logging.getLogger(__name__)

QUICK_N, QUICK_DIVISIONS = 500, 3
"""Samples of each kind, and divisions for intervals, of a quick evaluation."""


def evaluate(config: DictConfig) -> None:
    """Write `metrics.json`, `report.html`, `by_class.png` and, next to each model, its model card."""
    for name, least in (("n", 6), ("seeds", 0)):
        if config[name] < least:
            raise UserError(f"{name}={config[name]}: must be at least {least}")
    commands.check_seed(config.seed)
    if config.features not in ("classifier", "inception"):
        raise UserError(f"features={config.features}: must be classifier or inception")
    paths = commands.model_paths(config.weights)
    references = commands.model_paths(config.references) if config.references else []
    commands.import_torch()
    from hydra.utils import instantiate

    from vaegan_pl.evaluation import evaluation
    from vaegan_pl.evaluation.features import classifier_features, inception_features
    from vaegan_pl.evaluation.reference import Reference, check_trained_on
    from vaegan_pl.evaluation.reference_models import reference_model
    from vaegan_pl.hardware import pick_device, prepare_cpu
    from vaegan_pl.model import weights
    from vaegan_pl.report import evaluation_report as report
    from vaegan_pl.report import model_card
    from vaegan_pl.report.evaluation_card import card
    from vaegan_pl.report.evaluation_words import attack_lines, sentences

    started, output = monotonic(), Path(str(config.output))
    claim(output, report.NAMES, config.overwrite)
    device = pick_device(config.accelerator)
    if device.type == "cpu":
        prepare_cpu()
    models = {path: weights.load(path) for path in paths}
    data: ImageFolders = instantiate(config.data, _convert_="all")
    data.prepare_data()
    for path, model in models.items():
        check_trained_on(path, model, data.source, data.decoding)
    others = [reference_model(path, weights.load(path), data.source, data.collection) for path in references]
    if config.features == "inception":
        file = None if config.inception_weights is None else Path(str(config.inception_weights))
        space = inception_features(device, file)
    else:
        space = classifier_features(data.collection, data.cache, device)
    log.info("%s; features: %s", data.source.caption, space)
    quick = {"n": min(config.n, QUICK_N), "seeds": 0, "divisions": QUICK_DIVISIONS} if config.quick else {}
    reference = Reference(
        data.collection,
        space,
        device,
        **{"n": config.n, "seeds": config.seeds, **quick},
        seed=config.seed,
        cache=data.cache,
        models=others,
    )
    found = [evaluation.evaluate(path, model, reference, log.info) for path, model in models.items()]
    for path in report.write(found, reference, output):
        log.info("%s", path)
    for one in found:
        for topic, words in sentences(one, reference).items():
            log.info("%s: %s", topic, words)
        for line in attack_lines(one):
            log.info("attack: %s", line)
        if pretrained.is_pretrained(one.path):
            log.info("%s: keeps the model card that comes with it", pretrained.NAME)
            continue
        try:
            model_card.write(one.path, card(one, reference), config.overwrite)
        except (OSError, UserError) as error:
            log.warning("no model card was written: %s", error)
    log.info("measured in %.1f minutes", (monotonic() - started) / 60)
