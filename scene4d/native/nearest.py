"""Farthest points and k nearest rows as torch ops: batched, masked, exact, the same bits for any number of threads.

A row with mask False, or with a coordinate that is not finite, does not exist: it is never found and finds nothing.
CPU and CUDA kernels add the same numbers in the same order, so they choose the same rows. Where the build or the
machine has no CUDA kernels for a tensor on a GPU, the CPU's work on a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.errors import EnvError, ResourceError, ShapeError
from scene4d.native import cuda, ops

MAX_ROWS = 2**31 - 2**25  # a lane holds a row number as a finite float
SEARCHES = ("scan", "tree")

MAX_CUDA_DIMS = 3072

_STATUS_CUDA_FAILED = 3
_search = -1

_LIBRARY = torch.library.Library("scene4d", "FRAGMENT")
_LIBRARY.define("farthest_points(Tensor points, Tensor? mask, Tensor start, SymInt num) -> (Tensor, Tensor)")
_LIBRARY.define(
    "nearest(Tensor points, Tensor? mask, Tensor queries, Tensor? query_mask, SymInt num) -> (Tensor, Tensor)"
)


def force_search(name: str | None) -> None:
    """Use the plain "scan" or the "tree" on the CPU instead of what is faster (None); for tests and benchmarks."""
    global _search
    _search = -1 if name is None else SEARCHES.index(name)


def farthest_rows(points: Tensor, num: int, *, start: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`num` rows of each set, each the farthest from those before it; ties go to the lowest row.

    Args:
        points: [b n d] float32 or float64. start: [b] int64, first row; where it does not exist, the first that does.
        mask: [b n] bool, rows that exist.
    Returns:
        index [b num], -1 once no row is left, and squares [b num]: squared distance to the rows before (infinite for
        the first, 0 where there is none). Not differentiable.
    Raises:
        ShapeError: naming the tensor that has the wrong shape, dtype or device. EnvError, ResourceError.
    Source: Eldar et al., The farthest point strategy, 1997; blocks that a new point cannot change are passed over as in
        Han et al., QuickFPS, 2023.
    """
    return torch.ops.scene4d.farthest_points(points.detach(), mask, start, num)


