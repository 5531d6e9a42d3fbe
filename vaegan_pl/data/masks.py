"""Recognise segmentation masks that are stored next to the images they belong to."""

import re
from collections.abc import Iterable, Sequence

MASKS = ("drop", "keep")

_SUFFIX = re.compile(
    r"(?P<base>.+?)[-_. ]+"
    r"(masks?|brainmask|seg|dseg|probseg|segm|segmentations?|labels?|labelmap|gt|ground[-_ ]?truth|annotations?|"
    r"contours?|lesion|roi|[12](st|nd)HO)"
    r"([-_ ]?\d+)?",
    re.IGNORECASE,
)
"""The name of a mask without its file type: the name of the image, and what kind of mask it is."""


def image_of(stem: str) -> str | None:
    """The name of the image that a mask belongs to, by the mask's name without its type; None for other names."""
    match = _SUFFIX.fullmatch(stem)
    return match["base"] if match else None


def by_name(stems: Iterable[str]) -> dict[str, str]:
    """The names in a folder that belong to masks, each with the name of its image, which is there too.

    Args:
        stems: names of files without their types, such as `x` and `x_mask`.
    """
    own = {*stems}
    there = {stem.lower(): stem for stem in own}
    found = {}
    for stem in own:
        image = there.get((image_of(stem) or "").lower())
        if image is not None:
            found[stem] = image
    return found


def by_content(levels: Sequence[int]) -> list[int]:
    """The images that are masks by their values: those of two values and, if there are any, blank ones.

    There are no such masks if they would be half of the readable images or more.

    Args:
        levels: the `levels` of each image (see `GreyImage`); 0 for files that cannot be read.

    Returns:
        Their indices.
    """
    few = [i for i, n in enumerate(levels) if n in (1, 2)]
    readable = sum(n > 0 for n in levels)
    return few if 2 in levels and 2 * len(few) < readable else []
