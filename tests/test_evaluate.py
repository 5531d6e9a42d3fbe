"""The evaluate command, sampling by class and the measures taken while training, on small networks and phantoms."""

import base64
import csv
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

import vaegan_pl
from vaegan_pl.cli.blind_test import blind_test
from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.sample import sample
from vaegan_pl.cli.train import train
from vaegan_pl.data.images import to_grey_values, to_unit_range
from vaegan_pl.data.tensors import images_of
from vaegan_pl.evaluation import estimate, evaluation, membership, privacy, reference, two_sample, usefulness
from vaegan_pl.model import weights
from vaegan_pl.storage import tensor_files
from vaegan_pl.training.callbacks import Quality

from .conftest import CLASSES, SMALL
from .report.test_data_report import Page
from .report.test_page import Terms

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
ATTACK_FIGURES = ("auc", "tpr_at_1_percent_fpr", "auc_of_most_exposed_tenth")
QUICK = ["n=40", "seeds=2", "accelerator=cpu"]


@pytest.fixture(scope="module")
def _few_steps() -> Iterator[None]:
    """And few resamples: 2,000 of each of a dozen figures take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((reference, "STEPS"), (evaluation, "CLASSIFIER_STEPS"), (two_sample, "STEPS")):
            patch.setattr(module, name, 5)
        for resampling in (estimate, membership, usefulness):
            patch.setattr(resampling, "RESAMPLES", 200)
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
        from vaegan_pl.cli import commands

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
    assert "File: vae_gan_model.pth, SHA-256 " in card
    assert "RMSprop, lr 0.0003" in card
    assert Path("run/model_card_best.md").is_file()
    assert "PHANTOMS (drawings, not MRI)" in card


def test_a_finished_model_knows_where_its_classes_lie() -> None:
    for name in ("vae_gan_model.pth", "vae_gan_model_best.pth"):
        assert weights.load(Path("run", name)).labels == CLASSES


def test_everything_is_measured_and_written(run_command: Run, capfd: pytest.CaptureFixture[str]) -> None:
    options = [*DATA, *QUICK, "weights=run/vae_gan_model.pth", "output=found"]
    assert run_command(evaluate, "evaluate", *options) is None
    figures = json.loads(Path("found/metrics.json").read_text())
    names = {"KID", "Fréchet distance", "precision", "recall", "density", "coverage", "Vendi score", "MS-SSIM of pairs"}
    names |= {"fine detail", "grid of 2 pixels", "grid of 4 pixels"}
    (model,) = figures["models"]
    for metrics in (figures["real"], *model["samples"].values()):
        assert set(metrics) == names
        assert all(level["low"] <= level["value"] + 1e-9 for level in metrics.values())
    assert set(model["copies"]) == {"prior", "by class"}
    assert set(model["samples"]) == {"prior", "by class", "training posteriors"}
    assert figures["real"]["coverage"]["value"] > model["samples"]["prior"]["coverage"]["value"]
    assert set(model["by_class"]) == set(CLASSES)
    assert all(0 <= manifold["coverage"] <= 1 for manifold in model["by_class"].values())
    assert set(model["reconstruction"]) == {"PSNR", "SSIM", "MS-SSIM"}
    space = model["latent_space"]
    assert space["nats_of_an_image"] > space["nats_of_all_from_prior"] > 0
    assert space["variances"] == sorted(space["variances"])
    assert len(space["variances"]) == 16
    assert math.isfinite(space["KID_of_one_gaussian"])
    by_network = model["KID_by_network"]
    assert len(by_network) == 3
    assert 0 <= model["two_sample_auc"]["low"] <= model["two_sample_auc"]["value"] <= 1
    assert 0 <= figures["two_sample_auc_of_real_images"]["value"] <= 1
    assert figures["copy_audit"]["detects"]["exact"]["value"] == 1
    assert model["verdict"] in ("NO POWER", "WARN")  # hardly trained, its reconstructions look like no training image
    assert list(model["attacks"]) == ["reconstruction error", "discriminator's score", "density ratio of samples"]
    assert list(model["membership"]) == ["reconstruction error", "discriminator's score"]
    for name, attack in model["attacks"].items():
        assert attack["auc"] == model["membership"].get(name, attack["auc"])
        assert all(0 <= attack[figure]["low"] <= attack[figure]["high"] <= 1 for figure in ATTACK_FIGURES)
        assert attack["members"] == attack["others"] == figures["data"]["held_out"]
        assert attack["guesses"] == 2 * attack["others"]  # fewer images than guesses
        assert attack["epsilon_lower_bound"] >= 0
    useful = model["usefulness"]
    assert useful["seeds"] == 2
    with Image.open("found/by_class.png") as picture:
        assert picture.width == 2 * (16 * (32 + 2) + 2)  # four of each of four classes, twice as large
    assert useful["TSTR / TRTR"]["value"] == pytest.approx(useful["TSTR"]["value"] / useful["TRTR"]["value"])
    gained = useful["real + synthetic"]["value"] - useful["real + real"]["value"]
    assert useful["augmentation gain"]["value"] == pytest.approx(gained)

    page = Path("found/report.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == page.count("<img") == 7  # plot, samples twice, reconstructions, lines, nearest pairs twice
    for picture in pictures:
        with Image.open(BytesIO(base64.b64decode(picture))) as image:
            assert min(image.size) > 50
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    heading, *rows = Page(page[page.index("<table>") : page.index("</table>")]).rows
    assert {*names, "TSTR", "TRTR", "augmentation gain", "copies of training images"} < {row[0] for row in rows}
    explained = Terms(page).terms
    for term in (*heading[1:], *(row[0] for row in rows), "[low, high]", "verdict", "AUC", *model["attacks"]):
        assert term in explained
    for words in (
        "These are PHANTOMS",
        "not a guarantee of privacy",
        figures["features"]["name"],
        "TRTR",
        "latent space",
        "A lower bound is no guarantee",
        "here, groups of near-copies were",
        "Not tried: the calibrated reconstruction error (needs an encoder and references=[PATH,...]; may find more)",
    ):
        assert words in page
    card = Path("run/model_card.md").read_text()
    for words in (figures["data"]["fingerprint"], "TSTR / TRTR", model["verdict"], "Intended use", "not a guarantee"):
        assert words in card
    auc = model["attacks"]["reconstruction error"]["auc"]["value"]
    for text, mark in ((page, ""), (card, "**")):
        assert f"{mark}If the decoder is shared{mark}: whoever has it can draw any number of samples" in text
        whole = (
            f"{mark}If the whole file is shared{mark}: what samples reveal, and: reconstruction error: AUC {auc:.3f}"
        )
        assert whole in text
    said = capfd.readouterr().out
    assert f"{model['verdict']}: " in said
    assert "attack: density ratio of samples (samples): AUC 0." in said


def test_the_same_seed_gives_the_same_figures_whatever_the_batches(
    run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for at_once, output in ((64, "a"), (7, "b")):
        for module in ("model.running", "evaluation.features", "evaluation.diversity", "evaluation.reconstruction"):
            monkeypatch.setattr(f"vaegan_pl.{module}.AT_ONCE", at_once)
        options = [*DATA, "n=40", "quick=true", "accelerator=cpu", "weights=run/vae_gan_model.pth", f"output={output}"]
        assert run_command(evaluate, "evaluate", *options) is None
        found.append(json.loads(Path(output, "metrics.json").read_text()))
    a, b = found
    for name, level in a["models"][0]["samples"]["prior"].items():
        assert b["models"][0]["samples"]["prior"][name]["value"] == pytest.approx(level["value"], rel=1e-3, abs=1e-3)
    assert b["models"][0]["copies"] == a["models"][0]["copies"]


def test_a_sweep_over_evaluations_is_refused_since_all_would_write_to_one_folder(run_command: Run) -> None:
    message = run_command(evaluate, "evaluate", "--multirun", *DATA, "weights=run/vae_gan_model.pth", "n=40,50")
    assert message == "error: evaluate cannot be swept; run it without --multirun, once for each output"
    assert not Path("multirun").exists()


def test_a_quick_evaluation_leaves_out_the_classifiers_and_says_so(run_command: Run) -> None:
    """Fewer samples than held-out images, so KID is of some of both."""
    options = [*DATA, "quick=true", "n=14", "accelerator=cpu", "weights=run/vae_gan_model.pth", "output=quick"]
    assert run_command(evaluate, "evaluate", *options) is None
    figures = json.loads(Path("quick/metrics.json").read_text())
    (model,) = figures["models"]
    assert (figures["seeds"], figures["divisions"], figures["samples"], figures["compared"]) == (0, 3, 14, 14)
    assert figures["data"]["held_out"] > 14
    assert "usefulness" not in model
    assert model["two_sample_auc"] is None
    by_network = model["KID_by_network"]
    assert sum(by_network) / len(by_network) == pytest.approx(model["samples"]["by class"]["KID"]["value"], rel=1e-4)
    assert "seeds=0 or quick=true was given" in Path("quick/report.html").read_text()


def test_the_second_evaluation_looks_for_copies_among_samples_alone(
    run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*DATA, "quick=true", "n=14", "accelerator=cpu", "weights=run/vae_gan_model.pth", "data.cache=searched"]
    searched, nearest = list[int](), privacy.CopyDetector.nearest

    def noted(self: privacy.CopyDetector, x: torch.Tensor, *description: str) -> privacy.Nearest:
        searched.append(len(x))
        return nearest(self, x, *description)

    monkeypatch.setattr(privacy.CopyDetector, "nearest", noted)
    figures = []
    for name in ("first", "second"):
        assert run_command(evaluate, "evaluate", *options, f"output={name}") is None
        figures.append(json.loads(Path(name, "metrics.json").read_text()))
    assert len(list(Path("searched").glob("nearest-*.pth"))) == 2
    held_out, *_ = searched
    assert held_out >= figures[0]["data"]["held_out"]
    samples = 2 * 14 + min(100, figures[0]["data"]["images"]["train"])  # and the reconstructions of training images
    assert [n for n in searched if n == samples] == [samples, samples]
    assert len(searched) == 4
    assert figures[0]["copy_audit"] == figures[1]["copy_audit"]


def test_a_gan_is_measured_without_encoder_and_classes(run_command: Run) -> None:
    small = [option for option in SMALL if not option.startswith(("data.image_size", "model.networks.encoder"))]
    options = ["model=gan", *LOGGED, "trainer.max_epochs=1", "hydra.run.dir=gan"]
    assert run_command(train, "train", *options, *small, *DATA) is None
    options = [*DATA, "n=40", "seeds=1", "accelerator=cpu", "weights=gan/vae_gan_model.pth", "output=of_gan"]
    assert run_command(evaluate, "evaluate", *options) is None
    (model,) = json.loads(Path("of_gan/metrics.json").read_text())["models"]
    assert set(model["samples"]) == {"prior"}
    assert model["reconstruction"] is None
    assert 0 <= model["two_sample_auc"]["value"] <= 1
    assert model["verdict"] in ("NO POWER", "WARN")
    assert "unknown whether the audit would recognise its copies" in Path("of_gan/report.html").read_text()


def test_models_of_other_splits_calibrate_attacks(run_command: Run) -> None:
    """More images are held out of the reference model, so that it saw few of the images under attack."""
    held_out = ["data.validation_fraction=0.4", "data.test_fraction=0.4", "data.split_seed=3"]
    small = [option for option in SMALL if not option.startswith(("data.image_size", "data.batch_size"))]
    options = [*LOGGED, "trainer.max_epochs=1", "hydra.run.dir=other", *small, *DATA, *held_out, "data.batch_size=8"]
    assert run_command(train, "train", *options) is None
    options = [*DATA, "n=40", "seeds=0", "accelerator=cpu", "weights=run/vae_gan_model.pth", "output=calibrated"]
    assert run_command(evaluate, "evaluate", *options, "references=[other/vae_gan_model.pth]") is None
    figures = json.loads(Path("calibrated/metrics.json").read_text())
    assert figures["reference_models"] == 1
    attack = figures["models"][0]["attacks"]["calibrated reconstruction error"]
    assert 10 <= attack["others"] < figures["data"]["held_out"]
    assert 10 <= attack["members"] <= attack["others"]
    assert "LiRA (needs an encoder and at least 8 reference models)" in Path("calibrated/report.html").read_text()


def test_several_models_share_one_table(run_command: Run) -> None:
    both = "weights=[run/vae_gan_model.pth,run/vae_gan_model_best.pth]"
    assert run_command(evaluate, "evaluate", *DATA, "quick=true", "accelerator=cpu", both, "output=two") is None
    figures = json.loads(Path("two/metrics.json").read_text())
    assert [Path(model["weights"]).name for model in figures["models"]] == [
        "vae_gan_model.pth",
        "vae_gan_model_best.pth",
    ]
    page = Path("two/report.html").read_text()
    assert {path.name for path in Path("run").glob("model_card*.md")} == {"model_card.md", "model_card_best.md"}
    for column in ("run, samples of N(0, I)", "run, samples", "run, ceiling", "run/vae_gan_model_best.pth, samples"):
        assert f">{column}</th>" in page
    assert "run/vae_gan_model_best.pth against run</td>" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["weights=nowhere.pth"], "weights=nowhere.pth: no such file"),
        (["weights=run/vae_gan_model.pth", "data.split_seed=7"], "was trained with seed 0 (here 7)"),
        (["weights=run/vae_gan_model.pth", "data.phantom_seed=7", "data.root=others"], "was trained on other images"),
        (["weights=run/vae_gan_model.pth", "features=pixels"], "features=pixels: must be classifier or inception"),
        (["weights=run/vae_gan_model.pth", "n=3"], "n=3: must be at least 6"),
        (["weights=run/vae_gan_model.pth", "seed=4294967296"], "seed=4294967296: must lie between 0 and 4294967295"),
        (["weights=[]"], "weights=[]: give at least one model file"),
        (
            ["weights=run/vae_gan_model.pth", "references=[run/vae_gan_model.pth]"],
            "references: 0 of 72 training images and 24 of 24 held-out images are of patients that no reference model",
        ),
        (
            ["weights=run/vae_gan_model.pth", "features=inception", "inception_weights=no.pth"],
            "use features=classifier",
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
    assert model.mixtures is not None
    z = model.mixtures["notumor"].sample(3, torch.Generator().manual_seed(4))
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
    source = weights.load(Path("again/vae_gan_model.pth")).trained_on.plain
    assert source["kind"] == "phantom"  # what phantoms taught stays phantoms
    assert sum(map(sum, (counts.values() for counts in source["counts"].values()))) == 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["label=fracture"],
            "label=fracture: must be one of the model's classes: glioma, meningioma, notumor, pituitary",
        ),
        (["label=glioma", "n_per_class=3"], "label, n_per_class: use only one of them"),
        (["seed=4294967296"], "seed=4294967296: must lie between 0 and 4294967295"),
        (["n_per_class=0"], "n_per_class=0: must be a whole number of at least 1"),
        (["audit=true"], "data.root is not set; add data.root=VALUE"),
    ],
)
def test_mistakes_in_sampling_end_with_one_clear_message(run_command: Run, options: list[str], message: str) -> None:
    output = run_command(sample, "sample", "weights=run/vae_gan_model.pth", "output=mistaken", *options)
    assert output == f"error: {message}" or (output is not None and message in output)


def test_models_of_earlier_versions_are_measured_with_the_split_of_their_time(run_command: Run) -> None:
    content = torch.load("run/vae_gan_model.pth", weights_only=True)
    for name in ("patients", "unknown_patients", "published", "families", "fold", "keeps_apart"):
        del content["trained_on"]["split"][name]
    tensor_files.save(Path("earlier.pth"), content)
    options = [*DATA, "weights=earlier.pth", "accelerator=cpu", "n=20", "quick=true"]
    said = run_command(evaluate, "evaluate", *options, "output=refused")
    assert said is not None
    assert "published False (here True)" in said
    assert run_command(evaluate, "evaluate", *options, "output=measured", "data.published=false") is None


@pytest.mark.parametrize(
    ("images", "message"),
    [("0" * 64, "was trained with other images of the folder"), (None, "does not say which images it was trained on")],
)
def test_a_model_of_other_training_images_is_refused(run_command: Run, images: str | None, message: str) -> None:
    """Of the same folder, options and split, as when files were moved from Testing to Training."""
    content = torch.load("run/vae_gan_model.pth", weights_only=True)
    content["trained_on"]["training_images"] = images
    tensor_files.save(Path("other.pth"), content)
    output = run_command(evaluate, "evaluate", *DATA, "weights=other.pth", "accelerator=cpu", "output=mistaken")
    assert output is not None
    assert output.startswith(f"error: weights=other.pth: {message}")


def test_a_failed_audit_withholds_usefulness(run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample counts as a copy where the threshold lies below every correlation."""
    monkeypatch.setattr(privacy, "calibrate", lambda held_out: privacy.Calibration(-1.0, len(held_out.image), 1))
    options = [*DATA, "n=40", "seeds=1", "accelerator=cpu", "weights=run/vae_gan_model.pth", "output=failed"]
    assert run_command(evaluate, "evaluate", *options) is None
    (model,) = json.loads(Path("failed/metrics.json").read_text())["models"]
    assert model["verdict"] == "FAIL"
    assert model["usefulness"].startswith("Not shown: the copy audit failed")
    page = Path("failed/report.html").read_text()
    assert "withheld" in page
    assert "trained on as many samples, tested on real images" not in page


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_samples_are_measured_in_every_precision(run_command: Run, precision: str) -> None:
    small = [option for option in SMALL if not option.startswith(("data.image_size", "callbacks"))]
    options = [f"trainer.precision={precision}", "trainer.max_epochs=1", *LOGGED, f"hydra.run.dir={precision}"]
    assert run_command(train, "train", *small, *DATA, *options, "callbacks.quality.n=16") is None
    assert ",validation/kid" in Path(precision, "metrics.csv").read_text()


