"""Shared fixtures: small networks, small folders of images, commands run in this process, the real MRI folder."""

import copy
import gc
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.utils import JobRuntime
from jaxtyping import UInt8
from numpy import ndarray
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from vaegan_pl.cli import commands
from vaegan_pl.data import phantoms
from vaegan_pl.data.augmentation import Augmentation
from vaegan_pl.data.collection import Splitting
from vaegan_pl.evaluation import features
from vaegan_pl.model import weights
from vaegan_pl.model.adversary import Adversary
from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.batch import Batch, Noise
from vaegan_pl.model.losses import Prior
from vaegan_pl.model.mixtures import Mixture
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.trained_on import TrainedOn

from .processes import end_forks

CLASSES = ["glioma", "meningioma", "notumor", "pituitary"]

SMALL = [
    "data.image_size=32",
    "data.batch_size=16",
    "model.networks.latent_dim=16",
    "model.networks.encoder_channels=[8,16,32]",
    "model.networks.encoder_features=64",
    "model.networks.decoder_channels=[32,32,16,8]",
    "model.networks.discriminator_channels=[8,16,32,32]",
    "model.networks.discriminator_features=32",
    "trainer.accelerator=cpu",
    "callbacks.quality.n=0",
    "~callbacks.curves",
    "~callbacks.data_report",
]
"""Overrides that make a run take a second or two; drawing curves and the data report would take as long again."""

PLAIN = Augmentation(horizontal_flip=0.0, shift=0.0, brightness=0.0, contrast=0.0)
FOLDER_OPTIONS: dict[str, Any] = {
    "classes": CLASSES,
    "aliases": {},
    "image_size": 16,
    "aspect_ratio": "squash",
    "white": 65535,
    "range": "fixed",
    "exclude": None,
    "masks": "drop",
    "split": "group",
    "validation_fraction": 0.25,
    "test_fraction": 0.125,
    "patient": None,
    "patients": None,
    "unknown_patients": "error",
    "published": False,
    "families": False,
    "fold": None,
    "split_seed": 0,
    "copies": "drop",
    "near_copy_correlation": 0.99,
    "registered_correlation": None,
    "search": "exhaustive",
    "batch_size": 4,
    "augmentation": PLAIN,
    "max_unreadable": 0.0,
    "seed": 0,
}
"""All arguments of `ImageFolders` but `root` and `cache`."""


@pytest.fixture(scope="session", autouse=True)
def _few_steps_for_features() -> Iterator[None]:
    """Train the classifiers whose features KID compares for 5 steps, not 1,000."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "STEPS", 5)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_composition_for_a_run() -> Iterator[None]:
    """Hydra composes each configuration twice, first to see whether it asks for a sweep. Only experiments do."""
    mode = Hydra.get_mode

    def only_of_experiments(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return mode(self, config_name, overrides) if any("experiment=" in option for option in overrides) else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", only_of_experiments)
        yield


@pytest.fixture(scope="session", autouse=True)
def _rare_garbage_collections() -> Iterator[None]:
    """A full collection, as after each job of a sweep, would look at a million objects that imports made."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, 20, 50)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.fixture(scope="session", autouse=True)
def _configurations_are_parsed_once() -> Iterator[None]:
    """Hydra reads the files of `conf/` anew for each job; parsing them took a fifth of the time of tests of sweeps."""
    load, known = yaml.load, dict[tuple[str, str], Any]()

    def remembered(stream: Any, Loader: Any) -> Any:  # noqa: N803
        text = stream if isinstance(stream, str) else stream.read()
        if (text, Loader.__name__) not in known:
            known[text, Loader.__name__] = load(text, Loader=Loader)
        return copy.deepcopy(known[text, Loader.__name__])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omegaconf.omegaconf.yaml", SimpleNamespace(**{**vars(yaml), "load": remembered}))
        yield


@pytest.fixture(scope="session", autouse=True)
def _equal_configurations_are_composed_once() -> Iterator[None]:
    """Composing `conf/` takes Hydra a quarter of a second, for each job of a sweep twice; a copy takes a tenth of that.

    Only of `conf/`, whose files no test changes.
    """
    compose, known = ConfigLoaderImpl._load_configuration_impl, dict[tuple[object, ...], DictConfig]()

    def remembered(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *options: Any, **named: Any
    ) -> DictConfig:
        paths = [element.path for element in self.config_search_path.get_path()]
        files = [path for path in paths if path and not path.startswith(("pkg://", "structured://"))]
        only = len(files) == 1 and files[0].removeprefix("file://") == str(commands.CONFIG_DIRECTORY)
        if not only or "hydra.searchpath" in " ".join(overrides):
            return compose(self, config_name, overrides, *options, **named)
        key = (config_name, *overrides, None, *options, *named.items(), *paths, JobRuntime().get("name"))
        if key not in known:
            known[key] = compose(self, config_name, overrides, *options, **named)
        config = copy.deepcopy(known[key])
        OmegaConf.clear_cache(config)  # the time of the first composition
        config.hydra.runtime.cwd = str(Path.cwd())
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "_load_configuration_impl", remembered)
        yield


@pytest.fixture(scope="session", autouse=True)
def _equal_phantoms_are_drawn_once() -> Iterator[None]:
    """Most tests that train draw the same phantoms, which takes a tenth of their time."""
    draw, known = phantoms.draw, dict[str, tuple[UInt8[ndarray, "side side"], Any]]()

    def remembered(name: str, random: np.random.Generator) -> UInt8[ndarray, "side side"]:
        key = f"{name} {random.bit_generator.state}"
        if key not in known:
            known[key] = draw(name, random), random.bit_generator.state
        pixels, random.bit_generator.state = known[key]
        return pixels.copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantoms, "draw", remembered)
        yield


