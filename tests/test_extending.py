"""docs/extending.md: its files and commands, run as they stand on the page."""

import csv
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaegan_pl
from vaegan_pl.cli.train import train
from vaegan_pl.data.phantoms import draw_folders
from vaegan_pl.errors import UserError
from vaegan_pl.model.losses import Prior

from .conftest import CLASSES, SMALL, adversary_with, networks_with

Run = Callable[..., str | None]
PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`(\S+)`\n\n```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
FEW = [*SMALL, "logger=csv", "trainer.log_every_n_steps=1", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"]
PHANTOMS = ["data.per_class.Training=12", "data.per_class.Testing=4"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "phantoms"
    draw_folders(root, CLASSES, {"Training": 12, "Testing": 4}, 0)
    return root


@pytest.fixture(autouse=True)
def my_project(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.copytree(phantoms, tmp_path / "outputs" / "phantoms")
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.fixture
def follow(run_command: Run) -> Callable[..., str | None]:
    """Runs the page's command that has an option, with further options."""

    def run(option: str, *more: str) -> str | None:
        (command,) = (command for command in COMMANDS if option in command.split())
        python, m, module, *arguments = shlex.split(command)
        assert [python, m, module] == ["python", "-m", "vaegan_pl.train"]
        return run_command(train, "train", *arguments, *more)

    return run


def logged(name: str) -> list[float]:
    with Path("outputs/latest/metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def small(*options: str) -> list[str]:
    """The options of a small run, for `vaegan_pl.build`."""
    return [*(option for option in FEW if not option.lstrip("~").startswith(("callbacks.", "logger"))), *options]


def test_the_page_has_the_files_and_commands_that_are_tested() -> None:
    assert sorted(FILES) == [
        *(f"my_{name}.py" for name in ("callbacks",)),
        *(f"my_conf/{name}.yaml" for name in ("callbacks/mine", "data/volumes", "experiment/mine", "model/edges")),
        "my_conf/model/networks/resize.yaml",
        *(f"my_{name}.py" for name in ("data", "loss", "networks")),
    ]
    assert len(COMMANDS) == 6


def test_an_own_loss_is_descended_logged_and_recorded(follow: Run) -> None:
    assert follow("model=edges", *FEW, *PHANTOMS) is None
    (value,) = logged("loss/edges")
    assert value > 0
    model = vaegan_pl.load("outputs/latest/vae_gan_model.pth")
    assert (model.training["edges"], model.training["model"]) == (0.05, "VAE/GAN")
    assert model.sample(2).shape == (2, 1, 32, 32)

    from my_loss import EdgeVAEGAN  # type: ignore[import-not-found]

    options = {"gamma": 1.0, "similarity_layer": "conv3", "normalised_similarity": False, "sigma": None, "ema": None}
    own = EdgeVAEGAN(
        0.5, networks=networks_with(), fakes="both", batch_norm="paired", adversarial=True, gate=None,
        prior=Prior(1.0, 0.0), adversary=adversary_with(), **options,
    )  # fmt: skip
    x, x_tilde = torch.randn(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    error = (x - x_tilde).numpy()
    expected = 0.5 * (np.abs(np.diff(error, axis=2)).sum() + np.abs(np.diff(error, axis=3)).sum()) / 3
    features = torch.zeros(3, 1)
    assert own.likelihoods(x, x_tilde, [features, features])["loss/edges"].item() == pytest.approx(expected, rel=1e-5)


def test_own_networks_train_with_checkpoints_alone(follow: Run, run_command: Run) -> None:
    said = run_command(train, "train", "--config-dir", "my_conf", "model/networks=resize", *FEW, *PHANTOMS)
    assert "networks of your own" in str(said)
    assert "callbacks.model_file=null" in str(said)
    assert not Path("outputs/latest").exists()

    assert follow("model/networks=resize", *FEW, *PHANTOMS) is None
    run = Path("outputs/latest")
    assert not list(run.glob("*.pth"))
    assert (run / "images" / "samples_epoch_0001.png").exists()
    last = (run / "train.log").read_text().splitlines()[-1]
    assert "no model file" in last
    assert "checkpoints" in last

    (block,) = (b for b in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "load_state_dict" in b)
    names: dict[str, Any] = {"small": small(*PHANTOMS)}
    exec(block.replace('build("model', 'build(*small, "model'), names)
    assert names["images"].shape == (16, 1, 32, 32)
    weight = names["networks"].decoder.convolutions[0][1].weight
    assert torch.equal(weight, names["checkpoint"]["state_dict"]["model.networks.decoder.convolutions.0.1.weight"])

    # Resuming takes classes from the folder that is given now, and from nowhere else.
    more = ["resume=latest", "trainer.max_epochs=2"]
    assert "add --config-dir" in str(run_command(train, "train", *more))
    assert run_command(train, "train", "--config-dir", "my_conf", *more) is None
    assert len(logged("validation/psnr")) == 2


def test_an_own_data_module_keeps_volumes_in_one_split(follow: Run) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        Path("volumes", name).mkdir(parents=True)
        for volume in range(4):
            np.save(f"volumes/{name}/p{volume}.npy", random.integers(0, 256, (9, 40, 40), dtype=np.uint8))
    few = [option for option in FEW if "data_report" not in option]
    assert follow("data=volumes", *few) is None
    # Of the four volumes of a class one validates and one tests, with nine slices each.
    model = vaegan_pl.load("outputs/latest/vae_gan_model.pth")
    counts = {"train": {"a": 18, "b": 18}, "validation": {"a": 9, "b": 9}, "test": {"a": 9, "b": 9}}
    assert model.trained_on.counts == counts
    options = [option for option in small() if not option.startswith("logger")]
    split = vaegan_pl.build("data=volumes", *options, config_dir="my_conf").data.collection
    names = {name: {split.name(i).rpartition("_")[0] for i in split.split.images(name)} for name in counts}
    assert [len(volumes) for volumes in names.values()] == [4, 2, 2]
    assert len(set.union(*names.values())) == 8
    assert follow("resume=latest", "trainer.max_epochs=2") is None


def test_own_callbacks_write_files_and_log_metrics(follow: Run) -> None:
    assert follow("callbacks=mine", *FEW, *PHANTOMS) is None
    run = Path("outputs/latest")
    x, _ = vaegan_pl.build(*small(*PHANTOMS)).data.validation_images(256)
    model = vaegan_pl.load(run / "vae_gan_model.pth")
    latents = np.load(run / "latents" / "latents_epoch_0001.npy")
    np.testing.assert_allclose(latents, model.encode(x).numpy(), rtol=1e-3, atol=1e-4)
    expected = np.abs(model.reconstruct(x).numpy() - x.numpy()).mean()
    assert logged("validation/absolute_error") == pytest.approx([expected], rel=1e-3)


def test_an_own_experiment_combines_them_and_resumes(follow: Run) -> None:
    size = ["data.batch_size=16"]
    assert follow("experiment=mine", *FEW, *PHANTOMS, *size) is None
    assert follow("resume=latest", "trainer.max_epochs=2") is None
    run = Path("outputs/latest")
    assert [path.name for path in sorted((run / "latents").iterdir())] == [
        "latents_epoch_0001.npy",
        "latents_epoch_0002.npy",
    ]
    assert len(logged("validation/absolute_error")) == len(logged("loss/edges")) == 2
    assert vaegan_pl.load(run / "vae_gan_model.pth").training["edges"] == 0.2
    shutil.rmtree("my_conf/model")
    assert "sets model._target_=my_loss.EdgeVAEGAN" in str(follow("resume=latest", "trainer.max_epochs=3"))
    Path("my_conf/data/broken.yaml").write_text("a: [")
    assert "broken.yaml: is not YAML" in str(follow("resume=latest", "trainer.max_epochs=3"))


def test_what_is_no_data_module_of_this_project_is_named(run_command: Run) -> None:
    message = run_command(train, "train", *FEW, *PHANTOMS, "data._target_=builtins.dict")
    assert (
        message
        == "error: data._target_: builds a dict; it must build vaegan_pl.data.datamodule.ImageFolders or a "
        + ("subclass of it")
    )


@pytest.mark.parametrize("folder", ["my conf", "nowhere"])
def test_folders_of_configuration_are_found_from_python(folder: str) -> None:
    if folder == "nowhere":
        with pytest.raises(UserError, match="config_dir=nowhere: no such folder"):
            vaegan_pl.build(config_dir=folder)
        return
    Path("my_conf").rename(folder)
    made = vaegan_pl.build(*small("model=edges", "model.edges=3"), config_dir=folder)
    assert made.module.model.edges == 3
