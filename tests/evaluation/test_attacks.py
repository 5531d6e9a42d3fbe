"""Attacks on models that remember and on models that cannot, on patterns of invented patients."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import kstest, norm, spearmanr, ttest_1samp
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vaegan_pl.evaluation import attacks as module
from vaegan_pl.evaluation import membership
from vaegan_pl.evaluation.attacks import attacks, calibrated, density_ratio, likelihood_ratio
from vaegan_pl.evaluation.classifier import Labelled
from vaegan_pl.evaluation.membership import Attack, Scored, area, measure
from vaegan_pl.evaluation.reference import Attacked, as_saved

SIDE = 16


def patients(n: int, seed: int, each: int = 3) -> tuple[Tensor, list[str]]:
    """Soft patterns; the images of a patient are alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 5, 5, generator=generator).repeat_interleave(each, 0)
    coarse = coarse + 0.5 * torch.randn(coarse.shape, generator=generator)
    x = interpolate(coarse, size=SIDE, mode="bicubic").mul(0.4).clamp(-1, 1)
    return x, [f"patient {seed} {i // each}" for i in range(len(x))]


def noisy(x: Tensor, seed: int) -> Tensor:
    return (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1)


def measured(score: Any, members: tuple[Tensor, list[str]], others: tuple[Tensor, list[str]]) -> Attack:
    one, other = (Scored(score(x).double().numpy(), groups) for x, groups in (members, others))
    return measure(one, other, 0)


def p_value(attack: Attack) -> float:
    return float(norm.sf((attack.auc.value - 0.5) / ((attack.auc.high - attack.auc.low) / (2 * norm.ppf(0.975)))))


def test_samples_that_are_noisy_copies_of_members_are_caught() -> None:
    members, others, (population, _) = patients(60, 1), patients(60, 2), patients(60, 3)
    samples = noisy(members[0], 0)
    found = measured(lambda x: density_ratio(x, samples, population), members, others)
    assert found.auc.low > 0.9
    assert found.tpr.low > 0.5
    assert found.epsilon > 2


def test_a_few_copies_among_many_samples_are_caught_at_low_false_positives() -> None:
    """One member in ten is copied, and nine samples in ten show strangers: the AUC says little, the rest a lot."""
    members, others, (population, _) = patients(100, 1), patients(100, 2), patients(60, 3)
    samples = torch.cat([noisy(members[0][::10], 0), patients(90, 4)[0]])
    found = measured(lambda x: density_ratio(x, samples, population), members, others)
    assert found.tpr.value >= 0.08
    assert found.highest.low > 0.9


def test_samples_of_other_patients_give_uniform_p_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "RESAMPLES", 100)
    found = []
    for seed in range(100):
        parts = [patients(30, 10 * seed + i) for i in range(4)]
        samples, population = noisy(parts[0][0], seed), parts[1][0]
        score = partial(density_ratio, samples=samples, population=population)
        found.append(p_value(measured(score, *parts[2:])))
    assert kstest(found, "uniform").pvalue > 0.05


def features_trained_on(x: Tensor, seed: int) -> nn.Module:
    """The hidden layer of a small network that learnt by heart which of two arbitrary classes each image has."""
    torch.manual_seed(seed)
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 16), nn.Tanh())
    network, labels = nn.Sequential(hidden, nn.Linear(16, 1)), (torch.arange(len(x)) % 2).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(x)[:, 0], labels).backward()
        optimizer.step()
    return hidden.requires_grad_(False)


def test_features_trained_on_the_members_would_find_a_leak_where_there_is_none() -> None:
    """Why `density_ratio` fits its space to the population. Samples are pale images of strangers."""
    honest: list[float] = []
    biased: list[float] = []
    for seed in range(12):
        members, others, population, strangers = (patients(30, 10 * seed + i, 1)[0] for i in range(4))
        samples = 0.5 * strangers
        network = features_trained_on(members, seed)

        def ratio(x: Tensor, network: nn.Module = network, sets: Any = (samples, population)) -> Tensor:
            to_samples, to_population = (torch.cdist(network(x), network(other)).amin(1).log() for other in sets)
            return to_population - to_samples

        ours = partial(density_ratio, samples=samples, population=population)
        for found, score in ((honest, ours), (biased, ratio)):
            found.append(area(score(members).numpy(), score(others).sort().values.numpy()))
    assert ttest_1samp(honest, 0.5).pvalue > 0.05
    assert ttest_1samp(biased, 0.5).pvalue < 1e-3


def test_the_density_ratio_by_mahalanobis_distances() -> None:
    """In all components, distances are Mahalanobis distances by the population's covariance."""
    generator = torch.Generator().manual_seed(0)

    def plane(n: int, scale: float) -> Tensor:
        x = torch.zeros(n, 1, SIDE, SIDE)
        x[:, 0, 0, 0] = scale * torch.randn(n, generator=generator)
        x[:, 0, 3, 5] = x[:, 0, 0, 0] + scale * torch.randn(n, generator=generator)
        return x

    images = plane(30, 0.3), plane(200, 0.15), plane(100, 0.2)
    x, samples, population = (np.stack([one[:, 0, 0, 0], one[:, 0, 3, 5]], 1) for one in images)
    inverse = np.linalg.inv(np.cov(population.T))
    nearest = [cdist(x, other, "mahalanobis", VI=inverse).min(1) for other in (population, samples)]
    expected = np.log(nearest[0] / nearest[1])
    np.testing.assert_allclose(density_ratio(*images), expected, atol=1e-3)


