"""Nearest points, on the CPU and in double precision."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree


def quick_tree(points: np.ndarray) -> KDTree:
    """A tree [n d] that is quick to build: right for a few queries."""
    return KDTree(points, balanced_tree=False, compact_nodes=False)


def nearest_in(
    tree: KDTree, queries: np.ndarray, *, num: int = 1, limit: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Distances [q] and rows [q] of the nearest points, [q num] if num > 1; infinite and n where none is in `limit`."""
    distance, index = tree.query(queries, k=num, distance_upper_bound=limit)
    return np.asarray(distance), np.asarray(index)
