"""Every file under conf/ composes, and what it names can be built."""

import logging.config
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf

from vaegan_pl.cli import build
from vaegan_pl.cli.commands import CONFIG_DIRECTORY
from vaegan_pl.cli.train import train, warn_if_experiment_missing
from vaegan_pl.console import begin_log
from vaegan_pl.data.augmentation import Augmentation
from vaegan_pl.data.datamodule import ImageFolders, PhantomFolders
from vaegan_pl.model.generative import EquilibriumGate, GenerativeModel
from vaegan_pl.storage import tensor_files
from vaegan_pl.sweeps.options import identity
from vaegan_pl.training.lightning_module import VAEGANModule

from .conftest import SMALL

FILES = sorted(str(p.relative_to(CONFIG_DIRECTORY).with_suffix("")) for p in CONFIG_DIRECTORY.glob("*/**/*.yaml"))
GROUPS = [file for file in FILES if not file.startswith(("experiment/", "debug/", "hydra/"))]
LOGGING = [Path(file).name for file in FILES if file.startswith("hydra/job_logging/")]


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.mark.parametrize("option", GROUPS)
def test_every_option_of_every_group_composes_and_builds(option: str, tmp_path: Path) -> None:
    group, _, choice = option.rpartition("/")
    config = composed(f"{group}={choice}", f"directory={tmp_path}", f"output_root={tmp_path}", "data.root=/data")
    node = config[group.split("/")[0]]
    if group == "logger":  # W&B starts its run when it is first used, not when it is built
        made = instantiate(node)
        assert not made if choice == "none" else isinstance(made["csv"], CSVLogger)
    elif group == "trainer":
        config.trainer.precision = "32-true"
        if node.accelerator == "gpu" and not torch.cuda.is_available():
            with pytest.raises(InstantiationException, match="No supported gpu backend"):
                build.trainer(config, [])
        else:
            assert isinstance(build.trainer(config, []), L.Trainer)
    elif group == "callbacks":
        assert all(isinstance(callback, L.Callback) for callback in instantiate(node).values())
        assert bool(node) == (choice != "none")
    elif group == "data":
        assert isinstance(instantiate(node), ImageFolders)
    elif group.startswith("optimizer"):
        weight = torch.nn.Parameter(torch.zeros(1))
        built = instantiate(node, _convert_="all")
        schedule = built.pop("schedule")
        optimizers = [factory([weight]) for factory in built.values()]
        assert (schedule is None) == (option == "optimizer/rmsprop")
        if schedule is not None:
            first = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
            assert [schedule(optimizer).get_last_lr()[0] for optimizer in optimizers] == first
    else:
        assert isinstance(instantiate(node, _convert_="all"), GenerativeModel)


