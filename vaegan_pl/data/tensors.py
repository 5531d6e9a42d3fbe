"""Images of a collection, and their classes, as tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vaegan_pl.data.collection import Collection
from vaegan_pl.data.images import to_unit_range


def images_of(collection: Collection, chosen: Sequence[int]) -> Float[Tensor, "image 1 size size"]:
    """Some images of a collection, in [-1, 1]."""
    return to_unit_range(torch.from_numpy(collection.prepared.images[chosen]))[:, None]


def labels_of(collection: Collection, chosen: Sequence[int]) -> Int64[Tensor, " image"]:
    """Their classes."""
    return torch.from_numpy(collection.labels[chosen].astype(np.int64))
