"""Membership attacks on a model: each scores images, higher for those that it takes for training images."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from vaegan_pl.evaluation.classifier import Images, Labelled
from vaegan_pl.evaluation.membership import Attack, Scored, measure
from vaegan_pl.evaluation.pca_baseline import principal_components
from vaegan_pl.evaluation.reconstruction import squared_error
from vaegan_pl.evaluation.reference import Attacked, Reference, as_saved
from vaegan_pl.model.running import in_batches
from vaegan_pl.model.saved_model import SavedModel

RECONSTRUCTION, DISCRIMINATOR = "reconstruction error", "discriminator's score"
DENSITY, CALIBRATED, LIRA = "density ratio of samples", "calibrated reconstruction error", "likelihood ratio (LiRA)"
ATTACKS = (RECONSTRUCTION, DISCRIMINATOR, DENSITY, CALIBRATED, LIRA)
"""All attacks. The first two use the model file, the third samples, the last two the file and reference models."""

LEAST_MODELS = 8
"""Least number of reference models for LiRA, which estimates a standard deviation for each image from their errors."""

LEAST_DEVIATION = 0.1

_SMALLEST = 1e-12

Score = Float[Tensor, " image"]


def attacks(
    model: SavedModel, samples: Images, reference: Reference, reconstructions: Images | None
) -> dict[str, Attack]:
    """The attacks of `ATTACKS` for which the model has the networks, and the reference the images or models.

    Args:
        model: the model, on the reference's device.
        samples: images that it drew, in [-1, 1].
        reference: the images under attack, the population and the reference models.
        reconstructions: those of the held-out images; None if the model has no encoder.
    """
    pair, seed = (reference.members, reference.others), reference.seed
    found: dict[str, Attack] = {}
    if reconstructions is not None:
        members, others = (one.images for one in pair)
        errors_of_pair = [_error(model, members), squared_error(others.x, reconstructions)]
        found[RECONSTRUCTION] = _measured(pair, [-error for error in errors_of_pair], seed)
    if "discriminator" in model.networks.names:
        found[DISCRIMINATOR] = _attack(pair, lambda images: _logits(model, images), seed)
    population = reference.population
    if population is not None:
        found[DENSITY] = _attack(pair, lambda images: density_ratio(images.x, samples, population), seed)
    if reconstructions is not None and reference.unseen is not None:
        models = [one.model.to(reference.device) for one in reference.models]
        errors = [
            (_error(model, one.images), torch.stack([_error(other, one.images) for other in models]))
            for one in reference.unseen
        ]
        found[CALIBRATED] = _measured(reference.unseen, [calibrated(*error) for error in errors], seed)
        if len(models) >= LEAST_MODELS:
            found[LIRA] = _measured(reference.unseen, [likelihood_ratio(*error) for error in errors], seed)
    return found


def density_ratio(x: Images, samples: Images, population: Images) -> Score:
    """Whether samples are denser at an image than images of the population are: DOMIAS (arXiv 2302.12580).

    The score estimates log(p_samples / p_population) / d by the distances to the nearest sample and to the nearest
    image of the population, since the density at a distance r to the nearest of n points is about 1 / (n r^d)
    (Loftsgarden and Quesenberry 1965). Nearest neighbours find single copies. A kernel smooths them away if it is as
    wide as Scott's rule makes it in d dimensions.

    Distances are taken in the first 64 principal components of the population's pixels, each divided by its standard
    deviation (at least `LEAST_DEVIATION` times the largest, so that directions in which images hardly vary do not
    count most). Neither members nor others have a part in choosing this space, so that without a leak both are, on
    average, equally far from everything. In the features of a network that was trained on the members, this need not
    hold.

    Args:
        x: images under attack, in [-1, 1].
        samples: images that the model drew.
        population: real images that the model was not trained on; none of `x`.
    """
    space = principal_components(population)
    scale = space.deviations.clamp_min(LEAST_DEVIATION * float(space.deviations.amax())) if len(space.axes) else 1

    def coordinates(images: Images) -> Float[Tensor, "image component"]:
        return ((images.flatten(1) - space.mean) @ space.axes.T / scale).double()

    def distance(others: Images) -> Score:
        every = torch.cdist(coordinates(x), coordinates(others), compute_mode="donot_use_mm_for_euclid_dist")
        return every.amin(1).clamp_min(_SMALLEST).log()

    return distance(population) - distance(samples)


def calibrated(error: Score, references: Float[Tensor, "model image"]) -> Score:
    """The mean error of reference models minus the model's own: GAN-Leaks (arXiv 1909.03935), section 4.5.

    Without the references, images that are easy for any model would pass for members.

    Args:
        error: the model's reconstruction error.
        references: errors of models that were not trained on the images.
    """
    return references.mean(0) - error


def likelihood_ratio(error: Score, references: Float[Tensor, "model image"]) -> Score:
    """LiRA's offline attack (arXiv 2112.03570, section 4.3) on the logarithm of the error.

    The errors of reference models, none of which was trained on the image, are taken as a Gaussian for each image. The
    score is how many standard deviations the model's error lies below their mean, which orders images as the
    probability of a larger error does.

    Args:
        error: the model's reconstruction error.
        references: errors of at least two models that were not trained on the images.
    """
    logarithms = references.clamp_min(_SMALLEST).log()
    gap = logarithms.mean(0) - error.clamp_min(_SMALLEST).log()
    return gap / logarithms.std(0).clamp_min(_SMALLEST)


def _error(model: SavedModel, images: Labelled) -> Score:
    return squared_error(images.x, as_saved(model.reconstruct(images.x, images.labels)))


def _logits(model: SavedModel, images: Labelled) -> Score:
    discriminator = model.networks.discriminator
    return in_batches(lambda x, y: discriminator(x, y)[0], images.x, images.labels, model.device, "judging")


def _attack(pair: tuple[Attacked, Attacked], score: Callable[[Labelled], Score], seed: int) -> Attack:
    return _measured(pair, [score(one.images) for one in pair], seed)


def _measured(pair: tuple[Attacked, Attacked], scores: list[Score], seed: int) -> Attack:
    members, others = (Scored(values.double().numpy(), one.groups) for values, one in zip(scores, pair, strict=True))
    return measure(members, others, seed)
