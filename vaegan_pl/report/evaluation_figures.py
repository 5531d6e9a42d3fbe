"""The figures of an evaluation as plain values, for `metrics.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vaegan_pl.data.splits import SPLITS
from vaegan_pl.evaluation import one_run, privacy
from vaegan_pl.evaluation.attacks import DISCRIMINATOR, RECONSTRUCTION
from vaegan_pl.evaluation.estimate import Estimate
from vaegan_pl.evaluation.evaluation import Evaluation
from vaegan_pl.evaluation.latent_space import LatentSpace
from vaegan_pl.evaluation.membership import Attack
from vaegan_pl.evaluation.privacy import Audit
from vaegan_pl.evaluation.reference import Reference
from vaegan_pl.evaluation.usefulness import Usefulness
from vaegan_pl.evaluation.verdict import decide
from vaegan_pl.pretrained import name_of
from vaegan_pl.report.evaluation_words import WITHHELD
from vaegan_pl.storage.outputs import MADE_BY


def gather(evaluations: Sequence[Evaluation], reference: Reference) -> dict[str, Any]:
    """All figures as plain values; one with an interval is `{value, low, high}`."""
    collection = reference.collection
    return {
        "made_by": MADE_BY,
        "data": {
            "what": "phantoms drawn by vaegan_pl; not MRI" if collection.is_phantom else "images",
            "folder": str(collection.root.resolve()),
            "fingerprint": collection.fingerprint(),
            "splitting": collection.splitting.facts,
            "images": {split: sum(collection.counts(split).values()) for split in SPLITS},
            "held_out": len(reference.held_out.x),
        },
        "compared": reference.compared,
        "samples": reference.n,
        "seed": reference.seed,
        "seeds": reference.seeds,
        "divisions": reference.divisions,
        "reference_models": len(reference.models),
        "features": {"name": reference.space.name, "balanced_accuracy": reference.space.accuracy},
        "real": _plain(reference.real),
        "two_sample_auc_of_real_images": _interval(reference.told_apart) if reference.seeds else None,
        "gaussian": {**_plain(reference.pca_baseline), "reconstruction": _plain(reference.pca_baseline_reconstruction)},
        "copy_audit": {
            **asdict(reference.calibration),
            "false_positives": privacy.FALSE_POSITIVES,
            "fails_above": privacy.TOO_MANY,
            "detects": _plain(reference.detection),
        },
        "models": [_model(evaluation, reference) for evaluation in evaluations],
    }


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: _interval(estimate) for name, estimate in estimates.items()}


def _interval(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _model(evaluation: Evaluation, reference: Reference) -> dict[str, Any]:
    decided = decide(evaluation, reference)
    reconstruction, space, memorised = evaluation.reconstruction, evaluation.latent_space, evaluation.memorised
    facts: dict[str, Any] = {
        "weights": name_of(evaluation.path),
        "trained_on": evaluation.model.trained_on.plain,
        "training": dict(evaluation.model.training),
        "samples": {name: _plain(metrics) for name, metrics in evaluation.metrics.items()},
        "KID_by_network": evaluation.kid_by_network,
        "two_sample_auc": None if evaluation.told_apart is None else _interval(evaluation.told_apart),
        "by_class": {name: asdict(manifold) for name, manifold in evaluation.by_class.items()},
        "reconstruction": None if reconstruction is None else _plain(reconstruction),
        "latent_space": None if space is None else _latent_space(space),
        "copies": {name: _audit(audit) for name, audit in evaluation.audits.items()},
        "own_reconstructions_of_training_images_found": None if memorised is None else _interval(memorised),
        "membership": {
            name: _interval(attack.auc)
            for name, attack in evaluation.attacks.items()
            if name in (RECONSTRUCTION, DISCRIMINATOR)
        },
        "attacks": {name: _attack(attack) for name, attack in evaluation.attacks.items()},
        "verdict": decided.privacy,
        "collapsed": decided.collapsed is not None,
    }
    if decided.withheld:
        facts["usefulness"] = WITHHELD
    elif decided.usefulness is not None:
        facts["usefulness"] = _usefulness(decided.usefulness)
    return facts


def _audit(audit: Audit) -> dict[str, Any]:
    return {
        "copies": audit.copies,
        "rate": _interval(audit.rate),
        "chance": audit.chance,
        "verdict": audit.verdict,
    }


def _attack(attack: Attack) -> dict[str, Any]:
    return {
        "members": attack.members,
        "others": attack.others,
        "groups_of_members": attack.groups[0],
        "groups_of_others": attack.groups[1],
        "auc": _interval(attack.auc),
        "tpr_at_1_percent_fpr": _interval(attack.tpr),
        "auc_of_most_exposed_tenth": _interval(attack.highest),
        "detectable_auc": attack.detectable,
        "guesses": attack.guesses,
        "correct_guesses": attack.correct,
        "epsilon_lower_bound": attack.epsilon,
        "delta": one_run.DELTA,
        "confidence": 1 - one_run.ERROR,
        "conclusion": attack.conclusion,
    }


def _latent_space(space: LatentSpace) -> dict[str, Any]:
    posterior = space.posterior
    return {
        "nats_of_an_image": posterior.nats,
        "nats_of_all_from_prior": posterior.nats_from_prior,
        "variances": posterior.variances.tolist(),
        "KID_of_one_gaussian": space.kid,
    }


def _usefulness(useful: Usefulness) -> dict[str, Any]:
    return {
        "seeds": len(useful.real_real.right),
        "test_images": len(useful.real_real.labels),
        **_plain(useful.accuracies),
        "TSTR_calibration_error": useful.synthetic_real.calibration_error,
        "TRTR_calibration_error": useful.real_real.calibration_error,
        "TSTR_per_class": useful.synthetic_real.per_class,
        "TRTR_per_class": useful.real_real.per_class,
    }