def test_a_run_that_diverges_ends_with_its_message(run_command: Run) -> None:
    small = [option for option in SMALL if not option.startswith(("data.image_size", "callbacks"))]
    options = ["optimizer.decoder.lr=1e30", "trainer.max_epochs=3", *LOGGED, "callbacks.quality.n=16"]
    output = run_command(train, "train", *small, *DATA, *options, "hydra.run.dir=diverged")
    assert output is not None
    assert "not finite in batch" in output


def test_a_set_to_share_needs_a_folder_of_its_own(run_command: Run) -> None:
    assert run_command(sample, "sample", "weights=run/vae_gan_model.pth", "n=1", "output=mixed") is None
    output = run_command(sample, "sample", "weights=run/vae_gan_model.pth", "n_per_class=1", "output=mixed")
    assert output == "error: output=mixed: already contains pictures; a set to share needs a folder of its own"


@pytest.mark.parametrize(("nats", "warned"), [(0.0, []), (100.0, ["real", "prior"])])
def test_a_discriminator_that_wins_is_warned_of_in_words(
    run_command: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, nats: float, warned: list[str]
) -> None:
    monkeypatch.setattr(Quality, "WON", nats)
    small = [option for option in SMALL if not option.startswith("data.image_size")]
    log = [*LOGGED, f"hydra.run.dir=won{nats}", "trainer.max_epochs=1"]
    assert run_command(train, "train", *small, *DATA, *log) is None
    found = re.findall(r"epoch 1: the discriminator has won \(its loss on (\w+) images is", capfd.readouterr().out)
    assert found == warned


