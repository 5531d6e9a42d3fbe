"""The baseline that any generator must beat: a Gaussian in the leading principal components of the pixels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.evaluation.classifier import Images

COMPONENTS = 64


@dataclass(frozen=True)
class PrincipalComponents:
    """The mean and the leading principal components of images.

    Attributes:
        mean: the flattened mean image.
        axes: orthonormal directions, by decreasing variance.
        deviations: standard deviation of the images along each axis.
    """

    mean: Float[Tensor, " pixel"]
    axes: Float[Tensor, "component pixel"]
    deviations: Float[Tensor, " component"]

    def reconstruct(self, x: Images) -> Images:
        """Projections of images onto the components, clamped to [-1, 1]."""
        flat = x.flatten(1) - self.mean
        return (flat @ self.axes.T @ self.axes + self.mean).clamp(-1, 1).view_as(x)

    def sample(self, n: int, seed: int) -> Images:
        """Images drawn from a Gaussian in the components, clamped to [-1, 1]."""
        draws = torch.randn(n, len(self.axes), generator=torch.Generator().manual_seed(seed))
        side = round(len(self.mean) ** 0.5)
        return (draws * self.deviations @ self.axes + self.mean).clamp(-1, 1).view(n, 1, side, side)


def principal_components(x: Images, components: int = COMPONENTS) -> PrincipalComponents:
    """Fit the components to images with scikit-learn; at most one component fewer than there are images.

    Images that are all alike have a mean but no components. The fit uses one thread, because its last digits depend on
    the number of threads, and with them draws and what is kept of them.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    if bool((x == x[0]).all()):
        return PrincipalComponents(x[0].flatten(), torch.zeros(0, x[0].numel()), torch.zeros(0))
    with threadpool_limits(1):
        pca = PCA(min(components, len(x) - 1), svd_solver="arpack", random_state=0).fit(x.flatten(1).numpy())
    mean, axes, variances = (torch.from_numpy(a.copy()) for a in (pca.mean_, pca.components_, pca.explained_variance_))
    return PrincipalComponents(mean, axes, variances.clamp_min(0).sqrt())