def test_copies_and_collapsed_samples_have_finite_scores() -> None:
    x, population = patients(20, 0)[0], patients(20, 1)[0]
    for samples in (x, x[:1].expand(50, -1, -1, -1)):
        for real in (population, population[:1].expand(30, -1, -1, -1)):
            assert bool(density_ratio(x, samples, real).isfinite().all())


def test_calibrated_scores_by_hand() -> None:
    error, references = torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 1.0], [4.0, 3.0]])
    assert calibrated(error, references).tolist() == [2.0, 0.0]


def test_the_likelihood_ratio_orders_images_by_the_tail_of_a_gaussian() -> None:
    random = np.random.default_rng(0)
    references, error = random.lognormal(size=(9, 40)), random.lognormal(size=40)
    logarithms = np.log(references)
    tail = norm.sf(np.log(error), logarithms.mean(0), logarithms.std(0, ddof=1))
    found = likelihood_ratio(torch.from_numpy(error), torch.from_numpy(references))
    assert spearmanr(found, tail).statistic == pytest.approx(1.0)


def autoencoder(x: Tensor, seed: int, steps: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE**2, 128), nn.ReLU(), nn.Linear(128, SIDE**2), nn.Unflatten(1, (1, SIDE, SIDE))
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (network(x) - x).square().mean().backward()
        optimizer.step()
    return network.eval()


def saved(network: nn.Module) -> Any:
    """What the attacks use of a `SavedModel` without a discriminator."""

    @torch.no_grad()
    def reconstruct(x: Tensor, labels: Tensor) -> Tensor:
        reconstructed: Tensor = network(x)
        return reconstructed.clamp(-1, 1)

    model = SimpleNamespace(has_encoder=True, networks=SimpleNamespace(names=["encoder"]), reconstruct=reconstruct)
    model.to = lambda device: model
    return model


def attacked(members: tuple[Tensor, list[str]], others: tuple[Tensor, list[str]], models: list[Any]) -> Any:
    pair = tuple(
        Attacked(Labelled(x, torch.zeros(len(x), dtype=torch.long)), groups) for x, groups in (members, others)
    )
    return SimpleNamespace(
        members=pair[0],
        others=pair[1],
        unseen=pair if models else None,
        models=[SimpleNamespace(model=model) for model in models],
        population=None,
        seed=0,
        device=torch.device("cpu"),
    )


def attacked_by_all(model: Any, reference: Any) -> dict[str, Attack]:
    """The attacks on a model file."""
    others = reference.others.images
    return attacks(model, torch.zeros(0), reference, as_saved(model.reconstruct(others.x, others.labels)))


def test_an_autoencoder_that_knows_twenty_images_by_heart_is_caught_by_every_error() -> None:
    members, others = patients(20, 1, each=1), patients(20, 2, each=1)
    models = [saved(autoencoder(patients(20, 10 + i, each=1)[0], i, 100)) for i in range(module.LEAST_MODELS)]
    reference = attacked(members, others, models)
    found = attacked_by_all(saved(autoencoder(members[0], 0, 300)), reference)
    assert list(found) == [module.RECONSTRUCTION, module.CALIBRATED, module.LIRA]
    assert all(attack.conclusion == "found" and attack.auc.low > 0.9 for attack in found.values())
    reference = attacked(members, others, models[1:])
    found = attacked_by_all(models[0], reference)  # trained on strangers
    assert list(found) == [module.RECONSTRUCTION, module.CALIBRATED]
    assert all(attack.auc.low <= 0.5 <= attack.auc.high for attack in found.values())


def test_calibration_takes_away_how_difficult_images_are() -> None:
    """Members are simpler than others for every model, so that their error is smaller without any leak."""
    members, others = patients(40, 1, each=1), patients(40, 2, each=1)
    simpler = (members[0] * 0.6, members[1])
    models = [saved(autoencoder(patients(60, 10 + i, each=1)[0], i, 60)) for i in range(3)]
    found = attacked_by_all(models[0], attacked(simpler, others, models[1:]))
    assert found[module.RECONSTRUCTION].auc.low > 0.6
    assert abs(found[module.CALIBRATED].auc.value - 0.5) < 0.15


def test_errors_calibrated_by_other_models_give_uniform_p_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target, too, was trained on other patients."""
    monkeypatch.setattr(membership, "RESAMPLES", 100)
    models = [saved(autoencoder(patients(40, 1000 + i)[0], i, 40)) for i in range(3)]
    found = [
        attacked_by_all(models[0], attacked(patients(30, 2 * s), patients(30, 2 * s + 1), models[1:]))
        for s in range(100)
    ]
    for name in (module.RECONSTRUCTION, module.CALIBRATED):
        assert kstest([p_value(one[name]) for one in found], "uniform").pvalue > 0.05