def test_samples_that_become_alike_are_warned_of_in_words(
    run_command: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [10.0, 4.0, 1.5, 3.0]  # real images, then samples: 40 %, 15 % and 30 % of them, in three networks each
    scores = iter([share for share in shares for _ in range(3)])
    monkeypatch.setattr("vaegan_pl.training.callbacks.quality.vendi_score", lambda features: next(scores))
    small = [option for option in SMALL if not option.startswith(("data.image_size", "callbacks"))]
    log = [*LOGGED, "hydra.run.dir=alike", "callbacks.quality.n=16", "trainer.max_epochs=3"]
    assert run_command(train, "train", *small, *DATA, *log) is None
    said = capfd.readouterr().out
    found = re.findall(r"epoch (\d): samples have lost variety: it fell from (\d+)% .* (\d+)%", said)
    assert found == [("2", "40", "15")]
    assert re.findall(r"samples have collapsed: their variety is (\d+)% of", said) == ["30"]


def test_the_blind_test_pairs_held_out_slices_with_samples(run_command: Run) -> None:
    options = ["weights=run/vae_gan_model.pth", *DATA, "accelerator=cpu"]
    said = run_command(blind_test, "blind_test", *options, "pairs=1000")
    assert said is not None
    assert re.fullmatch(r"error: pairs=1000: only \d+ images are held out; lower pairs, or add images", said)
    assert str(run_command(blind_test, "blind_test", *options, "pairs=0")).startswith("error: pairs=0: must be")
    assert run_command(blind_test, "blind_test", *options, "pairs=6", "seed=3") is None
    page = Path("outputs/blind_test/blind_test.html").read_text()
    found = re.search(r"const pairs = (.*);", page)
    assert found is not None
    pairs = json.loads(found[1])
    drawn = weights.load("run/vae_gan_model.pth").sample(6, seed=3)
    data = vaegan_pl.build(*DATA).data
    data.prepare_data()
    split = data.collection.split
    held_out = images_of(data.collection, split.images("validation") + split.images("test"))
    known = [{image.tobytes() for image in to_grey_values(x).numpy()} for x in (held_out, drawn)]
    assert {pair["left"] for pair in pairs} == {True, False}
    for pair in pairs:
        shown = [Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))) for address in pair["images"]]
        real_first = shown if pair["left"] else shown[::-1]
        for picture, of_its_kind in zip(real_first, known, strict=True):
            assert picture.tobytes() in of_its_kind
