"""Paths and directions in latent space: arcs between points, attribute vectors, leading directions."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaegan_pl.model.mixtures import Mixture
from vaegan_pl.model.networks import Decoder

Points = Float[Tensor, "*point latent"]


def slerp(start: Points, end: Points, t: Float[Tensor, " step"]) -> Float[Tensor, "*point step latent"]:
    """Spherical interpolation (arXiv 1609.04468, section 2.1), with norms interpolated linearly.

    A straight line between draws of N(0, I) passes through a region where the prior has hardly any mass. For
    endpoints of equal norm this is the paper's formula; for others, that formula would not change the norm evenly.

    Args:
        start: the point at t = 0.
        end: the point at t = 1.
        t: positions on the arc, in [0, 1].
    """
    lengths = [end.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(end.dtype).tiny) for end in (start, end)]
    length = (1 - t) * lengths[0] + t * lengths[1]
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.arccos()
    flat = angle.sin() < 1e-4  # (anti)parallel ends: interpolate linearly
    sine = torch.where(flat, 1.0, angle.sin())
    first = torch.where(flat, 1 - t, ((1 - t) * angle).sin() / sine * length / lengths[0])
    second = torch.where(flat, t, (t * angle).sin() / sine * length / lengths[1])
    return first[..., None] * start[..., None, :] + second[..., None] * end[..., None, :]


def loop(waypoints: Float[Tensor, "point latent"], steps: int) -> Float[Tensor, "step latent"]:
    """A closed path: arcs of `steps` points from each waypoint to the next, and from the last back to the first."""
    t = torch.arange(steps) / steps
    return slerp(waypoints, waypoints.roll(-1, 0), t).flatten(0, 1)


def class_means(mixtures: Mapping[str, Mixture]) -> dict[str, Float[Tensor, " latent"]]:
    """The mean of z over the images of each class."""
    return {name: mixture.weights @ mixture.means for name, mixture in mixtures.items()}


def attribute_vector(means: Mapping[str, Tensor], name: str, counts: Mapping[str, float]) -> Float[Tensor, " latent"]:
    """Mean of z over the images of a class minus the mean over all others (paper, section 4.1.1).

    Args:
        means: the mean of each class.
        name: the class.
        counts: number of images of each class.
    """
    others = {other: count for other, count in counts.items() if other != name}
    total = sum(others.values())
    away = torch.stack([means[other] * (share / total) for other, share in others.items()]).sum(0)
    return means[name] - away


@torch.no_grad()
def leading_directions(decoder: Decoder, n: int) -> Float[Tensor, "direction latent"]:
    """The `n` orthogonal unit directions of z that change the decoder's hidden layer most, strongest first.

    These are the first right singular vectors of its weights (SeFa: arXiv 2007.06600, equation 5), with each row scaled
    as the normalisation layer after it does.
    """
    linear, norm = decoder.hidden[0], decoder.hidden[1]
    assert isinstance(linear, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d | nn.LayerNorm)
    scale = norm.weight.double()
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_var is not None
        scale = scale / (norm.running_var.double() + norm.eps).sqrt()
    own = linear.weight[:, : linear.in_features - decoder.classes].double()  # without the columns of the class
    found: Tensor = torch.linalg.eigh((scale[:, None] * own).T @ (scale[:, None] * own))[1]
    directions = found.T.flip(0)[:n]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).to(linear.weight.dtype)


def evenly(n: int, of: int) -> Sequence[int]:
    """`n` indices spread evenly over 0 .. `of` - 1, including both ends."""
    return [round(float(i)) for i in torch.linspace(0, of - 1, n)]
