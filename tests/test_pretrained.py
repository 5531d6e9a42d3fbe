"""The model that comes with the project."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vaegan_pl
from vaegan_pl import pretrained
from vaegan_pl.cli.push import push
from vaegan_pl.cli.sample import sample
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation import privacy, reference
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.report import evaluation_words, model_card
from vaegan_pl.report.provenance import sha256

from .conftest import CLASSES

Run = Callable[..., str | None]

MOST_BYTES = 4_000_000


@pytest.fixture(scope="module")
def model() -> SavedModel:
    return vaegan_pl.load("pretrained")


def test_it_is_a_small_decoder_in_half_precision() -> None:
    assert pretrained.FILE.stat().st_size <= MOST_BYTES
    content = torch.load(pretrained.FILE, weights_only=True)
    assert list(content["state_dict"]) == ["decoder"]
    tensors = [*content["state_dict"]["decoder"].values(), *(each["means"] for each in content["mixtures"].values())]
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float16}


def test_its_samples_have_a_dark_background_and_a_head_in_the_middle(model: SavedModel) -> None:
    for label in CLASSES:
        images = model.sample(32, label)[:, 0]
        corners = torch.stack([images[:, i, j] for i in (0, 1, -2, -1) for j in (0, 1, -2, -1)])
        assert corners.mean() < -0.85
        assert images[:, 24:40, 24:40].mean() > -0.6


def test_commands_open_it_by_name(run_command: Run, tmp_path: Path) -> None:
    assert run_command(sample, "sample", "weights=pretrained", "label=glioma", "n=2", f"output={tmp_path}") is None
    assert len([*tmp_path.glob("glioma_*.png")]) == 2
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert facts["weights"] == "pretrained"
    assert facts["weights_sha256"] == sha256(pretrained.FILE)


def test_it_is_not_published_again(run_command: Run) -> None:
    message = run_command(push, "push", "weights=pretrained", "repo=me/mine")
    assert message == "error: weights=pretrained: is published with the project; push a model of your own"


def test_its_card_describes_this_file() -> None:
    card = model_card.path_for(pretrained.FILE).read_text()
    assert sha256(pretrained.FILE) in card
    assert "CC BY 4.0" in pretrained.FILE.with_name("README.md").read_text()


def test_a_file_of_that_name_can_still_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pretrained").write_bytes(b"no model")
    for name in ("./pretrained", Path("pretrained")):
        with pytest.raises(UserError, match=r"^weights=pretrained: "):
            vaegan_pl.load(name)
    Path("link.pth").symlink_to(pretrained.FILE)
    assert pretrained.name_of(Path("link.pth")) == "pretrained"
    assert pretrained.name_of(pretrained.FILE) == "pretrained"
    assert pretrained.name_of(Path("a/b.pth")) == "a/b.pth"
    paths = (pretrained.FILE, Path("runs/mine/vae_gan_model.pth"))
    both: list[Any] = [SimpleNamespace(path=path) for path in paths]
    assert evaluation_words.names(both) == ["pretrained", "mine"]


def test_it_was_trained_on_the_training_folds_of_the_public_data_and_its_first_samples_copy_none(
    model: SavedModel, mri_root: Path, mri_cache: Path
) -> None:
    data = vaegan_pl.build("data=mri", f"data.root={mri_root}", f"data.cache={mri_cache}").data
    data.prepare_data()
    collection = data.collection
    assert model.trained_on.fingerprint == collection.fingerprint()
    assert model.trained_on.training_images == collection.fingerprint(collection.split.images("train"))
    detector, calibration = reference.copy_audit(collection, torch.device("cpu"))
    drawn = reference.as_saved(model.sample(100))
    assert privacy.audit(detector.nearest(drawn), calibration).copies == 0
