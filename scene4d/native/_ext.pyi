"""The compiled module (cuda_ext/bind.cpp, bind_neighbours.cpp, bind_cuda.cpp): addresses and sizes in, a status out."""

from collections.abc import Sequence

interface: int
max_pairs: int

def best_instruction_set() -> int: ...
def rasterize(
    shape: Sequence[int],
    floats: Sequence[float],
    ints: Sequence[int],
    inputs: Sequence[int],
    images: Sequence[int],
    token: int,
    /,
) -> int: ...
def rasterize_backward(
    shape: Sequence[int],
    floats: Sequence[float],
    ints: Sequence[int],
    inputs: Sequence[int],
    images: Sequence[int],
    v_images: Sequence[int],
    grads: Sequence[int],
    token: int,
    /,
) -> int: ...
def release(token: int, /) -> None: ...
def last_stage_seconds() -> dict[str, float]: ...
def farthest_points(
    counts: Sequence[int], options: Sequence[int], points: Sequence[int], start: int, index: int, squares: int, /
) -> int: ...
def nearest(
    counts: Sequence[int],
    options: Sequence[int],
    points: Sequence[int],
    queries: Sequence[int],
    squares: int,
    index: int,
    /,
) -> int: ...

# Only in a build with CUDA.
class CudaCall:
    def __init__(
        self,
        shape: Sequence[int],
        floats: Sequence[float],
        antialiased: bool,
        inputs: Sequence[int],
        memory: Sequence[int],
        where: Sequence[int],
        /,
    ) -> None: ...

def cuda_device_usable(device: int, /) -> bool: ...
def cuda_rows_bytes(shape: Sequence[int], device: int, /) -> tuple[int, int]: ...
def cuda_entries_bytes(shape: Sequence[int], num_entries: int, device: int, /) -> tuple[int, int]: ...
def cuda_slots_bytes(shape: Sequence[int], num_entries: int, absgrads: bool, viewmats: bool, /) -> int: ...
def cuda_prepare(call: CudaCall, radii: int, /) -> tuple[int, int]: ...
def cuda_bin(call: CudaCall, /) -> int: ...
def cuda_blend(call: CudaCall, images: Sequence[int], /) -> int: ...
def cuda_backward(
    call: CudaCall, images: Sequence[int], v_images: Sequence[int], slots: int, grads: Sequence[int], /
) -> int: ...
def cuda_compare_math(values: int, count: int, out: int, device: int, stream: int, /) -> int: ...
def cuda_farthest_points(
    counts: Sequence[int],
    options: Sequence[int],
    points: Sequence[int],
    start: int,
    index: int,
    squares: int,
    gaps: int,
    place: Sequence[int],
    /,
) -> int: ...
def cuda_nearest(
    counts: Sequence[int],
    options: Sequence[int],
    points: Sequence[int],
    queries: Sequence[int],
    squares: int,
    index: int,
    place: Sequence[int],
    /,
) -> int: ...
