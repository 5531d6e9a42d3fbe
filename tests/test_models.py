"""Every model as a user trains, samples, reconstructs, measures and resumes it, on small networks and phantoms."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.export import export
from vaegan_pl.cli.reconstruct import reconstruct
from vaegan_pl.cli.sample import sample
from vaegan_pl.cli.train import train
from vaegan_pl.model import weights
from vaegan_pl.storage import tensor_files

from .conftest import SMALL

Run = Callable[..., str | None]
DATA = ["data.per_class.Training=16", "data.per_class.Testing=4"]
FEW = [*SMALL, *DATA, "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "logger=csv", "hydra.run.dir=run"]
MODELS = {
    "vae": ["model.networks.discriminator_channels=null", "model.sigma=learned", "model.ema=0.9"],
    "gan": [
        "model.networks.encoder_channels=null",
        "model.networks.discriminator_norm=group",
        "model.adversary.r1=1.0",
        "model.adversary.lecam=0.1",
    ],
    "vae_disl": [],
    "larsen2015": ["model.networks.discriminator_channels=[8,16,32,32]"],
    "conditional": ["model.adversary.diffaugment=[translation,cutout]", "model.ema=0.9"],
}
NETWORKS = {"vae": {"encoder", "decoder"}, "gan": {"decoder", "discriminator"}}
ALL = {"encoder", "decoder", "discriminator"}


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_trained_used_and_measured(run_command: Run, name: str) -> None:
    assert run_command(train, "train", *FEW, f"model={name}", *MODELS[name], "callbacks.quality.n=8") is None
    model, networks = weights.load(Path("run/vae_gan_model.pth")), NETWORKS.get(name, ALL)
    assert set(model.networks.names) == networks
    assert (Path("run/images/reconstructions_epoch_0002.png").exists()) == ("encoder" in networks)
    assert Path("run/images/progress.png").is_file()
    columns = set(next(csv.reader(Path("run/metrics.csv").read_text().splitlines())))
    assert "validation/kid" in columns
    assert ("validation/psnr" in columns) == ("encoder" in networks)
    assert ("validation/llike" in columns) == (networks == ALL)

    file = "weights=run/vae_gan_model.pth"
    assert run_command(sample, "sample", file, "n=3", "output=samples", "accelerator=cpu") is None
    said = run_command(reconstruct, "reconstruct", file, "images=samples", "output=again", "accelerator=cpu")
    by_class = run_command(sample, "sample", file, "n=3", "label=notumor", "output=one", "accelerator=cpu")
    if name == "gan":
        assert said == "error: weights: the model has no encoder (a GAN); it can be sampled only"
        assert by_class == "error: weights: the model has no encoder (a GAN), and so knows no classes to sample from"
    elif name == "conditional":
        assert said is not None
        assert "label: the model is conditional; give the images' class, glioma or meningioma" in said
        labelled = ["images=samples", "label=glioma", "output=again", "accelerator=cpu"]
        assert run_command(reconstruct, "reconstruct", file, *labelled) is None
        assert by_class is None
    else:
        assert said is None
        assert by_class is None
    assert run_command(export, "export", file, "format=safetensors", "output=exported") is None
    written = {path.stem for path in Path("exported").iterdir()}
    assert written == networks - {"discriminator"}

    options = ["data=phantom", "data.image_size=32", *DATA, "n=20", "seeds=0", "accelerator=cpu", "output=found"]
    assert run_command(evaluate, "evaluate", file, *options) is None
    (found,) = json.loads(Path("found/metrics.json").read_text())["models"]
    assert set(found["samples"]) == ({"prior"} if name == "gan" else {"prior", "by class"})
    assert (found["reconstruction"] is None) == (found["latent_space"] is None) == (name == "gan")
    scores = {"encoder": "reconstruction error", "discriminator": "discriminator's score"}
    assert set(found["membership"]) == {words for network, words in scores.items() if network in networks}
    assert Path("found/report.html").stat().st_size > 10_000
    kind = {"vae": "VAE", "gan": "GAN"}.get(name, "VAE/GAN")
    assert Path("run/model_card.md").read_text().startswith(f"# Model card: {kind} of head slices")
    assert f"drawn from a {kind};" in Path("samples/provenance.json").read_text()


def test_a_conditional_gan_draws_classes_from_the_prior(run_command: Run) -> None:
    few = [option for option in FEW if "encoder_channels" not in option]
    assert run_command(train, "train", *few, "model=gan", "model.networks.classes=4") is None
    options = ["weights=run/vae_gan_model.pth", "n=2", "seed=3", "output=one", "accelerator=cpu"]
    assert run_command(sample, "sample", *options, "label=notumor") is None
    decoder = weights.load(Path("run/vae_gan_model.pth")).networks.decoder
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = (decoder(z, torch.tensor([2, 2]))[1, 0] + 1) * 127.5
    with Image.open("one/notumor_00001.png") as image:
        np.testing.assert_allclose(np.asarray(image), expected.numpy(), atol=0.51)


def test_what_larsen_plus_adds_can_be_switched_off(run_command: Run) -> None:
    options = ["model.ema=null", "model.sigma=null", "model.networks.discriminator_channels=[8,16,32,32]"]
    assert run_command(train, "train", *FEW, "experiment=larsen_plus", *options) is None
    saved = weights.load(Path("run/vae_gan_model.pth")).training
    assert saved["sigma"] is None
    assert "loss/pixel" not in Path("run/metrics.csv").read_text()
    said = run_command(train, "train", *FEW, "model=vae", *MODELS["vae"][:1], "model.sigma=null", "hydra.run.dir=other")
    assert said is not None
    assert "model.sigma=None: must be a positive number or learned" in said


def test_averages_are_what_is_saved_and_used(run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "model.ema=0.5") is None
    saved = weights.load(Path("run/vae_gan_model.pth")).networks.state_dict()
    state = tensor_files.load(Path("run/checkpoints/last.ckpt"))["state_dict"]
    key = "image.0.weight"
    live, average = state[f"model.networks.decoder.{key}"], state[f"model.averages.decoder.{key}"]
    torch.testing.assert_close(saved[f"decoder.{key}"], average, rtol=0, atol=0)
    assert not torch.equal(live, average)
    torch.testing.assert_close(
        saved["discriminator.logit.weight"], state["model.networks.discriminator.logit.weight"], rtol=0, atol=0
    )


def test_averages_do_not_touch_training(run_command: Run) -> None:
    states = []
    for run, ema in (("run", "0.5"), ("other", "null")):
        assert run_command(train, "train", *FEW[:-1], f"model.ema={ema}", f"hydra.run.dir={run}") is None
        states.append(tensor_files.load(Path(run, "checkpoints/last.ckpt"))["state_dict"])
    key = "model.networks.decoder.image.0.weight"
    assert torch.equal(states[0][key], states[1][key])


def test_a_resumed_run_ends_with_the_same_bits(run_command: Run) -> None:
    """With everything that keeps a state of its own, or is a function of the batch's number."""
    options = [
        *FEW[:-1],
        "trainer.max_epochs=5",  # 20 batches: R1 is due in the first and the seventeenth
        "optimizer=larsen2015",
        "model.ema=0.9",
        "model.adversary.lecam=0.1",
        "model.adversary.r1=1.0",
        "model.adversary.diffaugment=[brightness,translation]",
        "model.prior.warm_up=6",
        "model.networks.discriminator_norm=spectral",
    ]
    assert run_command(train, "train", *options, "hydra.run.dir=whole") is None
    assert run_command(train, "train", *options, "hydra.run.dir=parts", "trainer.max_steps=6") is None
    assert run_command(train, "train", "resume=parts", "trainer.max_steps=-1") is None
    assert "the learning rates go up again" not in Path("parts/train.log").read_text()
    whole, parts = (tensor_files.load(Path(run, "checkpoints/last.ckpt"))["state_dict"] for run in ("whole", "parts"))
    assert {"model.adversary.anchors", "model.averages.decoder.image.0.weight"} < whole.keys()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_learning_rates_fall_with_the_authors_annealing(run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "optimizer=larsen2015", "trainer.max_epochs=3") is None
    states = tensor_files.load(Path("run/checkpoints/last.ckpt"))["optimizer_states"]
    share = 1 - (2 / 3) ** 0.75 * (1 - 4e-4)
    rates = [state["param_groups"][0]["lr"] for state in states]
    assert rates == pytest.approx(3 * [3e-4 * share])
    assert weights.load(Path("run/vae_gan_model.pth")).training["optimizers"]["decoder"] == "RMSprop, lr 0.0003"

    assert run_command(train, "train", "resume=run", "trainer.max_epochs=4") is None
    assert "the learning rates rise again before they decay" in Path("run/train.log").read_text()


