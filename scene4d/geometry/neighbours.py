"""Farthest-point sampling and nearest neighbours on point sets, in torch and scipy's k-d tree."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from scene4d.check import check
from scene4d.errors import ShapeError


def farthest_points(points: Tensor, num: int, *, start: int = 0) -> Tensor:
    """Index [num] of points [n d], each the farthest from those before it, beginning with `start`.

    Ties go to the lowest index, so the choice depends on nothing but the points. Costs n * num.

    Raises:
        ShapeError: `num` points are not to be had, or `start` is no row.
    """
    check(points=(points, "n d"))
    count = points.shape[0]
    if not 0 <= num <= count or (num and not 0 <= start < count):
        raise ShapeError(
            "cannot choose that many points", field="num", found=num, expected=f"0..{count}, start below {count}"
        )
    chosen = torch.zeros(num, dtype=torch.int64, device=points.device)
    if num == 0:
        return chosen
    columns = points.detach().T.contiguous()  # [d n]: one pass of plain multiplications a choice
    distance = torch.full((count,), float("inf"), dtype=points.dtype, device=points.device)
    current = torch.as_tensor(start, device=points.device)
    for i in range(num):
        chosen[i] = current
        square = ((columns - columns[:, current, None]) ** 2).sum(0)
        distance = torch.minimum(distance, square)
        current = distance.argmax()
    return chosen


def nearest(points: Tensor, queries: Tensor, *, num: int) -> tuple[Tensor, Tensor]:
    """Distance [q num] and index [q num] into points [n d] of the `num` nearest to queries [q d], nearest first.

    Raises:
        ShapeError: there are fewer than `num` points.
    """
    check(points=(points, "n d"), queries=(queries, "q d"))
    if not 1 <= num <= points.shape[0]:
        raise ShapeError("cannot find that many neighbours", field="num", found=num, expected=f"1..{points.shape[0]}")
    tree = cKDTree(points.detach().cpu().numpy(), balanced_tree=False, compact_nodes=False)
    distance, index = tree.query(queries.detach().cpu().numpy(), k=num, workers=torch.get_num_threads())
    distance, index = (torch.as_tensor(x).reshape(-1, num).to(points.device) for x in (distance, index))
    return distance.to(points.dtype), index.to(torch.int64)
