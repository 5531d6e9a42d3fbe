"""The images that a release with a guarantee uses, and how they count.

Differential privacy compares two data sets that differ in one image (or patient). Therefore whether an image is used
must depend on this image (or patient) alone. Splits by group do not satisfy this: adding an image can move others
to another split.
"""

from collections import Counter

from vaegan_pl.data.datamodule import ImageFolders
from vaegan_pl.errors import UserError

UNITS = ("image", "patient")
"""What is protected as a whole."""

_MASK_VALUES = 2


def independent_images(data: ImageFolders, unit: str) -> dict[int, int]:
    """The images to use, each with the number of images of its unit.

    These are all readable images, near-copies included; with `data.split=official`, only those in the folders for
    training. With `data.masks=drop`, images of one or two grey values are left out as masks.

    Args:
        data: the images.
        unit: `image` or `patient`.

    Raises:
        UserError: if patients are unknown, or the grey values of an image depend on others of its series.
    """
    collection = data.collection
    if unit == "patient" and not collection.patients.known:
        raise UserError(
            "unit=patient: the patients of these images are unknown; name them with data.patients=FILE.csv or "
            "data.patient=REGEX, or use unit=image"
        )
    if unit == "image" and data.decoding.range == "series":
        raise UserError(
            "unit=image: with data.range=series, the grey values of a slice depend on the other slices of its series; "
            "use unit=patient"
        )
    files, levels = collection.listing.files, collection.prepared.levels
    least = _MASK_VALUES if data.masks == "drop" else 0
    official = data.splitting.by == "official"
    used = [i for i, n in enumerate(levels) if n > least and (files[i].folder == "train" or not official)]
    if unit == "image":
        return dict.fromkeys(used, 1)
    names = {i: collection.patients.of[i] or f"\0{i}" for i in used}
    sizes = Counter(names.values())
    return {i: sizes[name] for i, name in names.items()}
