"""The game's stabilisers against their definitions."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from vaegan_pl.model.adversary import R1_INTERVAL, DiffAugment

from ..conftest import adversary_with, networks_with

MIDDLE = torch.full((1, DiffAugment.DRAWS), 0.5)


def images(seed: int = 0, n: int = 4, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, side, side, generator=generator, dtype=torch.float64) * 2 - 1


def uniform(column: int, value: float, n: int = 1) -> Tensor:
    numbers = MIDDLE.double().repeat(n, 1)
    numbers[:, column] = value
    return numbers


def test_brightness_and_contrast_follow_their_formulas() -> None:
    x = images(n=1)
    torch.testing.assert_close(DiffAugment(["brightness"])(x, uniform(0, 0.9)), x + 0.4)
    centred = x - x.mean()
    torch.testing.assert_close(DiffAugment(["contrast"])(x, uniform(1, 0.0)), x.mean() + 0.5 * centred)
    torch.testing.assert_close(DiffAugment(["contrast"])(x, uniform(1, 0.75)), x.mean() + 1.25 * centred)


@pytest.mark.parametrize(("number", "shift"), [(0.0, 2), (0.5, 0), (0.999, -2), (1.0, -2)])
def test_translation_moves_rows_and_brings_black_in(number: float, shift: int) -> None:
    x = images(n=1)  # 16 pixels: at most 2 either way
    moved = DiffAugment(["translation"])(x, uniform(2, number))
    expected = np.full((16, 16), -1.0)
    rows = x[0, 0].numpy()
    expected[max(shift, 0) : 16 + min(shift, 0)] = rows[max(-shift, 0) : 16 + min(-shift, 0)]
    np.testing.assert_array_equal(moved[0, 0].numpy(), expected)
    sideways = DiffAugment(["translation"])(x.mT, uniform(3, number))
    torch.testing.assert_close(sideways, moved.mT, rtol=0, atol=0)


def test_cutout_blackens_a_quarter_of_the_image_or_what_of_it_lies_inside() -> None:
    x = images(n=1)
    inside = DiffAugment(["cutout"])(x, MIDDLE.double())
    assert (inside == -1).sum() == 64
    assert (inside[0, 0, 4:12, 4:12] == -1).all()
    corner = DiffAugment(["cutout"])(x, torch.zeros(1, DiffAugment.DRAWS))
    assert (corner == -1).sum() == 16
    assert (corner[0, 0, :4, :4] == -1).all()


def test_shift_and_hole_are_drawn_apart() -> None:
    x, generator = images(n=1), torch.Generator().manual_seed(3)
    numbers = torch.rand(1, DiffAugment.DRAWS, generator=generator, dtype=torch.float64)
    for change, own in (("translation", {2, 3}), ("cutout", {4, 5}), ("brightness", {0}), ("contrast", {1})):
        changed = DiffAugment([change])(x, numbers)
        for column in range(DiffAugment.DRAWS):
            other = numbers.clone()
            other[:, column] = 1 - numbers[:, column]
            assert torch.equal(DiffAugment([change])(x, other), changed) == (column not in own)


def test_r1_is_taken_in_the_parameters_precision_under_bfloat16() -> None:
    dis, adversary = networks_with(discriminator_norm="group").discriminator, adversary_with(r1=4.0)
    x = images(n=3).float()
    nothing = tuple(torch.zeros_like(parameter) for parameter in dis.parameters())
    exact = adversary.penalised(nothing, dis, x, None, step=0)
    with torch.autocast("cpu", torch.bfloat16):
        found = adversary.penalised(nothing, dis, x.bfloat16().float(), None, step=0)
        cast = adversary.penalised(nothing, dis, x.bfloat16(), None, step=0)
    reference = adversary.penalised(nothing, dis, x.bfloat16().float(), None, step=0)
    torch.testing.assert_close(found, reference, rtol=0, atol=0)
    torch.testing.assert_close(cast, reference, rtol=0, atol=0)
    assert not all(torch.equal(a, b) for a, b in zip(exact, reference, strict=True))


def test_augmentation_is_differentiable_and_each_row_has_its_own() -> None:
    augment = DiffAugment(["brightness", "contrast", "translation", "cutout"])
    numbers = torch.rand(2, DiffAugment.DRAWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = images(n=2, side=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, numbers), x)
    both = augment(x, numbers)
    torch.testing.assert_close(both[1:], augment(x[1:], numbers[1:]))
    assert not torch.allclose(augment(x[:1], numbers[:1]), augment(x[:1], numbers[1:]))


def test_bfloat16_images_are_shifted_like_others() -> None:
    """Uniform numbers just below 1 would round to 1 in bfloat16, and lead out of the image."""
    augment, numbers = DiffAugment(["translation"]), torch.full((1, DiffAugment.DRAWS), 0.9999)
    x = images(n=1).bfloat16()
    torch.testing.assert_close(augment(x, numbers), augment(x.float(), numbers).bfloat16(), rtol=0, atol=0)


def test_real_and_decoded_images_are_changed_alike() -> None:
    x = images()
    numbers = torch.rand(4, DiffAugment.DRAWS, generator=torch.Generator().manual_seed(1))
    adversary = adversary_with(diffaugment=["translation", "cutout"])
    one, other = adversary.views([x, x.clone()], numbers)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert adversary_with().views([x], None)[0] is x


@pytest.mark.parametrize("norm", ["group", "spectral"])
def test_r1_is_half_its_weight_times_the_squared_slope_at_real_images(norm: str) -> None:
    dis = networks_with(discriminator_norm=norm).double().discriminator
    dis.train(norm == "group")  # spectral norm moves its vectors in training
    x, adversary = images(n=3), adversary_with(r1=4.0)
    gradient = tuple(torch.zeros_like(parameter) for parameter in dis.parameters())
    found = adversary.penalised(gradient, dis, x, None, step=2 * R1_INTERVAL)

    def penalty(network: torch.nn.Module) -> Tensor:
        at = x.clone().requires_grad_()
        slopes = [torch.autograd.grad(network(at)[0][i], at, create_graph=True)[0][i] for i in range(len(x))]
        return torch.stack([slope.pow(2).sum() for slope in slopes]).mean() * 4.0 / 2 * R1_INTERVAL

    other = copy.deepcopy(dis)
    penalty(other).backward()
    for ours, parameter in zip(found, other.parameters(), strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if parameter.grad is None else parameter.grad)
    assert adversary.penalised(gradient, dis, x, None, step=1) is gradient
    assert adversary_with().penalised(gradient, dis, x, None, step=0) is gradient


def test_lecam_holds_scores_against_moving_averages_of_the_other_kind() -> None:
    generator = np.random.default_rng(0)
    adversary = adversary_with(lecam=0.3)
    real_average = fake_average = 0.0
    for number, decay in ((0, 0.1), (1, 2 / 11), (2, 0.25), (2000, 0.99)):
        real, fake, other = generator.normal(size=(3, 5))
        logits = torch.tensor(real), [torch.tensor(fake), torch.tensor(other)]
        fakes = np.concatenate([fake, other])
        real_average = decay * real_average + (1 - decay) * real.mean()
        fake_average = decay * fake_average + (1 - decay) * fakes.mean()
        lecam = np.square(real - fake_average).mean() + np.square(fakes - real_average).mean()
        assert adversary.lecam_cost(*logits, number).item() == pytest.approx(0.3 * lecam, rel=1e-6)
        entropy = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean() + np.log1p(np.exp(other)).mean()
        assert adversary.discriminator_cost(*logits).item() == pytest.approx(entropy, rel=1e-6)
        assert adversary_with().lecam_cost(*logits, number).item() == 0


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("game", "wasserstein", "model.adversary.game=wasserstein: must be one of saturating, non_saturating"),
        ("diffaugment", ["rotation"], r"model.adversary.diffaugment=\['rotation'\]: may only contain brightness"),
        ("r1", -1.0, "model.adversary.r1=-1.0: must be a number of at least 0"),
        ("lecam", float("nan"), "model.adversary.lecam=nan"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adversary_with(**{option: value})