def nearest_rows(
    points: Tensor, queries: Tensor, *, num: int, mask: Tensor | None = None, query_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The `num` points nearest to each query, nearest first; ties go to the lowest row.

    Args:
        points: [b n d] float32 or float64. queries: [b q d]. mask: [b n] bool, points that exist. query_mask: [b q].
    Returns:
        squares [b q num], squared distance, differentiable to points and queries; index [b q num] into points. Infinite
        and -1 where there are too few.
    Raises:
        ShapeError: naming the tensor that has the wrong shape, dtype or device. EnvError, ResourceError.
    """
    return torch.ops.scene4d.nearest(points, mask, queries, query_mask, num)


def _checked(points: Tensor, num: int, **tensors: tuple[Any, str]) -> None:
    """Every tensor is what the kernels expect; those not named a mask or a start are of the dtype of `points`."""
    sizes = check(points=(points, "b n d"), **tensors)
    if points.dtype not in (torch.float32, torch.float64):
        raise ShapeError("has the wrong dtype", field="points", found=points.dtype, expected="float32 or float64")
    for name, (x, _) in tensors.items():
        dtype = {"start": torch.int64, "mask": torch.bool, "query_mask": torch.bool}.get(name, points.dtype)
        if x is not None and (x.dtype != dtype or x.device != points.device):
            found, expected = f"{x.dtype} on {x.device}", f"{dtype} on {points.device}"
            raise ShapeError("has the wrong dtype or device", field=name, found=found, expected=expected)
    if points.shape[2] < 1 or num < 0:
        raise ShapeError("needs at least one axis and no negative number", field="points", found=dict(sizes, num=num))
    if max(points.shape[1], tensors.get("queries", (points, ""))[0].shape[1]) > MAX_ROWS:
        raise ResourceError("too many rows in one set", field="points", found=dict(sizes), expected=f"<= {MAX_ROWS}")


def _rows(x: Tensor, mask: Tensor | None) -> tuple[int, int, int]:
    return (ops._address(x), ops._address(mask), x.shape[1])


def _options(points: Tensor) -> tuple[int, int, int, int]:
    return (int(points.dtype == torch.float64), _search, torch.get_num_threads(), ops._instruction_set)


def _raise_for(status: int, op: str) -> None:
    if status == ops._STATUS_OUT_OF_MEMORY:
        raise ResourceError("no memory left", field=op, fix="give it fewer rows at once")
    if status == ops._STATUS_BAD_INSTRUCTION_SET:
        raise EnvError("no such instruction set here", field=op)
    if status == _STATUS_CUDA_FAILED:
        cuda._raise_for(status, op)


def _farthest_points(args, *, gpu: bool) -> tuple[Tensor, Tensor]:
    points, mask, start, num = args
    _checked(points, num, mask=(mask, "b n"), start=(start, "b"))
    points, mask, start = ops._contiguous((points, mask, start))
    index, squares = _farthest_points_fake(*args)
    sizes, out = (points.shape[0], points.shape[2], num), map(ops._address, (start, index, squares))
    given = (sizes, _options(points), _rows(points, mask), *out)
    if gpu:
        gaps = points.new_empty(points.shape[:2])
        status = ops.native_module().cuda_farthest_points(*given, ops._address(gaps), cuda._place(points.device))
    else:
        status = ops.native_module().farthest_points(*given)
    _raise_for(status, "farthest_points")
    return index, squares


def _farthest_points_fake(*args) -> tuple[Tensor, Tensor]:
    points, _, _, num = args
    shape = (points.shape[0], num)
    return points.new_empty(shape, dtype=torch.int64), points.new_empty(shape)


def _nearest(args, *, gpu: bool) -> tuple[Tensor, Tensor]:
    points, mask, queries, query_mask, num = args
    _checked(points, num, mask=(mask, "b n"), queries=(queries, "b q d"), query_mask=(query_mask, "b q"))
    points, mask, queries, query_mask = ops._contiguous((points, mask, queries, query_mask))
    squares, index = _nearest_fake(*args)
    sizes, out = (points.shape[0], points.shape[2], num), map(ops._address, (squares, index))
    given = (sizes, _options(points), _rows(points, mask), _rows(queries, query_mask), *out)
    if gpu:
        status = ops.native_module().cuda_nearest(*given, cuda._place(points.device))
    else:
        status = ops.native_module().nearest(*given)
    _raise_for(status, "nearest")
    return squares, index


def _nearest_fake(*args) -> tuple[Tensor, Tensor]:
    points, _, queries, _, num = args
    shape = (*queries.shape[:2], num)
    return points.new_empty(shape), points.new_empty(shape, dtype=torch.int64)


def _on_cpu(search: Callable[..., tuple[Tensor, Tensor]], *args) -> tuple[Tensor, Tensor]:
    return search(args, gpu=False)


def _on_gpu(search: Callable[..., tuple[Tensor, Tensor]], *args) -> tuple[Tensor, Tensor]:
    """By the CUDA kernels, or where they cannot run by the CPU's."""
    reason = cuda.why_not(args[0].device)
    if args[0].shape[2] > MAX_CUDA_DIMS:
        reason = f"rows have more than {MAX_CUDA_DIMS} numbers"
    if reason is None:
        return search(args, gpu=True)
    return cuda.on_cpu(partial(_on_cpu, search), args, reason=reason, work="neighbours are found")


_farthest_points_cpu, _farthest_points_cuda = partial(_on_cpu, _farthest_points), partial(_on_gpu, _farthest_points)
_nearest_cpu, _nearest_cuda = partial(_on_cpu, _nearest), partial(_on_gpu, _nearest)


def _setup_context(ctx, inputs, output) -> None:
    points, _, queries, _, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(points, queries, output[1])


def _backward(ctx, v_squares, _):
    if v_squares is None:
        return None, None, None, None, None
    points, queries, index = ctx.saved_tensors
    b, n, d = points.shape
    if n == 0:
        return points.new_zeros(points.shape), None, queries.new_zeros(queries.shape), None, None
    rows = (index.clamp_min(0) + n * torch.arange(b, device=index.device)[:, None, None]).flatten()  # [b q k]
    offset = queries[:, :, None] - points.reshape(-1, d)[rows].view(*index.shape, d)
    # Chosen after the product: where nothing was found, the offset may be of rows that are not finite.
    v_offset = torch.where((index >= 0)[..., None], 2 * v_squares[..., None] * offset, 0)  # [b q k d]
    v_points = v_queries = None
    if ctx.needs_input_grad[0]:
        v_points = points.new_zeros(b * n, d).index_add(0, rows, -v_offset.flatten(0, 2)).view(b, n, d)
    if ctx.needs_input_grad[2]:
        v_queries = v_offset.sum(2)
    return v_points, None, v_queries, None, None


_LIBRARY.impl("farthest_points", _farthest_points_cpu, "CPU")
_LIBRARY.impl("nearest", _nearest_cpu, "CPU")
_LIBRARY.impl("farthest_points", _farthest_points_cuda, "CUDA")
_LIBRARY.impl("nearest", _nearest_cuda, "CUDA")
torch.library.register_fake("scene4d::farthest_points", _farthest_points_fake, lib=_LIBRARY)
torch.library.register_fake("scene4d::nearest", _nearest_fake, lib=_LIBRARY)
torch.library.register_autograd("scene4d::nearest", _backward, setup_context=_setup_context, lib=_LIBRARY)
