"""Groups of things that are connected by pairs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def connected(n: int, edges: Sequence[tuple[int, int]] | Int32[ndarray, "edge 2"]) -> Int32[ndarray, " node"]:
    """Number, from 0, of the connected component of each of `n` nodes."""
    first, second = np.asarray(edges, dtype=np.int32).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])
