"""Models from Python: `vaegan_pl.load` opens their files, `vaegan_pl.build` trains them."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import Tensor

import vaegan_pl
from vaegan_pl.cli.sample import sample
from vaegan_pl.errors import UserError
from vaegan_pl.report.pictures import CAPTION_SIZE, MARGIN
from vaegan_pl.training.lightning_module import VAEGANModule

from .conftest import MIXTURES, SMALL, networks_with, save_model

Run = Callable[..., str | None]
PAGE = (Path(__file__).parents[1] / "docs" / "using.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FEW = [option for option in SMALL if not option.lstrip("~").startswith("callbacks")]
FEW += ["data.per_class.Training=16", "data.per_class.Testing=4", "+trainer.limit_val_batches=1"]

X = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
OF_LIGHTNING = pytest.mark.filterwarnings(
    "ignore:The .* does not have many workers", "ignore:.*LeafSpec", "ignore:The number of training batches"
)
"""Its warnings, which the command silences."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(tmp_path / "m.pth", networks_with())
    return tmp_path / "m.pth"


def test_a_path_may_be_text(path: Path) -> None:
    assert vaegan_pl.load(str(path)).labels == ["a", "b", "c"]
    with pytest.raises(UserError, match="no such file"):
        vaegan_pl.load("nowhere.pth")


