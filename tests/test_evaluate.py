"""The evaluate command, sampling by class and the measures taken while training, on small networks and phantoms."""

import base64
import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from vaegan_pl.data.images import to_unit_range
from vaegan_pl.evaluate import evaluate
from vaegan_pl.evaluation import classifier, features
from vaegan_pl.model import weights
from vaegan_pl.sample import sample
from vaegan_pl.train import train

from .conftest import CLASSES, SMALL

Run = Callable[..., str | None]

DATA = [
    "data=phantom",
    "data.image_size=32",
    "data.per_class.Training=24",
    "data.per_class.Testing=6",
    "data.validation_fraction=0.2",
    "data.test_fraction=0.2",
]
LOGGED = ["logger=csv", "trainer.log_every_n_steps=1"]
QUICK = ["n=40", "seeds=2", "accelerator=cpu"]


@pytest.fixture(scope="module")
def _few_steps() -> Iterator[None]:
    fit = classifier.fit
    with pytest.MonkeyPatch.context() as patch:
        for module in (features, __import__("vaegan_pl.evaluation.usefulness", fromlist=["fit"])):
            patch.setattr(module, "fit", lambda x, y, n, seed, words, steps=0: fit(x, y, n, seed, words, steps=20))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, _few_steps: None) -> Path:
    """Holds a finished run, `run`, measured while it trained."""
    folder = tmp_path_factory.mktemp("evaluate")
    options = [*LOGGED, "trainer.max_epochs=2", "hydra.run.dir=run", "callbacks.quality.n=16"]
    small = [option for option in SMALL if not option.startswith(("data.image_size", "callbacks"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train", *small, *DATA, *options])
        from vaegan_pl import commands

        commands.run(train, "train")
    return folder


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_training_measures_samples_and_keeps_the_best(folder: Path) -> None:
    with Path("run/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["validation/kid"]]
    assert len(rows) == 2
    for row in rows:
        assert 0 <= float(row["validation/coverage"]) <= 1
        assert 0 < float(row["validation/variety"]) < 2
        assert 0 <= float(row["validation/active_dimensions"]) <= 16
    best = min(rows, key=lambda row: float(row["validation/kid"]))
    assert weights.load(Path("run/vae_gan_model_best.pth")).training["batches"] == 1 + int(best["step"])
    card = Path("run/model_card.md").read_text()
    assert "Not measured yet" in card or "TSTR" in card
    assert "PHANTOMS (drawings, not MRI)" in card


def test_a_finished_model_knows_where_its_classes_lie() -> None:
    for name in ("vae_gan_model.pth", "vae_gan_model_best.pth"):
        assert weights.load(Path("run", name)).labels == CLASSES


def test_everything_is_measured_and_written(run_command: Run, capfd: pytest.CaptureFixture[str]) -> None:
    options = [*DATA, *QUICK, "weights=run/vae_gan_model.pth", "output=found"]
    assert run_command(evaluate, "evaluate", *options) is None
    figures = json.loads(Path("found/metrics.json").read_text())
    names = {"KID", "Fréchet distance", "precision", "recall", "density", "coverage", "Vendi score", "MS-SSIM of pairs"}
    (model,) = figures["models"]
    for levels in (figures["real"], *model["samples"].values()):
        assert set(levels) == names
        assert all(level["low"] <= level["value"] + 1e-9 for level in levels.values())
    assert set(model["samples"]) == set(model["copies"]) == {"prior", "by class"}
    assert figures["real"]["coverage"]["value"] > model["samples"]["prior"]["coverage"]["value"]
    assert set(model["reconstruction"]) == {"PSNR", "SSIM", "MS-SSIM"}
    assert figures["copy_audit"]["detects"]["exact"]["value"] == 1
    useful = model["usefulness"]
    assert useful["seeds"] == 2
    assert useful["TSTR / TRTR"]["value"] == pytest.approx(useful["TSTR"]["value"] / useful["TRTR"]["value"])
    gained = useful["real + synthetic"]["value"] - useful["TRTR"]["value"]
    assert useful["augmentation gain"]["value"] == pytest.approx(gained)
    assert model["verdict"] in ("PASS", "WARN", "FAIL")

    page = Path("found/report.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == page.count("<img") == 6  # plot, two grids of samples, reconstructions, lines, nearest pairs
    for picture in pictures:
        with Image.open(BytesIO(base64.b64decode(picture))) as image:
            assert min(image.size) > 50
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    for words in ("These are PHANTOMS", "not a guarantee of privacy", figures["features"]["name"], "TSTR / TRTR"):
        assert words in page
    card = Path("run/model_card.md").read_text()
    for words in (figures["data"]["fingerprint"], "TSTR / TRTR", model["verdict"], "Intended use", "not a guarantee"):
        assert words in card
    assert f"{model['verdict']}: " in capfd.readouterr().out


def test_the_same_seed_gives_the_same_figures_whatever_the_batches(
    run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for at_once, output in ((64, "a"), (7, "b")):
        monkeypatch.setattr("vaegan_pl.inference.AT_ONCE", at_once)
        monkeypatch.setattr("vaegan_pl.evaluation.features.AT_ONCE", at_once)
        options = [*DATA, "n=40", "seeds=0", "accelerator=cpu", "weights=run/vae_gan_model.pth", f"output={output}"]
        assert run_command(evaluate, "evaluate", *options) is None
        found.append(json.loads(Path(output, "metrics.json").read_text()))
    a, b = found
    for name, level in a["models"][0]["samples"]["prior"].items():
        assert b["models"][0]["samples"]["prior"][name]["value"] == pytest.approx(level["value"], rel=1e-3, abs=1e-3)
    assert b["models"][0]["copies"] == a["models"][0]["copies"]


def test_several_models_share_one_table(run_command: Run) -> None:
    both = "weights=[run/vae_gan_model.pth,run/vae_gan_model_best.pth]"
    assert run_command(evaluate, "evaluate", *DATA, "n=40", "seeds=0", "accelerator=cpu", both, "output=two") is None
    figures = json.loads(Path("two/metrics.json").read_text())
    assert [Path(model["weights"]).name for model in figures["models"]] == [
        "vae_gan_model.pth",
        "vae_gan_model_best.pth",
    ]
    page = Path("two/report.html").read_text()
    for column in ("run, prior", "run, by class", "run/vae_gan_model_best.pth, prior"):
        assert f">{column}</th>" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["weights=nowhere.pth"], "weights=nowhere.pth: no such file"),
        (["weights=run/vae_gan_model.pth", "data.split_seed=7"], "was trained with seed 0 (here 7)"),
        (["weights=run/vae_gan_model.pth", "data.phantom_seed=7", "data.root=others"], "was trained on other images"),
        (["weights=run/vae_gan_model.pth", "features=pixels"], "features=pixels: must be classifier or inception"),
        (["weights=run/vae_gan_model.pth", "n=3"], "n=3: must be at least 6"),
        (
            ["weights=run/vae_gan_model.pth", "features=inception", "inception_weights=no.pth"],
            "take features=classifier",
        ),
    ],
)
def test_mistakes_end_with_one_clear_message(run_command: Run, options: list[str], message: str) -> None:
    output = run_command(evaluate, "evaluate", *DATA, *options, "accelerator=cpu", "output=mistaken")
    assert output is not None
    assert output.startswith("error: ")
    assert message in output
    assert not Path("mistaken/metrics.json").exists()


def test_a_class_can_be_sampled(run_command: Run) -> None:
    model = weights.load(Path("run/vae_gan_model.pth"))
    options = ["weights=run/vae_gan_model.pth", "label=notumor", "n=3", "seed=4", "output=one_class"]
    assert run_command(sample, "sample", *options) is None
    z = model.mixture("notumor").sample(3, torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = model.networks.decoder(z)
    for i in range(3):
        with Image.open(f"one_class/notumor_{i:05d}.png") as image:
            pixels = to_unit_range(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8))
        torch.testing.assert_close(pixels.view(32, 32), expected[i, 0], atol=0.005, rtol=0)


def test_a_set_to_share_is_audited_tells_its_origin_and_is_read_again(run_command: Run) -> None:
    options = ["weights=run/vae_gan_model.pth", "n_per_class=12", "audit=true", "output=shared"]
    assert run_command(sample, "sample", *DATA, *options) is None
    facts = json.loads(Path("shared/provenance.json").read_text())
    assert facts["images"] == dict.fromkeys(CLASSES, 12)
    assert set(facts["audit"]["rejected"]) == set(CLASSES)
    assert facts["weights_sha256"] == hashlib.sha256(Path("run/vae_gan_model.pth").read_bytes()).hexdigest()
    assert [len(list(Path("shared", name).glob("*.png"))) for name in CLASSES] == [12] * 4
    small = [option for option in SMALL if not option.startswith("data.batch_size")]
    again = ["data=mri", "data.root=shared", "data.near_copy_correlation=null", "data.batch_size=8", *LOGGED]
    assert run_command(train, "train", *small, *again, "trainer.max_epochs=1", "hydra.run.dir=again") is None
    source = weights.load(Path("again/vae_gan_model.pth")).trained_on
    assert source["kind"] == "phantom"  # what phantoms taught stays phantoms
    assert sum(map(sum, (counts.values() for counts in source["counts"].values()))) == 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["label=fracture"], "label=fracture: the model knows glioma, meningioma, notumor, pituitary"),
        (["label=glioma", "n_per_class=3"], "label, n_per_class: take one of them"),
        (["n_per_class=0"], "n_per_class=0: must be a whole number of at least 1"),
        (["audit=true"], "data.root is not set; add data.root=VALUE"),
    ],
)
def test_mistakes_in_sampling_end_with_one_clear_message(run_command: Run, options: list[str], message: str) -> None:
    output = run_command(sample, "sample", "weights=run/vae_gan_model.pth", "output=mistaken", *options)
    assert output == f"error: {message}" or (output is not None and message in output)


def test_collapse_is_warned_of_in_words(run_command: Run, capfd: pytest.CaptureFixture[str]) -> None:
    small = [option for option in SMALL if not option.startswith(("data.image_size", "callbacks"))]
    still = ["optimizer.decoder.lr=0", "optimizer.discriminator.lr=0.01", "model.fakes=prior", "trainer.max_epochs=6"]
    log = [*LOGGED, "hydra.run.dir=collapsed", "callbacks.quality.n=16"]
    assert run_command(train, "train", *small, *DATA, *still, *log) is None
    output = capfd.readouterr().out
    assert re.search(r"epoch \d: (samples are alike|the discriminator has won)", output)