@pytest.mark.parametrize("name", LOGGING)
def test_every_way_of_logging_can_be_set_up(name: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        options = [f"hydra/job_logging={name}", f"hydra.runtime.output_dir={tmp_path}", "hydra.job.name=train"]
        config = compose("train", options, return_hydra_config=True)
    settings: Any = OmegaConf.to_container(config.hydra.job_logging, resolve=True)
    root = logging.getLogger()
    before = root.handlers[:]
    logging.config.dictConfig(settings)
    made = root.handlers[:]
    try:
        assert len(made) == {"plain": 1, "run": 2}[name]
        root.info("hello")
        assert list(tmp_path.iterdir()) == []
        begin_log(tmp_path)
        assert [path.read_text() for path in tmp_path.iterdir()] == (["hello\n"] if name == "run" else [])
    finally:
        root.handlers[:] = before
        for handler in made:
            handler.close()


@pytest.mark.parametrize("name", ["sweep_gamma_lr", "sweep_optuna"])
def test_experiments_are_sweeps_over_options_that_exist(name: str) -> None:
    if name == "sweep_optuna":
        pytest.importorskip("optuna")
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        config = compose("train", [f"experiment={name}", "hydra.sweep.dir=here"], return_hydra_config=True)
        assert config.hydra.mode == RunMode.MULTIRUN
        assert "model.gamma" in config.hydra.sweeper.params
        changed = compose("train", [f"{option}=0.5" for option in config.hydra.sweeper.params])
    assert changed.model.gamma == changed.optimizer.discriminator.lr == 0.5
    assert ("pruning" in config.callbacks) == (name == "sweep_optuna")


@pytest.mark.parametrize(("debug", "batches"), [("fast", 4), ("overfit", 8)])
def test_debug_presets_run(debug: str, batches: int, run_command: Any, tmp_path: Path) -> None:
    options = [*SMALL, "data.per_class.Training=20", "data.per_class.Testing=4", f"output_root={tmp_path}"]
    epochs = [] if debug == "fast" else ["trainer.max_epochs=2"]
    assert run_command(train, "train", f"debug={debug}", *options, *epochs, f"hydra.run.dir={tmp_path}/run") is None
    assert composed(f"debug={debug}", "callbacks=none").callbacks == {}
    assert identity([f"debug={debug}", "model.gamma=1"]) != identity(["model.gamma=1"])
    assert tensor_files.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == batches


def test_nothing_is_kept_with_neither_loggers_nor_callbacks(run_command: Any, tmp_path: Path) -> None:
    options = [option for option in SMALL if not option.lstrip("~").startswith("callbacks")]
    options += ["data.per_class.Training=16", "data.per_class.Testing=4", f"output_root={tmp_path}"]
    nothing = ["logger=none", "callbacks=none", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run"]
    assert run_command(train, "train", *options, *nothing) is None
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml", "overrides.yaml", "train.log"}


def test_the_reports_setup_is_the_default() -> None:
    config = composed()
    assert config.trainer.max_epochs == 25
    assert config.data.batch_size == 64
    assert config.data.image_size == 64
    assert config.model.networks.latent_dim == 128
    assert isinstance(instantiate(config.data), PhantomFolders)
    model = instantiate(config.model, _convert_="all")
    assert model.gate is None
    factories = instantiate(config.optimizer, _convert_="all")
    assert factories.pop("schedule") is None
    module = VAEGANModule(model, factories, None, seed=0)
    optimizers, schedulers = module.configure_optimizers()
    assert schedulers == []
    assert [type(optimizer) for optimizer in optimizers] == [torch.optim.RMSprop] * 3
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [3e-4, 3e-4, 3e-5]


def test_narrow_networks_have_half_the_reports_widths() -> None:
    report, narrow = (composed(f"model/networks={table}").model.networks for table in ("report", "narrow"))
    for name, value in report.items():
        if name in ("encoder_channels", "decoder_channels", "discriminator_channels"):
            assert narrow[name] == [channels // 2 for channels in value]
        elif name.endswith("_features"):
            assert narrow[name] == value // 2
        else:
            assert narrow[name] == value


def test_a_model_keeps_what_it_is_made_of_with_other_networks() -> None:
    assert composed("model=vae", "model/networks=narrow").model.networks.discriminator_channels is None
    assert composed("model=gan", "model/networks=narrow").model.networks.encoder_channels is None
    assert composed("model=conditional", "model/networks=narrow").model.networks.classes == 4


def test_larsen2015_is_what_the_authors_train() -> None:
    config = composed("experiment=larsen2015")
    assert config.model.gamma == 1e-6
    assert config.model.networks.decoder_kernel == 5
    assert config.model.networks.discriminator_first_stride == 1
    assert (config.model.gate.equilibrium, config.model.gate.margin) == (0.68, 0.35)
    assert config.model.fakes == "prior"
    assert config.optimizer.schedule.lr_lambda.exponent == 0.75
    for network in ("encoder", "decoder", "discriminator"):
        options = config.optimizer[network]
        assert (options.lr, options.alpha, options.weight_decay) == (3e-4, 0.9, 1e-5)


def test_the_adversary_is_chosen_by_name() -> None:
    games = ("saturating", "non_saturating", "non_saturating_diffaugment")
    made = [instantiate(composed("model=gan", f"model/adversary={name}").model).adversary for name in games]
    assert [adversary.name for adversary in made] == ["saturating", "non_saturating", "non_saturating"]
    assert [adversary.uniform for adversary in made] == [0, 0, 6]
    changes = made[2].description["diffaugment"]
    assert changes == ["brightness", "contrast", "translation", "cutout"]
    assert composed("model=larsen_plus").model.adversary == composed("model/adversary=" + games[2]).model.adversary
    assert composed("model=larsen_plus", "model/adversary=saturating").model.adversary == composed().model.adversary


def test_the_prior_is_that_of_the_evidence_lower_bound() -> None:
    for model in ("larsen", "vae", "larsen_plus"):
        prior = composed(f"model={model}", "model/prior=standard").model.prior
        assert (prior.weight, prior.free_bits) == (1, 0)


def test_the_schedule_is_chosen_by_name() -> None:
    assert composed("optimizer=larsen2015", "optimizer.schedule=null").optimizer.schedule is None
    cosine = composed("optimizer=larsen2015", "optimizer/schedule=cosine", "trainer.max_epochs=7").optimizer.schedule
    assert cosine.T_max == 7
    assert identity(["optimizer/schedule=cosine"]) != identity(["optimizer/schedule=power"])
    assert (
        composed("optimizer/schedule=power").optimizer.schedule == composed("optimizer=larsen2015").optimizer.schedule
    )


def test_larsen_plus_brings_its_networks_batches_and_learning_rate() -> None:
    config, larsen = (
        composed("experiment=larsen_plus", "data=mri", "data.root=/data"),
        composed("model/networks=narrow"),
    )
    assert config.data.batch_size == 32
    assert [config.optimizer[network].lr for network in ("encoder", "decoder", "discriminator")] == [3e-4, 3e-4, 1e-4]
    assert config.model.networks == larsen.model.networks
    assert composed("experiment=larsen_plus", "data.batch_size=64").data.batch_size == 64
    assert composed("experiment=larsen_plus", "model/networks=report").model.networks == composed().model.networks


@pytest.mark.parametrize("model", ["larsen_plus", "larsen2015"])
def test_models_set_the_model_alone_and_the_experiment_of_their_name_is_pointed_out(
    model: str, caplog: pytest.LogCaptureFixture
) -> None:
    alone, recipe, default = composed(f"model={model}"), composed(f"experiment={model}"), composed()
    assert alone.model == recipe.model != default.model
    assert alone.optimizer == default.optimizer != recipe.optimizer
    assert alone.data == default.data
    warn_if_experiment_missing(model, [f"model={model}"])
    assert f"experiment={model}" in caplog.text
    caplog.clear()
    warn_if_experiment_missing(model, [f"experiment=[{model},sweep_gamma_lr]"])
    warn_if_experiment_missing("larsen", ["model=larsen"])
    assert "experiment=" not in caplog.text


def test_the_gate_is_chosen_by_name() -> None:
    model = instantiate(composed("model/gate=equilibrium").model, _convert_="all")
    assert model.gate == EquilibriumGate(equilibrium=0.68, margin=0.35)
    assert model.fakes == "prior"


@pytest.mark.parametrize("name", ["sample", "reconstruct", "evaluate", "blind_test", "latent", "export", "release"])
def test_the_commands_on_models_compose(name: str) -> None:
    assert composed("weights=m.pth", name=name).weights == "m.pth"


@pytest.mark.parametrize("name", ["train", "benchmark", "sample"])
def test_jobs_have_the_names_of_their_commands_and_no_folder_of_hydras(name: str) -> None:
    """The name of a run's log, train.log, is made from it."""
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        settings = compose(name, return_hydra_config=True).hydra
    assert (settings.job.name, settings.output_subdir) == (name, None)
    assert ("file" in settings.job_logging.handlers) == (name == "train")


def test_the_commands_on_data_compose() -> None:
    assert isinstance(instantiate(composed("data.root=/data", name="inspect_data").data, _convert_="all"), ImageFolders)
    assert composed("output=here", name="download").output == "here"
    assert composed("from=there", "to=here", name="import_images").to == "here"


def test_the_reports_data_is_the_official_split_unchanged() -> None:
    data = instantiate(composed("data=report", "data.root=/data").data, _convert_="all")
    assert data.splitting.by == "official"
    assert data.augmentation == Augmentation(horizontal_flip=0.0, shift=0.0, brightness=0.0, contrast=0.0)


COMMANDS = [
    "train",
    "sample",
    "reconstruct",
    "evaluate",
    "blind_test",
    "latent",
    "export",
    "release",
    "inspect_data",
    "import_images",
    "download",
    "push",
    "pull",
    "sweep_report",
    "dashboard",
]


def test_help_and_refusals_do_not_wait_for_torch() -> None:
    starts = [(command, argument, code) for command in COMMANDS for argument, code in (("--help", 0), ("no_such=1", 1))]
    starts += [(command, "weights=nowhere.pth", 1) for command in ("sample", "evaluate", "latent", "export")]
    script = f"""
import runpy, sys
for command, argument, expected in {starts}:
    sys.argv[1:], code = [argument], 0
    try:
        runpy.run_module(f"vaegan_pl.{{command}}", run_name="__main__")
    except SystemExit as stop:
        code = 1 if stop.code else 0
    assert code == expected, (command, argument, code)
    heavy = {{"torch", "lightning", "matplotlib", "wandb"}} & set(sys.modules)
    assert not heavy, (command, argument, heavy)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_samples_are_drawn_without_waiting_for_lightning(tmp_path: Path) -> None:
    script = f"""
import runpy, sys
for command, option in (("sample", "n=1"), ("latent", "tool=walk")):
    sys.argv[1:] = ["weights=pretrained", option, "accelerator=cpu", "output='{tmp_path}/made'"]
    runpy.run_module(f"vaegan_pl.{{command}}", run_name="__main__")
    assert "torch" in sys.modules
    assert not {{"lightning", "torchmetrics", "sklearn"}} & set(sys.modules), command
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"sample_00000.png", "walk.gif"} <= {path.name for path in (tmp_path / "made").iterdir()}
