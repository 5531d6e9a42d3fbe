import numpy as np
import pytest
import torch

from vaegan_pl.data.augmentation import Augmentation, draw

NONE = {"horizontal_flip": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0}
X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def changed(draws: list[float], **options: float) -> torch.Tensor:
    return Augmentation(**{**NONE, **options})(X, torch.tensor(draws).tile(4, 1))


def test_nothing_asked_for_changes_nothing() -> None:
    assert torch.equal(changed([0.0, 0.0, 0.0, 0.0, 0.0]), X)


def test_flips_are_left_to_right_and_follow_their_probability() -> None:
    assert torch.equal(changed([0.49, 0, 0, 0, 0], horizontal_flip=0.5), X.flip(3))
    assert torch.equal(changed([0.51, 0, 0, 0, 0], horizontal_flip=0.5), X)
    n = 4000
    one = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]).repeat(n, 1, 1, 1)
    flipped = (
        Augmentation(**{**NONE, "horizontal_flip": 0.3})(one, torch.from_numpy(draw(0, 0, n)[:, 1:]))[:, 0, 0, 0]
        .sum()
        .item()
    )
    assert abs(flipped / n - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5


def test_shifts_move_whole_pixels_and_let_black_in() -> None:
    """A draw of 0 is the largest shift one way: a quarter of 8 pixels is 2."""
    shifted = changed([0, 0, 0.5, 0, 0], shift=0.25)
    expected = torch.full_like(X, -1)
    expected[..., 2:] = X[..., :-2]
    torch.testing.assert_close(shifted, expected)
    down = changed([0, 0.5, 0, 0, 0], shift=0.25)
    expected = torch.full_like(X, -1)
    expected[..., 2:, :] = X[..., :-2, :]
    torch.testing.assert_close(down, expected)
    torch.testing.assert_close(changed([0, 0.5, 0.5, 0, 0], shift=0.25), X)


def test_brightness_and_contrast_by_hand() -> None:
    # brightness: a draw of 1 adds the whole of it, 0.1 of the range of 2; contrast: (x + 1) grows by a half of itself.
    torch.testing.assert_close(changed([0, 0, 0, 0.5, 1], brightness=0.1), (X + 0.2).clamp(-1, 1))
    torch.testing.assert_close(changed([0, 0, 0, 1, 0.5], contrast=0.5), ((X + 1) * 1.5 - 1).clamp(-1, 1))
    torch.testing.assert_close(changed([0, 0, 0, 0, 0], brightness=0.1, contrast=0.5), ((X + 1) / 2 - 1.2).clamp(-1, 1))


def test_everything_stays_in_range_and_differs_between_images() -> None:
    every = Augmentation(horizontal_flip=0.5, shift=0.2, brightness=0.5, contrast=1.0)
    same = X[:1].repeat(16, 1, 1, 1)
    y = every(same, torch.from_numpy(draw(0, 0, 16)[:, 1:]))
    assert y.min() >= -1
    assert y.max() <= 1
    assert len({image.numpy().tobytes() for image in y}) == 16


def test_draws_follow_seed_and_epoch() -> None:
    assert np.array_equal(draw(3, 4, 10), draw(3, 4, 10))
    assert not np.array_equal(draw(3, 4, 10), draw(3, 5, 10))
    assert not np.array_equal(draw(3, 4, 10), draw(4, 4, 10))
    assert draw(0, 0, 1000).min() >= 0
    assert draw(0, 0, 1000).max() < 1


@pytest.mark.parametrize(
    ("name", "value"), [("horizontal_flip", 1.1), ("shift", 0.6), ("brightness", -1), ("contrast", 2)]
)
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"data.augmentation.{name}={value}: must lie between 0 and"):
        Augmentation(**{**NONE, name: value})
