"""Training on several processes that torchrun started: shares of a batch, means over ranks, weights in parts.

With one process everything here gives back what it was given and touches no process group.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, distributed, nn

from scene4d.errors import ConfigError, ResourceError
from scene4d.tensor_struct import TensorStruct

if TYPE_CHECKING:  # its import takes seconds
    from torch.distributed.tensor import DTensor

BUCKET_ELEMENTS = 4_000_000
"""Gradients that travel in one message: large enough to hide the delay, small enough beside the weights."""
PATIENCE = timedelta(days=7)
"""How long ranks wait for work that only the first one does; should it die meanwhile, they learn that at once."""
LETTING_GO_S = 0.5
"""How long a rank waits for its own threads after another is gone."""


@contextlib.contextmanager
def torchrun_group(*, timeout_s: float = 600.0) -> Iterator[None]:
    """Inside, the processes that torchrun started are one group: gloo between CPUs, nccl between GPUs.

    Does nothing where torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) are not set, or
    name one process.

    Args:
        timeout_s: how long a rank waits in a step for another that does not answer.
    Raises:
        ResourceError: the other ranks do not come.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with _peers():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout_s))
    yield
    # Not after a failure: tidying up would wait for ranks that may be gone; the end of the process does it.
    distributed.destroy_process_group()


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return distributed.get_rank() if _grouped() else 0


def num_ranks() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if _grouped() else 1


@contextlib.contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank 0 does the block while the others wait, however long; then they do it too and find its files made.

    Raises:
        ResourceError: rank 0 died meanwhile.
    """
    if num_ranks() == 1:
        yield
        return
    with _peers():
        group = _patient_group()
        if rank() > 0:
            distributed.barrier(group=group)
    yield
    if rank() == 0:
        with _peers():
            distributed.barrier(group=group)


def wait_for_all() -> None:
    """Come back when every rank is here.

    Raises:
        ResourceError: a rank died, or did not come in time.
    """
    if num_ranks() > 1:
        highest([0.0])


def share_of(batch: Any) -> tuple[Any, float]:
    """This rank's rows (rank, rank + ranks, ...) of a batch that every rank holds whole, and their weight.

    Args:
        batch: tensors [b ...], nouns with a leading batch axis, or tuples and dictionaries of them.
    Returns:
        The share, and rows here * ranks / rows in all: the mean over ranks of weight * mean loss is the mean loss of
        the whole batch.
    Raises:
        ConfigError: there are fewer rows than ranks, or what the batch holds has no rows.
    """
    if num_ranks() == 1:
        return batch, 1.0
    sizes: set[int] = set()
    mapped(batch, lambda x: sizes.add(_num_rows(x)))
    if len(sizes) != 1:
        found = sorted(sizes)
        raise ConfigError("cannot be split over ranks", field="batch", found=found, expected="one number of rows")
    num, least = sizes.pop(), f">= {num_ranks()}"
    if num < num_ranks():
        raise ConfigError("is smaller than the number of ranks", field="batch_size", found=num, expected=least)
    rows = slice(rank(), None, num_ranks())
    return mapped(batch, lambda x: x[rows]), len(range(num)[rows]) * num_ranks() / num


def means(values: Sequence[float], *, weight: float = 1.0) -> list[float]:
    """Weighted means of numbers over ranks; every rank names the same numbers and gets the same means."""
    if num_ranks() == 1:
        return list(values)
    total = weight * torch.tensor(values, dtype=torch.float64)
    _add_up(total)
    return (total / num_ranks()).tolist()


def highest(values: Sequence[float]) -> list[float]:
    """The highest of each number over ranks; every rank names the same numbers."""
    if num_ranks() == 1:
        return list(values)
    most = torch.tensor(values, dtype=torch.float64)
    with _peers():
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return most.tolist()


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """Replace gradients by their means over ranks; a rank that has none counts as 0. Those of parts are means already.

    Raises:
        ResourceError: a rank died, or did not come in time.
    """
    if num_ranks() == 1:
        return
    parameters = [p for p in module.parameters() if p.requires_grad and not is_part(p)]
    used = highest([float(p.grad is not None) for p in parameters])
    parameters = [p for p, some in zip(parameters, used, strict=True) if some]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    for bucket in _buckets(p.grad for p in parameters if p.grad is not None):
        flat = torch.cat([g.reshape(-1) for g in bucket])
        _add_up(flat)
        for grad, mean in zip(bucket, (flat / num_ranks()).split([g.numel() for g in bucket]), strict=True):
            grad.copy_(mean.view_as(grad))


@torch.no_grad()
def clip_gradients(module: nn.Module, max_norm: float) -> float:
    """Scale gradients down to a norm over all parameters, whole or in parts; returns the norm before."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    parts = [_local(g) for g in grads if is_part(g)]
    if not parts:
        return float(nn.utils.clip_grad_norm_(module.parameters(), max_norm))
    square = torch.nn.utils.get_total_norm(parts).double().cpu().square()
    _add_up(square)
    rest = nn.utils.get_total_norm([g for g in grads if not is_part(g)])
    norm = math.sqrt(float(square) + float(rest) ** 2)
    for grad in grads:
        _local(grad).mul_(min(1.0, max_norm / (norm + 1e-6)))
    return norm


