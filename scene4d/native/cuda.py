"""The CUDA kernels behind torch.ops.scene4d.rasterize: allocation, checks, and what to do where they cannot run.

Memory scheme: torch allocates everything. `prepare` projects and counts the (Gaussian, tile) pairs; their number
comes back to the host, the one wait of a call, so that the tile lists have exactly the memory they need. Splats and
tile lists of a forward call that will be differentiated stay under the call's token until the graph is gone or
KEPT_BYTES are passed; backward makes them again, to the same bits, when they are not there.

A build without CUDA, a GPU it holds no code for, or a driver too old: the op runs on the CPU and warns once. Nothing
is ever compiled at run time.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scene4d.errors import ResourceError
from scene4d.native import ops

KEPT_BYTES = 2 << 30
MAX_ROWS = 2**31 - 1
MAX_ENTRIES = 2**31 - 1
MAX_TILES = 2**30
TILE = 8
ALIGNMENT = 16

_NUM = len(ops._TENSORS)
_warned: set[str] = set()
_usable: dict[int, bool] = {}


def why_not(device: torch.device) -> str | None:
    """Why the CUDA kernels cannot run on `device`; None when they can."""
    module = ops.native_module()
    if not hasattr(module, "cuda_prepare"):
        return "scene4d was built without CUDA"
    index = _index(device)
    if index not in _usable:
        _usable[index] = module.cuda_device_usable(index)
    return None if _usable[index] else f"this build of scene4d holds no code for {device}, or its driver is too old"


def _index(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return torch.cuda.current_device() if device.index is None else device.index


def _place(device: torch.device) -> tuple[int, int]:
    """Index of a device, and its stream."""
    return _index(device), torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


class _Lists(NamedTuple):
    """Splats and tile lists of one call."""

    rows: Tensor
    entries: Tensor
    num_entries: int


@dataclass(frozen=True)
class _Task:
    """One call: dense inputs, sizes, and what goes to the native side with them."""

    inputs: tuple[Any, ...]
    shape: tuple[int, ...]
    floats: tuple[float, float, float]
    antialiased: bool
    token: int

    @property
    def device(self) -> torch.device:
        return self.inputs[0].device

    def call(self, *memory: Tensor | None, num_entries: int = 0):
        """The native call; `memory`: rows, row scratch, entries, entry scratch."""
        addresses = ops._addresses(self.inputs[:-1], 10), ops._addresses(memory, 4)
        where = (*_place(self.device), num_entries)
        return ops.native_module().CudaCall(self.shape, self.floats, self.antialiased, *addresses, where)


def _task(args) -> _Task:
    inputs, shape, (floats, integers, token) = ops._checked_inputs(args)
    b, v, n, *_, width, height = shape
    tiles = b * v * -(-width // TILE) * -(-height // TILE)
    if b * v * n > MAX_ROWS or tiles > MAX_TILES:
        raise ResourceError(
            "too much for one call", field="rasterize", found=f"{b * v} views of {n} Gaussians, {tiles} tiles",
            expected=f"at most {MAX_ROWS} rows and {MAX_TILES} tiles", fix="draw fewer views at once",
        )  # fmt: skip
    aligned = tuple(x if x is None or x.data_ptr() % ALIGNMENT == 0 else x.clone() for x in inputs)
    return _Task(aligned, shape, floats, bool(integers[0]), token)


def _raise_for(status: int, op: str = "rasterize") -> None:
    if status:
        fix = "run once with CUDA_LAUNCH_BLOCKING=1; an earlier kernel of the program may have failed"
        raise ResourceError("the GPU reported an error", field=op, fix=fix)


def _memory(task: _Task, num_bytes: int, *, what: str) -> Tensor:
    """Bytes on the device; ResourceError with the estimate when there is no room."""
    try:
        return torch.empty(num_bytes, dtype=torch.uint8, device=task.device)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            "no memory left to render", field="rasterize", found=f"{num_bytes / 2**20:.0f} MB needed for {what}",
            fix="draw fewer views at once, or Gaussians that cover less of the image",
        ) from error  # fmt: skip


def _lists(task: _Task, radii: Tensor | None) -> _Lists:
    """Runs everything before blending."""
    module, index = ops.native_module(), _index(task.device)
    kept, scratch = module.cuda_rows_bytes(task.shape, index)
    rows, row_scratch = (_memory(task, size, what="splats") for size in (kept, scratch))
    status, num_entries = module.cuda_prepare(task.call(rows, row_scratch), 0 if radii is None else ops._address(radii))
    _raise_for(status)
    what = f"{num_entries} pairs of a Gaussian and a tile"
    if num_entries > MAX_ENTRIES:
        raise ResourceError(
            "Gaussians cover too much of the images", field="rasterize", found=what, expected=f"at most {MAX_ENTRIES}",
            fix="draw fewer views at once, or leave out Gaussians close to the camera",
        )  # fmt: skip
    kept, scratch = module.cuda_entries_bytes(task.shape, num_entries, index)
    entries, entry_scratch = (_memory(task, size, what=what) for size in (kept, scratch))
    _raise_for(module.cuda_bin(task.call(rows, row_scratch, entries, entry_scratch, num_entries=num_entries)))
    return _Lists(rows, entries, num_entries)


_kept: dict[int, _Lists] = {}


def _keep(token: int, lists: _Lists) -> None:
    """Lists by token, the oldest dropped first."""
    _kept[token] = lists
    while sum(x.rows.numel() + x.entries.numel() for x in _kept.values()) > KEPT_BYTES:
        del _kept[next(iter(_kept))]


def release(token: int) -> None:
    """Drop what is kept under a token."""
    _kept.pop(token, None)


def rasterize_cuda(*args) -> tuple[Tensor, ...]:
    """torch.ops.scene4d.rasterize on CUDA: same arguments, same result."""
    if reason := why_not(args[0].device):
        return on_cpu(ops._rasterize_cpu, args, reason=reason)
    task = _task(args)
    images = ops._empty_images(args[0], task.shape, median=args[_NUM + 6], radii=args[_NUM + 7])
    lists = _lists(task, images[5] if args[_NUM + 7] else None)
    call = task.call(lists.rows, None, lists.entries, None, num_entries=lists.num_entries)
    _raise_for(ops.native_module().cuda_blend(call, ops._addresses(images, 6)))
    if task.token:
        _keep(task.token, lists)
    return images


def rasterize_backward_cuda(*args) -> list[Tensor]:
    """torch.ops.scene4d.rasterize_backward on CUDA: same arguments, same result."""
    if reason := why_not(args[0].device):
        return on_cpu(ops._rasterize_backward_cpu, args, reason=reason)
    task, module = _task(args), ops.native_module()
    (*tensors, wanted) = args[_NUM + 9 :]
    tensors = ops._contiguous(tuple(tensors))
    grads = ops._empty_grads(task.inputs, wanted)
    lists = _kept.get(task.token) or _lists(task, None)
    named = dict(zip(ops._GRADS, wanted, strict=True))
    size = module.cuda_slots_bytes(task.shape, lists.num_entries, named["absgrads"], named["viewmats"])
    slots = _memory(task, size, what="sums of gradients")
    call = task.call(lists.rows, None, lists.entries, None, num_entries=lists.num_entries)
    images, grads_of_images = ops._image_addresses(tensors)
    _raise_for(module.cuda_backward(call, images, grads_of_images, ops._address(slots), ops._addresses(grads, 8)))
    return grads


def on_cpu(function, args, *, reason: str, work: str = "Gaussians are drawn"):
    """The CPU kernels on copies; warns once for each kind of work."""
    if work not in _warned:
        _warned.add(work)
        warnings.warn(f"{reason}: {work} on the CPU", stacklevel=2)
    device = args[0].device
    results = function(*(x.cpu() if isinstance(x, Tensor) else x for x in args))
    return type(results)(x.to(device) for x in results)


ops._RELEASE["cuda"] = release
ops._LIBRARY.impl("rasterize", rasterize_cuda, "CUDA")
ops._LIBRARY.impl("rasterize_backward", rasterize_backward_cuda, "CUDA")