def test_samples_are_those_of_the_command(path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    options = ["weights=m.pth", "n=2", "seed=3", "label=b", "output=drawn", "accelerator=cpu"]
    assert run_command(sample, "sample", *options) is None
    images = vaegan_pl.load("m.pth").sample(2, label="b", seed=3)
    assert images.shape == (2, 1, 16, 16)
    for i, image in enumerate(images):
        written = torch.from_numpy(np.array(Image.open(f"drawn/b_{i:05d}.png"), dtype=np.float32)).flatten()
        assert torch.equal(((image.flatten() + 1) * 127.5).round(), written)


def test_images_are_encoded_decoded_and_reconstructed(path: Path) -> None:
    model = vaegan_pl.load(path)
    with torch.inference_mode():
        mean, _ = model.networks.encoder(X)
        decoded = model.networks.decoder(mean)
    torch.testing.assert_close(model.encode(X), mean)
    torch.testing.assert_close(model.decode(mean), decoded)
    torch.testing.assert_close(model.reconstruct(X), decoded)


@pytest.mark.parametrize("label", ["b", torch.tensor([1, 1, 1])], ids=["name", "indices"])
def test_conditional_models_are_told_the_class(tmp_path: Path, label: str | Tensor) -> None:
    save_model(tmp_path / "m.pth", networks_with(classes=3))
    model = vaegan_pl.load(tmp_path / "m.pth")
    with torch.inference_mode():
        y = torch.tensor([1, 1, 1])
        expected = model.networks.decoder(model.networks.encoder(X, y)[0], y)
    torch.testing.assert_close(model.reconstruct(X, label), expected)
    torch.testing.assert_close(model.decode(model.encode(X, label), label), expected)
    with pytest.raises(UserError, match="the model is conditional"):
        model.encode(X)
    with pytest.raises(UserError, match="label=z"):
        model.decode(torch.zeros(1, 5), "z")


def test_a_gan_can_be_sampled_only(tmp_path: Path) -> None:
    save_model(tmp_path / "m.pth", networks_with(encoder_channels=None), mixtures=None)
    model = vaegan_pl.load(tmp_path / "m.pth")
    assert model.sample(2).shape == (2, 1, 16, 16)
    assert model.decode(torch.zeros(1, 5)).shape == (1, 1, 16, 16)
    for label in (None, torch.zeros(3, dtype=torch.long)):
        with pytest.raises(UserError, match="no encoder"):
            model.reconstruct(X, label)
    save_model(tmp_path / "c.pth", networks_with(encoder_channels=None, classes=3), mixtures=None)
    assert vaegan_pl.load(tmp_path / "c.pth").decode(torch.zeros(1, 5), "b").shape == (1, 1, 16, 16)


def test_samples_are_of_all_classes_in_the_proportions_of_training(path: Path) -> None:
    model = vaegan_pl.load(path)  # the means of a, b and c are 0, 2 and -1, of 2, 1 and 1 training images
    z, y = model.draw(4000, None, torch.Generator().manual_seed(0), temperature=0)
    values, counts = z[:, 0].unique(return_counts=True)
    assert y is None
    assert values.tolist() == [-1.0, 0.0, 2.0]
    np.testing.assert_allclose(counts.numpy() / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_the_prior_of_training_can_be_drawn_from_instead(path: Path) -> None:
    model = vaegan_pl.load(path)
    z, _ = model.draw(7, None, torch.Generator().manual_seed(3), prior="normal")
    assert torch.equal(z, torch.randn(7, 5, generator=torch.Generator().manual_seed(3)))
    assert (model.density(), model.density("normal")) == ("fitted", "normal")
    with pytest.raises(UserError, match="label=a: N\\(0, I\\) has no classes"):
        model.draw(1, "a", torch.Generator(), prior="normal")
    with pytest.raises(UserError, match="prior=uniform: must be one of fitted, normal"):
        model.sample(1, prior="uniform")


def test_without_a_fitted_density_samples_come_from_the_prior_of_training(tmp_path: Path) -> None:
    save_model(tmp_path / "m.pth", networks_with(), mixtures=None)
    model = vaegan_pl.load(tmp_path / "m.pth")
    assert model.density() == "normal"
    z, _ = model.draw(7, None, torch.Generator().manual_seed(3))
    assert torch.equal(z, torch.randn(7, 5, generator=torch.Generator().manual_seed(3)))


def test_arcs_go_from_one_latent_to_another(path: Path) -> None:
    model = vaegan_pl.load(path)
    start, end = torch.eye(5)[:2], torch.eye(5)[2:4]
    images = model.interpolate(start, end, 3)
    assert images.shape == (3, 2, 1, 16, 16)
    half = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0, 0.0]]) / 2**0.5  # unit vectors at 45 degrees
    with torch.inference_mode():
        expected = torch.stack([model.networks.decoder(z) for z in (start, half, end)])
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_attribute_vectors_lead_from_class_to_class(path: Path, tmp_path: Path) -> None:
    model = vaegan_pl.load(path)  # the means of a, b and c are 0, 2 and -1, of 2, 1 and 1 training images
    vectors = {name: vector.unique().tolist() for name, vector in model.attribute_vectors().items()}
    assert vectors == {"a": [-0.5], "b": [pytest.approx(2 + 1 / 3)], "c": [pytest.approx(-1 - 2 / 3)]}
    from_c = {name: vector.unique().tolist() for name, vector in model.attribute_vectors(away_from="c").items()}
    assert from_c == {"a": [1.0], "b": [3.0]}
    with pytest.raises(UserError, match="label=z"):
        model.attribute_vectors(away_from="z")
    save_model(tmp_path / "few.pth", networks_with(), mixtures={"a": MIXTURES["a"]})
    with pytest.raises(UserError, match="two classes"):
        vaegan_pl.load(tmp_path / "few.pth").attribute_vectors()


def test_a_grid_of_all_classes_has_a_titled_block_for_each(path: Path, run_command: Run) -> None:
    assert run_command(sample, "sample", f"weights={path}", "n_per_class=9", f"output={path.parent / 'drawn'}") is None
    drawn = np.asarray(Image.open(path.parent / "drawn" / "grid.png"))
    model, generator = vaegan_pl.load(path), torch.Generator().manual_seed(0)
    side = 2 * (16 + MARGIN)  # pictures show images twice as large
    block = 2 * side + 2 * MARGIN + CAPTION_SIZE + 6  # nine images are two rows of eight, above their title
    for i, label in enumerate("abc"):
        first = model.sample(9, label, generator)[0, 0]
        top, left = i * block + 2 * MARGIN, 2 * MARGIN
        shown = drawn[top : top + 32 : 2, left : left + 32 : 2]
        np.testing.assert_allclose(shown, (first.numpy() + 1) * 127.5, atol=0.51)


