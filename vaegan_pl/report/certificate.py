"""The certificate of a release under differential privacy, for a data-protection officer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vaegan_pl.model import mechanism, sharing
from vaegan_pl.model.private_density import SHARES
from vaegan_pl.model.trained_on import TrainedOn
from vaegan_pl.report.model_card import literal
from vaegan_pl.storage.outputs import MADE_BY

PAGE, JSON = "certificate.md", "certificate.json"

FALSE_ALARMS = 0.01
"""Of the images (or patients) that were not used, the share that an attacker takes for used."""

PHANTOMS = "PHANTOMS (drawings, not MRI)"


@dataclass(frozen=True)
class Terms:
    """The terms of a release.

    Attributes:
        epsilon: the privacy loss.
        delta: the probability that may be added to the limit set by epsilon.
        unit: what is protected: `image` or `patient`.
        deviation: standard deviation of the noise, divided by the sensitivity.
        clip: largest norm of latents, in public standard deviations.
        clip_from: where it comes from.
        axes: number of axes along which moments were released.
        dimensions: number of latent dimensions.
        images: which images of the folder were used.
    """

    epsilon: float
    delta: float
    unit: str
    deviation: float
    clip: float
    clip_from: str
    axes: int
    dimensions: int
    images: str

    @property
    def short(self) -> str:
        """The guarantee in one phrase."""
        return f"epsilon {self.epsilon:g}, delta {self.delta:g} per {self.unit}"

    @property
    def plain(self) -> dict[str, Any]:
        """The terms in plain values, for files."""
        return {
            "guarantee": "(epsilon, delta)-differential privacy",
            "mechanism": "one Gaussian mechanism, calibrated by Theorem 8 of arXiv 1805.06530, with discrete noise "
            "(arXiv 2004.00010)",
            "epsilon": self.epsilon,
            "delta": self.delta,
            "unit": self.unit,
            "neighbouring_data_sets": f"one {self.unit} is added or removed",
            "l2_sensitivity": 1.0,
            "noise_standard_deviation": self.deviation,
            "lattice": f"multiples of {1 / mechanism.SCALE!r}",
            "shares_of_squared_sensitivity": dict(zip(("count", "mean", "second_moment"), SHARES, strict=True)),
            "clip_norm": self.clip,
            "clip_norm_from": self.clip_from,
            "axes": self.axes,
            "latent_dimensions": self.dimensions,
            "images": self.images,
        }


def described(
    public: TrainedOn, sha256: str, counts: Mapping[str, int], terms: Terms, private_phantoms: bool
) -> TrainedOn:
    """What a released model was made from. About the private images, it says only the class names and noisy counts.

    Args:
        public: the images that trained the networks.
        sha256: digest of the public model file.
        counts: noisy counts by class.
        terms: the terms of the release.
        private_phantoms: whether the private images are phantoms.
    """
    others = PHANTOMS if private_phantoms else "other images"
    return TrainedOn(
        kind="phantom" if private_phantoms or public.is_phantom else "images",
        folder=public.folder,
        classes=list(counts),
        counts={"train": dict(counts)},
        caption=f"{public.caption}; classes of {others}, released with {terms.short}",
        release={**terms.plain, "public_model": {"sha256": sha256, **public.plain}},
    )


def facts(released: TrainedOn, terms: Terms, sha256: str) -> dict[str, Any]:
    """The certificate in machine-readable form.

    Args:
        released: see `described`.
        terms: the terms of the release.
        sha256: digest of the released model file.
    """
    return {
        "made_by": MADE_BY,
        "file": {"name": sharing.NAME, "sha256": sha256},
        **(released.release or {}),
        "classes": released.classes,
        "noisy_counts": dict(released.counts["train"]),
        "not_covered": [words.partition(": ")[0].strip("*") for words in NOT_COVERED],
    }


NOT_COVERED = (
    "**The public model**: encoder, decoder and the public density (that of its latents) were made before, from other "
    "images. The guarantee says nothing about those images, and it does not hold for private images that were, "
    "themselves or as copies, among them.",
    "**The choice of options**: the guarantee holds only if epsilon, the clip norm, the number of axes and all other "
    "options were chosen without looking at the private images, and if this is not the best of several releases.",
    "**The class names, and that the hospital took part**: both are public.",
    "**Other uses of the images**: other releases, publications, and figures about this model that were computed from "
    "the private images, such as those of `evaluate`. Keep such figures with the images.",
    "**What is true of patients in general**: if a disease shows in the images, the release may reveal how. Others may "
    "apply this to a person, whether or not the person's images were used.",
    "**The computer**: whoever can read its disks, or watch it compute, sees the images themselves.",
)

_TEXT = """# Certificate of a release with differential privacy

