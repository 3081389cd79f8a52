"""Farthest-point sampling, nearest neighbours and Chamfer distance of point sets: batched, masked, exact."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import ShapeError
from scene4d.native.nearest import farthest_rows, nearest_rows


def farthest_points(
    points: Tensor, num: int, *, start: int | Tensor | None = 0, mask: Tensor | None = None, distinct: bool = False
) -> Tensor:
    """Index [*b num] of points [*b n d], each the farthest from those before it, beginning with `start`.

    Ties go to the lowest index, so the choice depends on nothing but the points. A row is chosen once at most.

    Args:
        start: the first row, one for all or [*b]; None: the row farthest from the centre of its set.
        mask: [*b n] bool, rows that exist (`ids >= 0`); others are never chosen, nor are rows that are not finite.
        distinct: choose no row that lies where one chosen before it does.
    Returns:
        -1 once no row is left, which without a mask means that points are not finite or, if `distinct`, coincide.
    Raises:
        ShapeError: without a mask `num` points are not to be had, or `start` is no row.
    """
    check(points=(points, "*b n d"), mask=(mask, "*b n"))
    batch, count = points.shape[:-2], points.shape[-2]
    if num < 0 or (mask is None and num > count):
        raise ShapeError("cannot choose that many points", field="num", found=num, expected=f"0..{count}")
    if isinstance(start, int) and not 0 <= start < max(count, 1):
        raise ShapeError("is no row", field="start", found=start, expected=f"0..{count - 1}")
    sets, masks = _flat(_searched(points.detach()), 2), _flat_mask(mask)  # [b n d], [b n]
    if start is None:
        starts = _farthest_from_centre(sets, masks)
    else:
        starts = torch.as_tensor(start, dtype=torch.int64, device=points.device).expand(batch).reshape(-1)
    index, squares = farthest_rows(sets, num, start=starts, mask=masks)
    if distinct:
        index = torch.where(squares > 0, index, -1)
    return index.view(*batch, num)


def nearest(
    points: Tensor, queries: Tensor, *, num: int, mask: Tensor | None = None, query_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distance [*b q num] and index [*b q num] into points [*b n d] of the `num` nearest to queries [*b q d].

    Nearest first; ties go to the lowest index. The distance is differentiable (with gradient 0 where it is 0).

    Args:
        mask: [*b n] bool, points that exist (`ids >= 0`). query_mask: [*b q] bool, queries that do.
    Returns:
        Infinite distance and index -1 where there are too few points, and for queries that do not exist.
    Raises:
        ShapeError: there are fewer than `num` points, and no mask to say which.
    """
    check(points=(points, "*b n d"))
    count = points.shape[-2]
    if num < 1 or (mask is None and num > count):
        raise ShapeError("cannot find that many neighbours", field="num", found=num, expected=f"1..{count}")
    squares, index = _nearest(points, queries, num=num, mask=mask, query_mask=query_mask)
    return _root(squares), index


def chamfer(
    points: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    target_mask: Tensor | None = None,
    weights: Tensor | None = None,
    target_weights: Tensor | None = None,
    squared: bool = True,
) -> Tensor:
    """Chamfer distance [*b] of point sets [*b n d] and [*b m d]: the mean distances from each to the other, summed.

    As in PyTorch3D distances are squared, and a set without points counts 0: `chamfer(x, y).mean()` is
    `pytorch3d.loss.chamfer_distance(x, y)[0]`, its lengths as masks. Differentiable to points, target and weights.

    Args:
        mask: [*b n] bool, points that exist (`ids >= 0`). target_mask: [*b m].
        weights: [*b n] >= 0; the mean is weighted by them. target_weights: [*b m].
        squared: m^2; otherwise plain distance, m.
    """
    check(points=(points, "*b n d"), target=(target, "*b m d"), weights=(weights, "*b n"))
    check(target=(target, "*b m d"), target_weights=(target_weights, "*b m"))
    there, _ = _nearest(target, points, num=1, mask=target_mask, query_mask=mask)
    back, _ = _nearest(points, target, num=1, mask=mask, query_mask=target_mask)
    there, back = (x[..., 0] if squared else _root(x[..., 0]) for x in (there, back))
    return _mean(there, weights) + _mean(back, target_weights)


def _nearest(points: Tensor, queries: Tensor, *, num: int, mask: Tensor | None, query_mask: Tensor | None):
    """Squares [*b q num] and index [*b q num] as `nearest`, from any number of points."""
    check(points=(points, "*b n d"), queries=(queries, "*b q d"), mask=(mask, "*b n"), query_mask=(query_mask, "*b q"))
    dtype = torch.promote_types(_searched(points).dtype, _searched(queries).dtype)
    first, second = (_flat(x.to(dtype), 2) for x in (points, queries))  # [b n d], [b q d]
    squares, index = nearest_rows(first, second, num=num, mask=_flat_mask(mask), query_mask=_flat_mask(query_mask))
    shape = (*queries.shape[:-1], num)
    return squares.to(_searched(points).dtype).view(shape), index.view(shape)


def _flat(x: Tensor, num_axes: int) -> Tensor:
    """One batch axis before the last `num_axes`."""
    return x.reshape(math.prod(x.shape[:-num_axes]), *x.shape[-num_axes:])


def _flat_mask(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else _flat(mask, 1)


def _searched(points: Tensor) -> Tensor:
    """In a type that the search knows."""
    return points if points.dtype in (torch.float32, torch.float64) else points.float()


def _farthest_from_centre(points: Tensor, mask: Tensor | None) -> Tensor:
    """Row [b] of [b n d] farthest from the mean of the rows that exist; 0 where there are none."""
    exists = (points * 0).sum(-1) == 0  # finite
    exists = exists if mask is None else exists & mask
    if points.shape[1] == 0:
        return exists.new_zeros(points.shape[0], dtype=torch.int64)
    there = torch.where(exists[..., None], points, 0)
    centre = there.sum(1, keepdim=True) / exists.sum(1).clamp_min(1)[:, None, None]
    return torch.where(exists, (there - centre).square().sum(-1), -1).argmax(1)


def _root(squares: Tensor) -> Tensor:
    """Square root whose gradient is 0 at 0."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1).sqrt(), 0)


def _mean(distance: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted mean over the last axis of the finite distances, 0 where there are none."""
    found = distance.isfinite()
    weights = found.to(distance) if weights is None else torch.where(found, weights, 0).to(distance)
    total = weights.sum(-1)
    return (torch.where(found, distance, 0) * weights).sum(-1) / torch.where(total > 0, total, 1)
