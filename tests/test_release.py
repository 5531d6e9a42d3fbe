"""The release command: what it writes, what it does not let out, and what it refuses."""

import json
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vaegan_pl
from tests.conftest import networks_with, save_model
from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.release import release
from vaegan_pl.cli.sample import sample
from vaegan_pl.model import mechanism, weights
from vaegan_pl.model.networks import Networks
from vaegan_pl.storage import tensor_files

Run = Callable[..., str | None]
DATA = ["data=mri", "data.root=StMarys_private", "data.classes=null", "data.image_size=16", "data.cache=cache"]
OPTIONS = ["weights=public.pth", "epsilon=2", "axes=3", "output=out", *DATA]


@pytest.fixture(autouse=True)
def _there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_networks: Networks, write_classes: Callable[..., Path]
) -> None:
    """A public model of the classes a, b and c, and a hospital with other classes and names of patients."""
    monkeypatch.chdir(tmp_path)
    save_model(Path("public.pth"), small_networks, epochs=1)
    write_classes(Path("StMarys_private"), per_class=12, classes=["glioma", "metastasis"])
    for i, path in enumerate(sorted(Path("StMarys_private").rglob("*.png"))):
        path.rename(path.with_name(f"Doe{i // 3}_{path.name}"))


def test_the_file_is_drawn_from_and_the_certificate_says_what_is_guaranteed(
    run_command: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command(release, "release", *OPTIONS) is None
    assert "SPENT        epsilon 2, delta 1e-05 per image. Budgets add up" in capfd.readouterr().out
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "certificate.json",
        "certificate.md",
        "vae_gan_decoder.pth",
    ]
    model = vaegan_pl.load("out/vae_gan_decoder.pth")
    assert (model.networks.names, model.labels) == (["decoder"], ["glioma", "metastasis"])
    assert model.sample(4, "metastasis").isfinite().all()
    assert model.trained_on.is_phantom  # because the public images are
    caption = "PHANTOMS (drawings, not MRI); classes of other images, released with epsilon 2, delta 1e-05 per image"
    assert model.trained_on.caption == caption
    assert run_command(sample, "sample", "weights=out/vae_gan_decoder.pth", "n=4", "output=samples") is None
    facts = json.loads(Path("out/certificate.json").read_text())
    expected = mechanism.deviation_for(2, 1e-5)
    assert facts["noise_standard_deviation"] == pytest.approx(expected, rel=1e-5)
    assert facts["noise_standard_deviation"] > expected
    assert (facts["epsilon"], facts["delta"], facts["unit"], facts["axes"]) == (2, 1e-5, "image", 3)
    page = " ".join(Path("out/certificate.md").read_text().split())
    for words in ("L2 sensitivity | 1 ", "88% certain", "Budgets add up", "## What is not covered", "The class names"):
        assert words in page
    found = mechanism.power(expected, 0.01) * 100
    assert math.isclose(float(re.findall(r"right about (\S+) in 100", page)[0]), found, rel_tol=0.05)


def test_the_files_contain_no_trace_of_the_hospital_but_class_names(run_command: Run) -> None:
    options = [*OPTIONS, "unit=patient", "data.patient='(Doe[0-9]+)_'"]
    assert run_command(release, "release", *options) is None
    from hydra.utils import instantiate

    from tests.test_configs import composed

    data = instantiate(composed(*options, name="release").data, _convert_="all")
    secrets = ["StMarys", "Doe", data.source.fingerprint, data.source.training_images, *data.collection.prepared.keys]
    with zipfile.ZipFile("out/vae_gan_decoder.pth") as archive:
        written = [archive.read(name) for name in archive.namelist()]
    written += [path.read_bytes() for path in Path("out").iterdir()]
    for secret in secrets:
        assert not any(secret.encode() in content for content in written)
    content = tensor_files.load(Path("out/vae_gan_decoder.pth"))
    public = tensor_files.load(Path("public.pth"))
    assert content["trained_on"].keys() == public["trained_on"].keys()
    assert {name: content["trained_on"][name] for name in ("fingerprint", "training_images", "split")} == {
        "fingerprint": None,
        "training_images": None,
        "split": None,
    }
    assert content["trained_on"]["folder"] == public["trained_on"]["folder"]
    assert (content["training"], content["preprocessing"]) == (public["training"], public["preprocessing"])
    assert list(content["trained_on"]["counts"]) == ["train"]
    assert "all images of a patient together" in Path("out/certificate.md").read_text()


def test_two_releases_differ_whatever_is_seeded(run_command: Run) -> None:
    found = []
    for output in ("one", "two"):
        torch.manual_seed(0)
        assert run_command(release, "release", *OPTIONS, "seed=0", f"output={output}") is None
        mixtures = weights.load(Path(output) / "vae_gan_decoder.pth").mixtures
        assert mixtures is not None
        found.append(torch.cat([each.factors for each in mixtures.values()]))
    assert not torch.equal(*found)


def test_a_release_is_never_replaced(run_command: Run) -> None:
    assert run_command(release, "release", *OPTIONS) is None
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    said = run_command(release, "release", *OPTIONS)
    assert said is not None
    assert "output=out: is not empty; each release spends privacy budget" in said
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before


def test_evaluate_measures_a_release_on_images_of_its_classes(
    run_command: Run, write_classes: Callable[..., Path]
) -> None:
    write_classes(Path("more"), per_class=60, classes=["glioma", "metastasis"])
    data = [*DATA, "data.root=more", "data.batch_size=8"]
    assert run_command(release, "release", *OPTIONS, *data) is None
    options = ["weights=out/vae_gan_decoder.pth", "quick=true", "n=6", "output=evaluation", *data]
    assert run_command(evaluate, "evaluate", *options) is None
    assert "do not publish them with the model" in Path("out/model_card_vae_gan_decoder.md").read_text()
    said = run_command(evaluate, "evaluate", *options, "data.classes=[glioma]")
    assert said is not None
    assert "has the classes glioma, metastasis; give images of these" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["epsilon=0"], "epsilon=0: must be a number above 0, and finite"),
        (["epsilon=.inf"], "epsilon=.inf: must be a number above 0, and finite"),
        (["epsilon=1000"], "epsilon=1000, delta=1e-05: are so large that they guarantee nothing"),
        (["delta=1"], "delta=1: must be a number above 0 and below 1"),
        (["delta=0"], "delta=0: must be a number above 0 and below 1"),
        (["clip=-1"], "clip=-1: must be a number above 0, and finite"),
        (["axes=0"], "axes=0: must be a whole number of at least 1"),
        (["axes=6"], "axes=6: the model has 5 latent dimensions"),
        (["unit=slice"], "unit=slice: must be image or patient"),
        (["unit=patient"], "unit=patient: the patients of these images are unknown; name them with data.patients"),
        (["data.image_size=32"], "was trained on images that were read differently; give data.image_size=16"),
        (["data.root=nowhere"], "nowhere"),
        (["weights=gan.pth"], "weights=gan.pth: contains no encoder"),
        (["weights=early.pth"], "weights=early.pth: contains no density of public images"),
        (["weights=conditional.pth"], "weights=conditional.pth: is conditional"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_written(run_command: Run, options: list[str], message: str) -> None:
    save_model(Path("gan.pth"), networks_with(encoder_channels=None, encoder_features=None), None)
    save_model(Path("early.pth"), networks_with(), None)
    save_model(Path("conditional.pth"), networks_with(classes=3))
    said = run_command(release, "release", *OPTIONS, *options)
    assert said is not None
    assert message in said
    assert said.startswith("error: ")
    assert not Path("out").exists()
