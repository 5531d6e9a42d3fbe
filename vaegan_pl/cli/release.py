"""Release a density of private images: `python -m vaegan_pl.release weights=PATH epsilon=1 data=mri data.root=PATH`."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vaegan_pl.cli import commands
from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import atomic_write

if TYPE_CHECKING:
    from vaegan_pl.data.datamodule import ImageFolders
    from vaegan_pl.model.saved_model import SavedModel

log = logging.getLogger(__name__)

WEAK = 10
"""Epsilon above which the guarantee says little."""


def release(config: DictConfig) -> None:
    """Write a model file of the public decoder and a noisy density of private images, and its certificate."""
    _check_options(config)
    path, output = commands.model_path(config.weights), Path(str(config.output))
    _check_new(output)
    commands.import_torch()
    from hydra.utils import instantiate

    from vaegan_pl.data.units import independent_images
    from vaegan_pl.evaluation.reference import check_read_alike
    from vaegan_pl.hardware import prepare_cpu
    from vaegan_pl.inference import noisy_sums
    from vaegan_pl.model import mechanism, private_density, sharing, weights
    from vaegan_pl.report import certificate
    from vaegan_pl.report.provenance import sha256

    prepare_cpu()
    public = weights.load(path)
    _check_public(path, public)
    dimensions = public.networks.latent_dim
    if config.axes > dimensions:
        raise UserError(f"axes={config.axes}: the model has {dimensions} latent dimensions; use at most as many")
    assert public.mixtures is not None
    counts = public.trained_on.counts["train"]
    where = private_density.coordinates(public.mixtures, counts, int(config.axes))
    clip = private_density.public_clip(public.mixtures, counts, where) if config.clip is None else float(config.clip)
    deviation = mechanism.deviation_for(
        float(config.epsilon) * (1 - mechanism.MARGIN), float(config.delta) * (1 - mechanism.MARGIN)
    )
    if deviation * mechanism.SCALE < mechanism.LEAST_DEVIATION:
        raise UserError(f"epsilon={config.epsilon}, delta={config.delta}: are so large that they guarantee nothing")
    data: ImageFolders = instantiate(config.data, _convert_="all")
    check_read_alike(path, public, data.decoding)
    data.prepare_data()
    images = independent_images(data, config.unit)
    sums = noisy_sums(public.networks, data.collection, images, where, clip, deviation)
    mixtures, noisy_counts = private_density.density(sums, where, clip, deviation)
    terms = certificate.Terms(
        epsilon=float(config.epsilon),
        delta=float(config.delta),
        unit=str(config.unit),
        deviation=deviation,
        clip=clip,
        clip_from="the density of the public model" if config.clip is None else "the option clip",
        axes=where.k,
        dimensions=dimensions,
        images="those in the folders for training" if data.splitting.by == "official" else "all",
    )
    described = certificate.described(public.trained_on, sha256(path), noisy_counts, terms, data.collection.is_phantom)
    _check_new(output)
    file = output / sharing.NAME
    sharing.save_decoder(file, replace(public, mixtures=mixtures, trained_on=described))
    facts = certificate.facts(described, terms, sha256(file))
    atomic_write(output / certificate.JSON, json.dumps(facts, indent=2, ensure_ascii=False))
    atomic_write(output / certificate.PAGE, certificate.text(described, terms, sha256(file)))
    log.info("%s: decoder and noisy density; sample, explore, evaluate and vaegan_pl.load open it", file)
    log.info("%s: the guarantee, for a data-protection officer", output / certificate.PAGE)
    log.info(
        "SPENT        epsilon %g, delta %g per %s. Budgets add up: every further release from these images, by you or "
        "anyone else, adds its own",
        config.epsilon,
        config.delta,
        config.unit,
    )


def _check_options(config: DictConfig) -> None:
    """Check the options that need no files.

    Raises:
        UserError: if one is out of range.
    """
    for name, most in (("epsilon", math.inf), ("delta", 1), ("clip", math.inf)):
        value = config[name]
        if name == "clip" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < most:
            limits = "above 0 and below 1" if most == 1 else "above 0, and finite"
            raise UserError(f"{name}={value}: must be a number {limits}")
    if not isinstance(config.axes, int) or isinstance(config.axes, bool) or config.axes < 1:
        raise UserError(f"axes={config.axes}: must be a whole number of at least 1")
    if config.unit not in ("image", "patient"):
        raise UserError(f"unit={config.unit}: must be image or patient")
    commands.check_seed(config.seed)
    if config.epsilon > WEAK:
        log.warning(
            "epsilon=%g: a guarantee above %d says little; the certificate shows how much", config.epsilon, WEAK
        )


def _check_new(output: Path) -> None:
    """Check that a folder is new or empty.

    Raises:
        UserError: if it is not.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            f"output={output}: is not empty; each release spends privacy budget, so none is replaced; give a new "
            "folder, and only if you mean to spend more"
        )


def _check_public(path: Path, model: "SavedModel") -> None:
    """Check that a model can encode private images, and has a density.

    Raises:
        UserError: if it cannot.
    """
    if model.trained_on.release is not None or not model.has_encoder:
        raise UserError(f"weights={path}: contains no encoder; give the vae_gan_model.pth of the public model")
    if model.is_conditional:
        raise UserError(f"weights={path}: is conditional, so it knows no other classes; give a model of another kind")
    if model.mixtures is None:
        raise UserError(f"weights={path}: contains no density of public images; give the file of a finished run")