@torch.no_grad()
def copy_from_rank_zero(module: nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0.

    Raises:
        ResourceError: a rank died, or did not come in time.
    """
    if num_ranks() > 1:
        for value in module.state_dict().values():
            if not is_part(value):
                with _peers():
                    distributed.broadcast(value, src=0)


def shard(module: nn.Module) -> None:
    """Split the weights of a module's repeated blocks (the members of its ModuleLists) over the ranks, in place.

    Each rank keeps its part of weights, gradients and moments; a block is put together while it is called (FSDP2), so
    every rank must call the same blocks in the same order. What is not in a block stays whole on every rank.
    """
    if num_ranks() == 1 or any(is_part(p) for p in module.parameters()):
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (num_ranks(),))
    for block in _repeated(module):
        # Put away after the forward pass already: a step that is skipped has no backward pass that would do it.
        fully_shard(block, mesh=mesh, reshard_after_forward=True)


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether other ranks hold the rest of this tensor."""
    if num_ranks() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all ranks put together; every rank must ask for it."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def laid_out_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, and cut to this rank's part where `like` is one."""
    tensor = tensor.to(like.device)
    if not is_part(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@functools.cache
def _patient_group() -> Any:
    return distributed.new_group(backend="gloo", timeout=PATIENCE)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_part(tensor) else tensor


def _num_rows(part: Any) -> int:
    shape = part.shape if isinstance(part, Tensor) else part.batch_shape if isinstance(part, TensorStruct) else ()
    if not shape:
        found = type(part).__name__
        raise ConfigError("cannot be split over ranks", field="batch", found=found, expected="tensors with rows")
    return shape[0]


def mapped(batch: Any, fn: Callable[[Any], Any]) -> Any:
    """A batch with `fn` of each of its tensors and nouns, in tuples and dictionaries too; None stays None."""
    match batch:
        case Mapping():
            return {k: mapped(v, fn) for k, v in batch.items()}
        case tuple() | list():
            return tuple(mapped(v, fn) for v in batch)
    return None if batch is None else fn(batch)


def _buckets(grads: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one device and dtype together, in the order of the parameters, which is that of every rank."""
    open_buckets: dict[Any, list[Tensor]] = {}
    for grad in grads:
        kind = (grad.device, grad.dtype)
        bucket = open_buckets.setdefault(kind, [])
        bucket.append(grad)
        if sum(g.numel() for g in bucket) >= BUCKET_ELEMENTS:
            yield open_buckets.pop(kind)
    yield from open_buckets.values()


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if any(p.requires_grad for p in block.parameters()))
        else:
            yield from _repeated(child)


def _add_up(tensor: Tensor) -> None:
    with _peers():
        distributed.all_reduce(tensor)


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # The thread of the group that failed still holds the tensor, and needs the interpreter to let it go: were that
        # at its end by then, the process would abort instead of saying what happened.
        time.sleep(LETTING_GO_S)
        where, found = f"rank {rank()} of {num_ranks()}", str(error).splitlines()[0][:200]
        fix = "see what it printed; started again, training goes on from the checkpoint"
        raise ResourceError("another rank is gone or does not answer", field=where, found=found, fix=fix) from error
