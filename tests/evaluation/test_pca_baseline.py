"""Principal components against numpy's singular value decomposition."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from vaegan_pl.evaluation.pca_baseline import principal_components


def images(n: int) -> torch.Tensor:
    random = np.random.default_rng(0)
    shapes = random.normal(size=(70, 64)) * np.linspace(2, 0.01, 70)[:, None]
    return torch.from_numpy(0.1 * random.normal(size=(n, 70)) @ shapes).float().view(n, 1, 8, 8).clamp(-1, 1)


def test_reconstructions_are_the_nearest_that_the_components_form() -> None:
    x = images(200)
    flat = x.flatten(1).double().numpy()
    left, singular, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    singular[20:] = 0
    expected = (left * singular @ axes + flat.mean(0)).clip(-1, 1)
    components = principal_components(x, 20)
    np.testing.assert_allclose(components.reconstruct(x).flatten(1).numpy(), expected, atol=1e-4)


def test_draws_have_the_images_mean_and_covariance() -> None:
    x = 0.3 * images(500)
    drawn = principal_components(x, 63).sample(20000, seed=0).flatten(1).double()
    flat = x.flatten(1).double()
    torch.testing.assert_close(drawn.mean(0), flat.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(flat.T), atol=0.003, rtol=0)
    assert float(drawn.abs().max()) <= 1


def test_components_do_not_depend_on_the_number_of_threads() -> None:
    x = torch.rand(300, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(principal_components(x))
    assert torch.equal(found[0].axes, found[1].axes)
    assert torch.equal(found[0].deviations, found[1].deviations)


def test_fewer_images_than_components() -> None:
    assert len(principal_components(images(5), 64).axes) == 4


@pytest.mark.parametrize("n", [1, 3])
def test_images_that_are_all_alike_have_a_mean_and_no_components(n: int) -> None:
    x = torch.rand(1, 1, 16, 16).repeat(n, 1, 1, 1)
    found = principal_components(x)
    assert torch.equal(found.sample(2, 0), x[:1].repeat(2, 1, 1, 1))
    assert torch.equal(found.reconstruct(0 * x), x)
