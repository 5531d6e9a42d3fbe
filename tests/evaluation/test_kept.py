"""What is kept for later evaluations: found once, and the same from the cache as just computed."""

from pathlib import Path

import pytest
import torch

from vaegan_pl.evaluation import kept
from vaegan_pl.evaluation.classifier import Labelled, Training, predict
from vaegan_pl.evaluation.privacy import CopyDetector
from vaegan_pl.storage import tensor_files

IMAGES = Labelled(torch.rand(70, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.arange(70) % 3)
TRAININGS = [Training(IMAGES, 3, seed, 3) for seed in (0, 1)]


@pytest.fixture
def trained(tmp_path: Path) -> list[torch.Tensor]:
    return [predict(model, IMAGES.x) for model in kept.fit_once(TRAININGS, "training", tmp_path)]


def test_the_second_time_nothing_is_trained(
    tmp_path: Path, trained: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "fit", None)
    again = kept.fit_once(TRAININGS, "training", tmp_path)
    assert all(torch.equal(predict(model, IMAGES.x), before) for model, before in zip(again, trained, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        Training(IMAGES, 3, 2, 3),
        Training(IMAGES, 3, 1, 4),
        Training(IMAGES, 4, 1, 3),
        Training(Labelled(IMAGES.x.flip(0), IMAGES.labels), 3, 1, 3),
        Training(Labelled(IMAGES.x, IMAGES.labels.flip(0)), 3, 1, 3),
    ],
    ids=["seed", "steps", "classes", "images", "labels"],
)
def test_another_training_is_another_file(tmp_path: Path, trained: list[torch.Tensor], other: Training) -> None:
    kept.fit_once([TRAININGS[0], other], "training", tmp_path)
    assert len(list(tmp_path.glob("classifiers-*.pth"))) == 2


@pytest.mark.parametrize("damage", ["cut", "one", "nan"])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, trained: list[torch.Tensor], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = tmp_path.glob("classifiers-*.pth")
    whole, states = path.read_bytes(), tensor_files.load(path)["classifiers"]
    if damage == "cut":
        path.write_bytes(whole[:5000])
    elif damage == "one":
        tensor_files.save(path, {"classifiers": states[:1]})
    else:
        states[0]["head.bias"][0] = torch.nan
        tensor_files.save(path, {"classifiers": states})
    again = kept.fit_once(TRAININGS, "training", tmp_path)
    assert f"{path} cannot be used and will be rebuilt: " in caplog.text
    assert all(torch.equal(predict(model, IMAGES.x), before) for model, before in zip(again, trained, strict=True))
    assert tensor_files.load(path).keys() == {"classifiers"}


def test_without_a_cache_it_trains_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert len(kept.fit_once(TRAININGS[:1], "training", tmp_path / "file")) == 1
    assert "cannot be used" in caplog.text


@pytest.fixture
def detector() -> CopyDetector:
    return CopyDetector(IMAGES.x[:40], torch.device("cpu"))


def test_the_second_time_no_copies_are_looked_for(
    tmp_path: Path, detector: CopyDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = kept.nearest_once(detector, IMAGES.x[20:], "looking", tmp_path)
    for stored, searched in zip(vars(found).values(), vars(detector.nearest(IMAGES.x[20:])).values(), strict=True):
        assert torch.equal(stored, searched)
    monkeypatch.setattr(CopyDetector, "nearest", None)
    again = kept.nearest_once(CopyDetector(IMAGES.x[:40], detector.device), IMAGES.x[20:], "looking", tmp_path)
    assert all(torch.equal(*both) for both in zip(vars(found).values(), vars(again).values(), strict=True))


def test_other_images_are_another_search(tmp_path: Path, detector: CopyDetector) -> None:
    other = CopyDetector(IMAGES.x[:40].flip(0), detector.device)
    for searched, x in ((detector, IMAGES.x[20:]), (other, IMAGES.x[20:]), (detector, IMAGES.x[21:])):
        found = kept.nearest_once(searched, x, "looking", tmp_path)
        assert torch.equal(found.correlation, searched.nearest(x).correlation)
    assert len(list(tmp_path.glob("nearest-*.pth"))) == 3


@pytest.mark.parametrize("damage", ["cut", "short", "nan", "image", "names", "floats"])
def test_a_damaged_search_is_made_anew(
    tmp_path: Path, detector: CopyDetector, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = kept.nearest_once(detector, IMAGES.x[20:], "looking", tmp_path)
    (path,) = tmp_path.glob("nearest-*.pth")
    (stored,) = tensor_files.load(path)["nearest"]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    else:
        if damage == "short":
            stored = {name: values[1:] for name, values in stored.items()}
        elif damage == "nan":
            stored["correlation"][0] = torch.nan
        elif damage == "image":
            stored["image"][0] = 40
        elif damage == "names":
            del stored["mirrored"]
        else:
            stored["image"] = stored["image"].double()
        tensor_files.save(path, {"nearest": [stored]})
    again = kept.nearest_once(detector, IMAGES.x[20:], "looking", tmp_path)
    assert f"{path} cannot be used and will be rebuilt: " in caplog.text
    assert all(torch.equal(*both) for both in zip(vars(found).values(), vars(again).values(), strict=True))


def test_without_a_cache_it_searches_and_says_so(
    tmp_path: Path, detector: CopyDetector, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert len(kept.nearest_once(detector, IMAGES.x, "looking", tmp_path / "file").image) == 70
    assert "copies are looked for anew every time" in caplog.text
