"""Every model as a user trains, samples, reconstructs, measures and resumes it, on small networks and phantoms."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
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

from .conftest import SMALL, digest

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
TORCHS = "_target_:torch.optim.lr_scheduler"
STEPS = f"{{{TORCHS}.StepLR,_partial_:true,step_size:1}}"
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
        assert said == "error: weights: the file contains no encoder; the model can only be sampled"
        assert by_class == "error: weights: the file contains no encoder, so it has no classes to sample from"
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
    written = {path.stem for path in Path("exported").glob("*.safetensors")}
    assert written == networks - {"discriminator"}

    options = ["data=phantom", "data.image_size=32", *DATA, "n=20", "seeds=0", "accelerator=cpu", "output=found"]
    assert run_command(evaluate, "evaluate", file, *options) is None
    (found,) = json.loads(Path("found/metrics.json").read_text())["models"]
    assert set(found["samples"]) == ({"prior"} if name == "gan" else {"prior", "by class", "training posteriors"})
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


class Rates(L.Callback):
    """Notes the learning rates of the networks in every batch, by epoch."""

    seen: ClassVar[dict[int, list[list[float]]]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        Rates.seen.setdefault(trainer.current_epoch, []).append(rates)


def rates_of(run_command: Run, *options: str) -> dict[int, list[float]]:
    """The learning rates of the networks in each epoch of a run; they are the same in all batches of an epoch."""
    Rates.seen.clear()
    assert run_command(train, "train", *options, "+callbacks.rates._target_=tests.test_models.Rates") is None
    assert all(rates == batches[0] for batches in Rates.seen.values() for rates in batches)
    return {epoch: batches[0] for epoch, batches in Rates.seen.items()}


def test_learning_rates_fall_with_the_authors_annealing(run_command: Run) -> None:
    """Bit by bit as in their formula, also in a run that is made longer."""
    rates = rates_of(run_command, *FEW, "optimizer=larsen2015", "trainer.max_epochs=3")

    def expected(epoch: int, epochs: int) -> list[float]:
        return 3 * [(1 - math.pow(epoch / epochs, 0.75) * (1 - 4e-4)) * 3e-4]

    assert rates == {epoch: expected(epoch, 3) for epoch in range(3)}
    content = tensor_files.load(Path("run/checkpoints/last.ckpt"))
    assert content["lr_schedulers"] == []
    assert [state["param_groups"][0]["lr"] for state in content["optimizer_states"]] == expected(2, 3)
    assert weights.load(Path("run/vae_gan_model.pth")).training["optimizers"]["decoder"] == "RMSprop, lr 0.0003"

    rates = rates_of(run_command, "resume=run", "trainer.max_epochs=5")
    assert rates == {3: expected(3, 5), 4: expected(4, 5)}
    assert "the learning rates rise again before they decay" in Path("run/train.log").read_text()


@pytest.mark.parametrize("by", ["optimizer/schedule=cosine", f"optimizer.schedule={STEPS}"])
def test_any_schedule_of_torch_resumes_as_if_the_run_had_not_been_stopped(run_command: Run, by: str) -> None:
    """Both compute a rate from the one before, so that a rate restored wrongly would show."""
    whole = rates_of(run_command, *FEW, by, "hydra.run.dir=whole", "trainer.max_epochs=4")
    cosine = [(1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)]
    shares = cosine if by.endswith("cosine") else [1, 0.1, 0.01, 0.001]
    assert np.array([*whole.values()]) == pytest.approx(np.outer(shares, [3e-4, 3e-4, 3e-5]))
    assert rates_of(run_command, *FEW, by, "trainer.max_epochs=4", "trainer.max_steps=10") == {
        epoch: whole[epoch] for epoch in range(3)
    }
    assert rates_of(run_command, "resume=run", "trainer.max_steps=-1") == {epoch: whole[epoch] for epoch in (2, 3)}
    ends = [tensor_files.load(Path(run, "checkpoints/last.ckpt")) for run in ("whole", "run")]
    for part in ("state_dict", "optimizer_states"):
        assert digest(ends[0][part]) == digest(ends[1][part])


def test_a_schedule_stored_by_an_earlier_version_is_resumed(run_command: Run) -> None:
    options = [*FEW, "optimizer=larsen2015", "trainer.max_epochs=3"]
    whole = rates_of(run_command, *options)
    assert rates_of(run_command, *options, "hydra.run.dir=old", "trainer.max_steps=4") == {0: whole[0]}
    path = Path("old/config.yaml")
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    config["optimizer"]["schedule"] = {
        "_target_": "vaegan_pl.model.schedule.PowerDecay",
        "stop": 4.0e-4,
        "exponent": 0.75,
    }
    OmegaConf.save(OmegaConf.create(config), path)
    assert rates_of(run_command, "resume=old", "trainer.max_steps=-1") == {1: whole[1], 2: whole[2]}


def test_larger_images_train_by_the_same_configuration(run_command: Run) -> None:
    assert run_command(train, "train", *FEW, "data.image_size=128", "trainer.max_epochs=1") is None
    networks = weights.load(Path("run/vae_gan_model.pth")).networks
    assert networks.arguments["encoder_channels"] == [8, 16, 32, 32]
    assert networks.decoder(torch.randn(2, 16)).shape == (2, 1, 128, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model=conditional", "model.networks.classes=3"], "model.networks.classes=3: the images have 4 classes"),
        (["model=vae"], "has encoder, decoder, discriminator; this model needs encoder, decoder"),
        (
            ["model=gan", "model.networks.encoder_channels=null", "optimizer.encoder.lr=1"],
            "optimizer.encoder.lr=1: this model has no encoder; leave the option out",
        ),
        (["model.gate=equilibrium"], "model.gate=equilibrium: use model/gate=equilibrium"),
        (["model=vae_disl", "model/gate=equilibrium"], "model.gate: balances decoder and discriminator"),
        (["model.prior=null"], "model.prior=None: must be a group; leave it out"),
        (["model.adversary=null"], "model.adversary=None: must be a group; leave it out"),
        (["model.networks=null"], "model.networks=None: must be a group; leave it out"),
        (["model.networks.encoder_features=0"], "model.networks.encoder_features=0: must be at least 1"),
        (["model.networks.latent_dim=0"], "model.networks.latent_dim=0: must be at least 1"),
        (["model.networks.discriminator_channels=[8,0,32,32]"], "discriminator_channels=[8, 0, 32, 32]: must be at"),
        (["model.ema=2"], "model.ema=2: must be null or a number of at least 0 and below 1"),
        (["model.adversary.diffaugment=[rotation]"], "may only contain brightness, contrast, translation, cutout"),
        (["model.adversary.r1=1.0"], "use model.networks.discriminator_norm=group or spectral"),
        (["model.sigma=true"], "model.sigma=True: must be a positive number or learned"),
        (["model.sigma=wide"], "model.sigma=wide: must be a positive number or learned"),
        (["model=gan", "model/gate=equilibrium"], "model/gate: the chosen model has no gate; leave the option out"),
        (["model=vae", "model/adversary=saturating"], "model/adversary: the chosen model has no adversary"),
        (["model/prior=null"], "model/prior=null: cannot be left out; use one of standard"),
        (["optimizer.schedule=cosine"], "use optimizer/schedule=cosine"),
        (["optimizer/schedule=power", "optimizer.schedule.lr_lambda.stop=2"], "stop=2: must lie between 0 and 1"),
        ([f"optimizer.schedule={{{TORCHS}.ReduceLROnPlateau,_partial_:true}}"], "a ReduceLROnPlateau cannot set"),
        ([f"optimizer.schedule={{{TORCHS}.StepLR,_partial_:true}}"], "optimizer.schedule: "),
        ([f"optimizer.schedule={{{TORCHS}.StepLR,_partial_:true,step_size:0}}"], "fails in epoch"),
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
