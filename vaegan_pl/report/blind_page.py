"""A page that shows pairs of a real slice and a sample, asks which is real, and keeps score."""

from collections.abc import Sequence

from PIL import Image
from scipy.stats import binom

from vaegan_pl.report.page import PAGES, picture
from vaegan_pl.storage.outputs import MADE_BY

Pair = tuple[Image.Image, Image.Image, bool]
"""A real image, a sample, and whether the real one is shown on the left."""


def chances(pairs: int) -> list[float]:
    """Probability of at least 0, 1, ..., `pairs` correct answers by guessing: the tail of a binomial distribution."""
    return [float(binom.sf(correct - 1, pairs, 0.5)) for correct in range(pairs + 1)]


def render(pairs: Sequence[Pair], caption: str) -> str:
    """The page as HTML; needs no other file and no network.

    Args:
        pairs: the pairs, in the order in which they are shown.
        caption: what the model was trained on.
    """
    shown = [
        {"images": [picture(image, "").address for image in ((real, sample) if left else (sample, real))], "left": left}
        for real, sample, left in pairs
    ]
    return PAGES.get_template("blind_page.html.j2").render(
        pairs=shown, chances=chances(len(pairs)), caption=caption, generator=MADE_BY
    )