@pytest.fixture(autouse=True)
def _no_fork_outlives_its_test() -> Iterator[None]:
    yield
    end_forks()


@pytest.fixture
def small_networks() -> Networks:
    return networks_with()


SMALL_NETWORKS: dict[str, Any] = {
    "encoder_channels": [3, 4],
    "encoder_features": 7,
    "decoder_channels": [6, 4, 3],
    "decoder_kernel": 6,
    "discriminator_channels": [3, 4, 5],
    "discriminator_features": 6,
    "discriminator_first_stride": 2,
    "norm": "batch",
    "discriminator_norm": "batch",
    "classes": 0,
}


def networks_with(**changes: Any) -> Networks:
    """The small networks with changes."""
    torch.manual_seed(0)
    return Networks(**{"image_size": 16, "image_channels": 1, "latent_dim": 5, **SMALL_NETWORKS, **changes})


MIXTURES = {
    name: Mixture(torch.ones(1), torch.full((1, 5), mean), 0.1 * torch.eye(5)[None])
    for name, mean in (("a", 0.0), ("b", 2.0), ("c", -1.0))
}
"""Classes of twice, once and once as many training images."""


def save_model(path: Path, networks: Networks, mixtures: object = MIXTURES, **training: int) -> None:
    """A model of phantoms, as a run would leave it."""
    counts = {"train": {"a": 2, "b": 1, "c": 1}}
    trained_on = TrainedOn("phantom", "p", ["a", "b", "c"], counts, "PHANTOMS (drawings, not MRI)")
    preprocessing = {"aspect_ratio": "pad", "white": 65535, "grey_range": "fixed"}
    weights.save(path, networks.eval(), preprocessing, trained_on, training, mixtures)  # type: ignore[arg-type]


def adversary_with(**changes: Any) -> Adversary:
    """Algorithm 1's game with changes."""
    return Adversary(**{"game": "saturating", "diffaugment": [], "r1": 0.0, "lecam": 0.0, **changes})


def splitting_with(**changes: Any) -> Splitting:
    """A split by groups of near-copies alone, with changes."""
    options = {
        "by": "group",
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "patient": None,
        "patients": None,
        "unknown_patients": "error",
        "published": False,
        "families": False,
        "fold": None,
        "copies": "drop",
        "seed": 0,
    }
    return Splitting(**{**options, **changes})


def vaegan(networks: Networks, **changes: Any) -> VAEGAN:
    """A VAE/GAN of some networks, as Algorithm 1 has it but for separate batches, with changes."""
    options: dict[str, Any] = {
        "gamma": 0.3,
        "similarity_layer": "conv3",
        "normalised_similarity": False,
        "sigma": None,
        "fakes": "both",
        "batch_norm": "separate",
        "adversarial": True,
        "gate": None,
        "prior": Prior(1.0, 0.0),
        "adversary": adversary_with(),
        "ema": None,
    }
    return VAEGAN(networks, **{**options, **changes})


def given(
    x: Tensor, epsilon: Tensor, z_p: Tensor, y: Tensor | None = None, uniform: Tensor | None = None, step: int = 0
) -> tuple[Batch, Noise]:
    """What a model's `gradients` takes."""
    return Batch(x, y, step), Noise(epsilon, z_p, uniform)


@pytest.fixture
def write_classes() -> Callable[..., Path]:
    """Writes a folder for each class with random grey PNGs of 40x30 pixels."""

    def write(root: Path, per_class: int = 3, classes: list[str] = CLASSES) -> Path:
        random = np.random.default_rng(0)
        for name in classes:
            (root / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = random.integers(0, 256, (30, 40), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"{i}.png")
        return root

    return write


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """Runs a command as its `python -m` does; returns the message it exits with, or None if it succeeds."""

    def run(task: Callable[[DictConfig], None], name: str, *overrides: str) -> str | None:
        monkeypatch.setattr(sys, "argv", [name, *overrides])
        try:
            commands.run(task, name)
        except SystemExit as stop:
            return str(stop.code)
        return None

    return run


@pytest.fixture(scope="session")
def mri_root() -> Path:
    """The real images: $VAEGAN_MRI_ROOT, or a folder next to the checkout; skips if there is neither."""
    neighbour = Path(__file__).parents[2] / "shared" / "brain-tumor-mri"
    root = Path(os.environ.get("VAEGAN_MRI_ROOT", neighbour))
    if not root.is_dir():
        pytest.skip(f"real MRI folder not found at {root}; set VAEGAN_MRI_ROOT")
    return root


@pytest.fixture(scope="session")
def mri_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the decoded real images that all test processes share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mri_cache"


def digest(content: object) -> str:
    """SHA-256 of nested containers of tensors and plain values, whatever their device and memory layout."""
    sha = hashlib.sha256()

    def feed(value: object) -> None:
        if isinstance(value, torch.Tensor):
            sha.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
            sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            sha.update(f"mapping {len(value)} ".encode())
            for item in value.items():
                feed(item)
        elif isinstance(value, list | tuple):
            sha.update(f"{type(value).__name__} {len(value)} ".encode())
            for part in value:
                feed(part)
        else:
            assert value is None or isinstance(value, bool | int | float | str)
            sha.update(f"{type(value).__name__} {value!r} ".encode())

    feed(content)
    return sha.hexdigest()
