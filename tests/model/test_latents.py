import numpy as np
import pytest
import torch
from scipy.spatial import geometric_slerp

from vaegan_pl.model.latents import attribute_vector, class_means, evenly, loop, slerp
from vaegan_pl.model.mixtures import Mixture


def test_between_unit_vectors_it_is_the_great_circle() -> None:
    start, end = torch.nn.functional.normalize(torch.randn(2, 5, dtype=torch.float64), dim=1)
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    expected = geometric_slerp(start.numpy(), end.numpy(), t.numpy())
    np.testing.assert_allclose(slerp(start, end, t).numpy(), expected, atol=1e-12)


def test_ends_are_met_whatever_their_length_and_several_arcs_are_found_at_once() -> None:
    start, end = torch.randn(2, 3, 5)
    arcs = slerp(start, 4 * end, torch.linspace(0, 1, 9))
    assert arcs.shape == (3, 9, 5)
    torch.testing.assert_close(arcs[:, 0], start)
    torch.testing.assert_close(arcs[:, -1], 4 * end)
    torch.testing.assert_close(arcs[1], slerp(start[1], 4 * end[1], torch.linspace(0, 1, 9)))


def test_on_the_way_from_a_short_end_to_a_long_one_the_length_grows_evenly() -> None:
    start, end = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 25.0]], dtype=torch.float64)
    arc = slerp(start, end, torch.linspace(0, 1, 5, dtype=torch.float64))
    torch.testing.assert_close(arc.norm(dim=1), torch.tensor([5.0, 10, 15, 20, 25], dtype=torch.float64))
    half = 15 / 2**0.5  # they stand at right angles
    torch.testing.assert_close(arc[2], torch.tensor([half * 0.6, half * 0.8, half], dtype=torch.float64))
    away = slerp(torch.zeros(2), torch.tensor([0.0, 8.0]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(away, torch.tensor([[0.0, 0.0], [0.0, 8.0]]))


def test_draws_of_the_prior_keep_their_length_on_the_way() -> None:
    """On a straight line the middle would have seven tenths of it."""
    start, end = torch.randn(2, 200, 128, generator=torch.Generator().manual_seed(0))
    middle = slerp(start, end, torch.tensor([0.5]))[:, 0].norm(dim=1).mean()
    assert middle.item() == pytest.approx(128**0.5, rel=0.02)


@pytest.mark.parametrize("factor", [1.0, -1.0, 2.0])
def test_points_on_one_line_through_the_origin_are_joined_by_it(factor: float) -> None:
    start = torch.randn(5, dtype=torch.float64)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    expected = start + t[:, None] * (factor - 1) * start
    torch.testing.assert_close(slerp(start, factor * start, t), expected)


def test_a_loop_passes_its_waypoints_and_closes() -> None:
    points = torch.randn(3, 5)
    places = loop(points, 4)
    assert places.shape == (12, 5)
    torch.testing.assert_close(places[[0, 4, 8]], points)
    torch.testing.assert_close(places[9:], slerp(points[2], points[0], torch.tensor([0.25, 0.5, 0.75])))


def test_attribute_vectors_are_differences_of_class_means() -> None:
    factors = torch.eye(2).repeat(2, 1, 1)
    mixtures = {
        "a": Mixture(torch.tensor([0.25, 0.75]), torch.tensor([[4.0, 0.0], [0.0, 4.0]]), factors),
        "b": Mixture(torch.tensor([1.0]), torch.tensor([[1.0, 1.0]]), factors[:1]),
        "c": Mixture(torch.tensor([1.0]), torch.tensor([[4.0, -2.0]]), factors[:1]),
    }
    means = class_means(mixtures)
    assert means["a"].tolist() == [1.0, 3.0]
    # The others together have 2 images of b and 1 of c: their mean is (2, 0).
    torch.testing.assert_close(attribute_vector(means, "a", {"b": 2.0, "c": 1.0}), torch.tensor([-1.0, 3.0]))
    torch.testing.assert_close(attribute_vector(means, "a", {"b": 1.0}), torch.tensor([0.0, 2.0]))


def test_places_are_spread_evenly_ends_included() -> None:
    assert list(evenly(3, 9)) == [0, 4, 8]
    assert list(evenly(2, 2)) == [0, 1]
