"""Which images reference models were trained on, by the records in their files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import FOLDER_OPTIONS
from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation.reference_models import check_unseen, reference_model, unseen

PATH = Path("other.pth")


@pytest.fixture
def folders(write_classes: Callable[..., Path], tmp_path: Path) -> Callable[..., ImageFolders]:
    """Two images of each patient, named in the files, of four classes; five folds of patients."""
    root = write_classes(tmp_path / "images", per_class=30)
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_name(f"{path.parent.name}P{int(path.stem) // 2}_{path.stem}.png"))

    def read(**changes: Any) -> ImageFolders:
        options = {**FOLDER_OPTIONS, "patient": r"([a-z]+P\d+)_", "fold": 0, **changes}
        return ImageFolders(root=root, cache=tmp_path / "cache", **options)

    return read


def model_of(data: ImageFolders, **changes: Any) -> Any:
    """What is read of the file of a model that was trained on a folder."""
    preprocessing = {"image_size": 16, **data.preprocessing}
    return SimpleNamespace(
        **{"has_encoder": True, "trained_on": data.source, "preprocessing": preprocessing, **changes}
    )


def patients_of(data: ImageFolders, images: list[int]) -> set[str]:
    return {data.collection.patients.of[image] for image in images}


def test_the_images_a_model_saw_are_those_of_its_own_split(folders: Callable[..., ImageFolders]) -> None:
    """Fold 4 tests and fold 0 validates: the model under attack trained on the first and tests on the second."""
    data, other = folders(), folders(fold=4)
    found = reference_model(PATH, model_of(other), data.source, data.collection)
    trained = patients_of(other, other.collection.split.images("train"))
    split = data.collection.split
    for name in ("train", "test"):
        kept = unseen(data.collection, split.images(name), [found])
        expected = {image for image in split.images(name) if data.collection.patients.of[image] not in trained}
        assert set(kept) == expected
    assert set(unseen(data.collection, split.images("test"), [found])) == set(split.images("test"))
    check_unseen(data.collection, split.images("test"), [found])


def test_other_seeds_and_shares_are_computed_again(folders: Callable[..., ImageFolders]) -> None:
    data = folders(fold=None)
    other = folders(fold=None, split_seed=5, validation_fraction=0.3, test_fraction=0.3)
    found = reference_model(PATH, model_of(other), data.source, data.collection)
    every = [image for split in ("train", "validation", "test") for image in data.collection.split.images(split)]
    kept = patients_of(data, unseen(data.collection, every, [found]))
    assert kept == patients_of(data, every) - patients_of(other, other.collection.split.images("train"))


def test_images_must_be_unseen_by_all_models(folders: Callable[..., ImageFolders]) -> None:
    """Folds 4 and 2 together saw all patients that fold 0 tests; the message names the fold that helps."""
    data = folders()
    models = [reference_model(PATH, model_of(folders(fold=k)), data.source, data.collection) for k in (4, 2)]
    test = data.collection.split.images("test")
    assert not unseen(data.collection, test, models)
    with pytest.raises(
        UserError, match=r"0 of \d+ held-out images .* models trained with data.fold=4, which validates"
    ):
        check_unseen(data.collection, test, models)


def test_a_model_whose_training_images_are_unknown_is_refused(folders: Callable[..., ImageFolders]) -> None:
    data, other = folders(), folders(fold=4)
    source = other.source
    assert source.split is not None
    refused = {
        "has no encoder": model_of(other, has_encoder=False),
        "another image_size": model_of(other, preprocessing={"image_size": 32, **other.preprocessing}),
        "does not say which images": model_of(other, trained_on=replace(source, training_images=None)),
        "was trained on other images": model_of(other, trained_on=replace(source, fingerprint="0" * 64)),
        "cannot be determined; give": model_of(other, trained_on=replace(source, training_images="0" * 64)),
        "cannot be determined .families differ.": model_of(
            other, trained_on=replace(source, split={**source.split, "families": True})
        ),
    }
    for message, model in refused.items():
        with pytest.raises(UserError, match=f"references=other.pth: .*{message}"):
            reference_model(PATH, model, data.source, data.collection)
    for fold in (7, "4", [4], True):
        model = model_of(other, trained_on=replace(source, split={**source.split, "fold": fold}))
        with pytest.raises(UserError, match="training images cannot be determined"):
            reference_model(PATH, model, data.source, data.collection)
