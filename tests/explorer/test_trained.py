"""The training images that are similar to a sample."""

from pathlib import Path

import torch
from torch.nn.functional import interpolate

from vaegan_pl.evaluation.privacy import CopyDetector, calibrate
from vaegan_pl.explorer.trained import NEAREST, TrainingImages

CPU = torch.device("cpu")


def clouds(n: int, seed: int) -> torch.Tensor:
    coarse = torch.randn(n, 1, 9, 9, generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, size=64, mode="bicubic").mul(0.5).clamp(-1, 1)


def test_a_mirrored_copy_is_named_shown_as_it_fits_and_counted() -> None:
    images = clouds(40, 0)
    detector = CopyDetector(images, CPU)
    names = [f"a/{i}.png" for i in range(40)]
    calibration = calibrate(detector.nearest(clouds(200, 1)))
    trained = TrainingImages(images, names, [(Path("x.png"), "a")], detector, calibration)
    found = trained.nearest(images[5].flip(-1))
    assert len(found) == NEAREST
    assert (found[0].name, found[0].mirrored) == ("a/5.png", True)
    assert torch.equal(found[0].image, images[5].flip(-1))
    assert trained.is_copy(found[0])
    assert [one.correlation for one in found] == sorted((one.correlation for one in found), reverse=True)
    assert not trained.is_copy(trained.nearest(clouds(1, 2)[0])[0])