def test_larger_images_train_by_the_same_configuration(run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "data.image_size=128", "trainer.max_epochs=1") is None
    networks = weights.load(Path("run/vae_gan_model.pth")).networks
    assert networks.arguments["encoder_channels"] == [8, 16, 32, 32]
    assert networks.decoder(torch.randn(2, 16)).shape == (2, 1, 128, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model=conditional", "model.networks.classes=3"], "model.networks.classes=3: the images have 4 classes"),
        (["model=vae"], "has encoder, decoder, discriminator; this model is made of encoder, decoder"),
        (
            ["model=gan", "model.networks.encoder_channels=null", "optimizer.encoder.lr=1"],
            "optimizer.encoder.lr=1: this model has no encoder; leave the option out",
        ),
        (["model.gate=equilibrium"], "model.gate=equilibrium: take model/gate=equilibrium"),
        (["model=vae_disl", "model/gate=equilibrium"], "model.gate: weighs decoder against discriminator"),
        (["model.prior=null"], "model.prior=None: must be a group; leave it out"),
        (["model.adversary=null"], "model.adversary=None: must be a group; leave it out"),
        (["model.networks=null"], "model.networks=None: must be a group; leave it out"),
        (["model.networks.encoder_features=0"], "model.networks.encoder_features=0: must be at least 1"),
        (["model.networks.latent_dim=0"], "model.networks.latent_dim=0: must be at least 1"),
        (["model.networks.discriminator_channels=[8,0,32,32]"], "discriminator_channels=[8, 0, 32, 32]: must be at"),
        (["model.ema=2"], "model.ema=2: must be null or a number of at least 0 and below 1"),
        (["model.adversary.diffaugment=[rotation]"], "must be made of brightness, contrast, translation, cutout"),
        (["model.adversary.r1=1.0"], "take model.networks.discriminator_norm=group or spectral"),
        (["model.sigma=true"], "model.sigma=True: must be a positive number or learned"),
        (["model.sigma=wide"], "model.sigma=wide: must be a positive number or learned"),
        (["model=gan", "model/gate=equilibrium"], "Could not override 'model/gate'"),
        (["optimizer=larsen2015", "trainer.max_epochs=-1", "trainer.max_steps=2"], "needs trainer.max_epochs"),
    ],
)
def test_mistakes_end_with_one_clear_message(run_command: Run, options: list[str], message: str) -> None:
    said = run_command(train, "train", *FEW, *options)
    assert said is not None
    assert message in said
    assert "Traceback" not in said
    if Path("run/config.yaml").exists():
        assert "batch" not in OmegaConf.load("run/config.yaml")