File: {file}, SHA-256 {sha256}

## In short

The file was computed from private images. Random noise was added, which limits how different the file would be if any
one {unit} had been left out. So there is a limit to what anybody, whatever else they know and whatever they do with the
file, can learn from it about whether {whose} used, or about what
{shows}. The numbers below say how strict this limit is. It is a mathematical property of the procedure, not the
result of a test. It also holds for all images drawn from the file.

| | |
| --- | --- |
| what is protected | {protected} |
| privacy loss, epsilon (the smaller, the stricter) | {epsilon:g} |
| probability that may be added to the limit set by epsilon, delta | {delta:g} |

**What this means.** Suppose that somebody who knows all other images tries to find out from the file whether
{whose} used. If they wrongly say so for 1 in 100 {unit}s that were not used, they are right about {found} in 100 of
those that were, at most. Without the file, they would be right about 1. If they thought before that the chances were
even, they can be {belief} certain afterwards, at most, except in {rare} of 100,000 releases.

**Budgets add up.** Every other release from the same images adds its own epsilon and delta to these. Keep a list.

## What was computed

1. A public encoder, which was trained on other images, turned each image into a Gaussian distribution in
   {dimensions} dimensions. It was centred and scaled by constants of the public model, and reduced to {axes} axes.
2. Distributions far from the centre were scaled down to a norm of {clip:.4g} public standard deviations (the clip norm,
   from {clip_from}).
3. For each class, three sums were formed over its images: number, means, and second moments.{weighing}
4. Noise was added to all these sums at once. From the noisy sums alone, the mean and the covariance of each class were
   computed. Where the noise dominates, they were pulled towards those of the public density. The file contains them and
   the public decoder.

Images used: {images}. Whether an image was used depends on that image and its folder alone. If there is a file with a
mask of it, the two count as one image.

| | |
| --- | --- |
| mechanism | one Gaussian mechanism for all sums of all classes; discrete noise on multiples of 2^-30 |
| neighbouring data sets | one {unit} is added or removed |
| L2 sensitivity | 1 (the sums are divided by their bounds, and weighted by the roots of {shares}) |
| standard deviation of the noise on the weighted sums | {deviation:.6g} |
| standard deviation of the noise on the number of {unit}s of a class | {of_counts:.3g} |
| source of the noise | the operating system's cryptographic generator; there is no seed |
| calibration of the noise | Balle and Wang 2018 (arXiv 1805.06530), Theorem 8 |
| sampling of the noise, exactly | Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), Algorithm 3 |
| public model | {public}; SHA-256 {public_sha256} |
| noisy numbers of {unit}s | {counts} |

## What is not covered

{not_covered}

Made by {made_by}.
"""


_PROTECTED = {
    "image": "each image by itself; for a patient with n images, epsilon is up to n times as large, and delta larger",
    "patient": "all images of a patient together",
}


def text(released: TrainedOn, terms: Terms, sha256: str) -> str:
    """The certificate in Markdown; arguments as for `facts`."""
    assert released.release is not None
    public = released.release["public_model"]
    by_patient = terms.unit == "patient"
    return _TEXT.format(
        file=sharing.NAME,
        sha256=sha256,
        unit=terms.unit,
        whose="the images of a given patient were" if by_patient else "a given image was",
        shows="they show" if by_patient else "it shows",
        protected=_PROTECTED[terms.unit],
        epsilon=terms.epsilon,
        delta=terms.delta,
        found=f"{100 * mechanism.power(terms.deviation, FALSE_ALARMS):.2g}",
        belief=_percent(1 / (1 + math.exp(-terms.epsilon))),
        rare=f"{1e5 * mechanism.exceeding(terms.epsilon, terms.deviation):.2g}",
        dimensions=terms.dimensions,
        axes=terms.axes,
        clip=terms.clip,
        clip_from=terms.clip_from,
        weighing=" All images\n   of a patient together counted as one image." if by_patient else "",
        images=terms.images,
        shares=", ".join(f"{share:g}" for share in SHARES),
        deviation=terms.deviation,
        of_counts=terms.deviation / math.sqrt(SHARES[0]),
        public=literal(public["caption"]),
        public_sha256=public["sha256"],
        counts=literal(", ".join(f"{name} {n}" for name, n in released.counts["train"].items())),
        not_covered="\n".join(f"- {words}" for words in NOT_COVERED),
        made_by=MADE_BY,
    )


def _percent(share: float) -> str:
    """A share in percent, never rounded up to 100."""
    return f"{share:.0%}" if share < 0.99 else f"{math.floor(1000 * share) / 10:g}%"
