"""Nearest points, on the CPU and in double precision."""

from __future__ import annotations

import numpy as np
import torch

from scene4d.native.nearest import nearest_rows


def nearest_in(
    points: np.ndarray, queries: np.ndarray, *, num: int = 1, limit: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Distances [q] and rows [q] of the nearest of the points [n d] to queries [q d], [q num] if num > 1.

    Infinite and n where none is nearer than `limit`. Of points as near, the lowest row.
    """
    rows, wanted = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))[None] for x in (points, queries))
    squares, index = nearest_rows(rows, wanted, num=num)
    distance = squares[0].sqrt()
    near = distance < limit
    distance, index = torch.where(near, distance, torch.inf), torch.where(near & (index[0] >= 0), index[0], len(points))
    distance, index = distance.numpy(), index.numpy()
    return (distance[:, 0], index[:, 0]) if num == 1 else (distance, index)
