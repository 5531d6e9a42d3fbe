"""What a model was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainedOn:
    """A description of the images that a model was trained on, as plain values that can be printed and stored.

    Attributes:
        kind: `phantom` for drawings made by this project, `images` for anything else.
        folder: the name of the folder that contained the images.
        classes: class names in label order.
        counts: number of images by split, then by class name.
        caption: one phrase for pictures and messages.
        fingerprint: identifies the images; see `Collection.fingerprint`. None in files of earlier versions.
        training_images: the fingerprint of the training images alone. None in files of earlier versions.
        split: how the images were split, and the seed. None in files of earlier versions.
        release: what differential privacy guarantees, if the classes' density is that of other, private images; with
            the description of the public images that trained the networks. None otherwise.
    """

    kind: str
    folder: str
    classes: list[str]
    counts: Mapping[str, Mapping[str, int]]
    caption: str
    fingerprint: str | None = None
    training_images: str | None = None
    split: Mapping[str, Any] | None = None
    release: Mapping[str, Any] | None = None

    @property
    def is_phantom(self) -> bool:
        """Whether the images were drawn by this project."""
        return self.kind == "phantom"

    @property
    def plain(self) -> dict[str, Any]:
        """The same in plain containers, for a file."""
        return dict(vars(self))