def test_what_it_returns_can_be_trained_on(path: Path) -> None:
    model = vaegan_pl.load(path)
    weight = torch.ones(5, requires_grad=True)
    (model.encode(X) * weight).sum().backward()
    assert weight.grad is not None
    assert model.sample(2).clamp_(0, 1).min() >= 0


def test_the_page_on_using_a_model_is_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (block for block in BLOCKS if "vaegan_pl.load" in block)
    monkeypatch.chdir(path.parent)
    path.rename("vae_gan_model.pth")
    names: dict[str, Any] = {}
    exec(block.replace("glioma", "a"), names)
    assert names["images"].shape == (16, 1, 16, 16)
    torch.testing.assert_close(names["again"], names["model"].reconstruct(names["images"]))


@OF_LIGHTNING
def test_the_page_on_training_from_python_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in BLOCKS if "vaegan_pl.build" in block)
    names: dict[str, Any] = {"few": FEW}
    exec(block.replace("build(", "build(*few, "), names)
    module, data, trainer = (getattr(names["made"], name) for name in ("module", "data", "trainer"))
    assert trainer.global_step == 2
    assert trainer.callback_metrics["loss/llike"] > 0
    assert names["images"].shape == (16, 1, 32, 32)
    assert isinstance(module, VAEGANModule)
    assert module.model.ema == 0.995  # of conf/model/larsen_plus.yaml
    assert len(next(iter(data.train_dataloader()))[0]) == 16
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert {path.name for path in Path("outputs").iterdir()} == {"phantoms", "cache"}
    with pytest.raises(FrozenInstanceError):
        names["made"].data = None


@OF_LIGHTNING
def test_callbacks_and_loggers_leave_the_files_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ["callbacks=unmeasured", "~callbacks.curves", "~callbacks.data_report", "logger=csv"]
    options = [*FEW, *kept, "trainer.max_epochs=1", "+trainer.limit_train_batches=1", "directory=my_run"]
    made = vaegan_pl.build(*options)
    made.trainer.fit(made.module, made.data)
    assert {path.name for path in Path("my_run").iterdir()} == {
        "checkpoints", "images", "metrics.csv", "model_card.md", "vae_gan_model.pth"
    }  # fmt: skip
    x, _ = made.data.validation_images(4)
    with torch.no_grad():
        mean, _ = made.module.model.inference_networks.eval().encoder(x)
    torch.testing.assert_close(vaegan_pl.load("my_run/vae_gan_model.pth").encode(x), mean)
    with pytest.raises(UserError, match=r"my_run: already contains a run .* choose another directory"):
        vaegan_pl.build(*options)


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (
        next(vaegan_pl.build(*FEW, f"seed={seed}").module.model.networks.decoder.parameters()) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["moedl=x"], "no option moedl; did you mean model"),
        (["model=nope"], "model=nope: use one of .*larsen_plus"),
        (["data.batch_size=x"], "data.batch_size=x: must be a whole number"),
        (["model.gamma=-1"], "model.gamma=-1: must be"),
        (["+surprise=1"], "no option surprise"),
        (["data=mri"], r"add data\.root="),
        (["data=mri", "data.root=nowhere"], "data.root=nowhere: no such folder"),
        (["callbacks=default"], "add directory=PATH"),
        (["resume=latest"], "python -m vaegan_pl.train"),
        (["larsen"], "name=value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_options_are_named(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vaegan_pl.build(*options)


def test_a_program_that_uses_hydra_itself_can_build(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: 1")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert vaegan_pl.build(*FEW).data.batch_size == 16
        assert compose("mine").a == 1


def test_the_package_is_imported_without_torch_or_hydra() -> None:
    code = "import sys, vaegan_pl; sys.exit(bool({'torch', 'lightning', 'hydra'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_lightnings_way_to_open_a_checkpoint_is_refused_with_what_to_use() -> None:
    with pytest.raises(UserError) as refused:
        VAEGANModule.load_from_checkpoint("outputs/latest/checkpoints/last.ckpt", map_location="cpu")
    assert "vaegan_pl.load('outputs/latest/vae_gan_model.pth')" in str(refused.value)
    assert "resume=outputs/latest" in str(refused.value)
