"""The CUDA kernels on the host: builds the .cu files against tests/native/shim, behind what bind_cuda.cpp offers."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIM = Path(__file__).parent / "shim"
KERNELS = ("project", "bin", "raster", "raster_vjp", "project_vjp", "rasterize")  # sort.cu is CUB; cub_twin.cpp here
SCHEDULES = {"forward": 0, "reverse": 1, "random": 2}


class Call(ctypes.Structure):
    """The struct of the same name in shim/binding.cpp."""

    _fields_ = (
        ("shape", ctypes.c_int64 * 7),
        ("floats", ctypes.c_float * 3),
        ("antialiased", ctypes.c_int32),
        ("inputs", ctypes.c_void_p * 10),
        ("memory", ctypes.c_void_p * 4),
        ("num_entries", ctypes.c_int64),
    )


def build(folder: Path, *, compiler: str) -> ctypes.CDLL:
    """Compiles the kernels and the shim in `folder` and loads them."""
    sources = [ROOT / "cuda_ext" / "cuda" / f"{name}.cu" for name in KERNELS] + sorted(SHIM.glob("*.cpp"))
    flags = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", f"-I{SHIM}", f"-I{ROOT / 'cuda_ext' / 'cuda'}"]
    objects = []
    for source in sources:
        objects.append(str(folder / f"{source.stem}.o"))
        command = [compiler, *flags, "-x", "c++", "-c", str(source), "-o", objects[-1]]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    library = folder / "libscene4d_shim.so"
    done = subprocess.run([compiler, "-shared", *objects, "-o", str(library)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(library))
    loaded.shim_slots_bytes.restype = ctypes.c_int64
    return loaded


def _pointers(addresses) -> ctypes.Array:
    return (ctypes.c_void_p * len(addresses))(*(address or None for address in addresses))


class ShimModule:
    """What scene4d/native/cuda.py asks of the native module, on the shim; the rest comes from the real module."""

    def __init__(self, library: ctypes.CDLL, native) -> None:
        self.library, self.native = library, native
        self.calls: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self.native, name)

    def schedule(self, name: str, *, seed: int = 0) -> None:
        """The order in which blocks and threads run."""
        self.library.shim_schedule(SCHEDULES[name], seed)

    def cuda_device_usable(self, device: int) -> bool:
        return True

    def CudaCall(self, shape, floats, antialiased, inputs, memory, where) -> Call:
        call = Call(antialiased=int(antialiased), num_entries=where[2])
        call.shape[:], call.floats[:] = shape, floats
        call.inputs[:], call.memory[:] = _pointers(inputs)[:], _pointers(memory)[:]
        return call

    def cuda_rows_bytes(self, shape, device: int) -> tuple[int, int]:
        out = (ctypes.c_int64 * 2)()
        self.library.shim_rows_bytes((ctypes.c_int64 * 7)(*shape), out)
        return tuple(out)

    def cuda_entries_bytes(self, shape, num_entries: int, device: int) -> tuple[int, int]:
        out = (ctypes.c_int64 * 2)()
        self.library.shim_entries_bytes((ctypes.c_int64 * 7)(*shape), ctypes.c_int64(num_entries), out)
        return tuple(out)

    def cuda_slots_bytes(self, shape, num_entries: int, absgrads: bool, viewmats: bool) -> int:
        sizes = (ctypes.c_int64 * 7)(*shape)
        return self.library.shim_slots_bytes(sizes, ctypes.c_int64(num_entries), int(absgrads), int(viewmats))

    def cuda_prepare(self, call: Call, radii: int) -> tuple[int, int]:
        self.calls.append("prepare")
        found = ctypes.c_int64()
        return self.library.shim_prepare(ctypes.byref(call), ctypes.c_void_p(radii), ctypes.byref(found)), found.value

    def cuda_bin(self, call: Call) -> int:
        return self.library.shim_bin(ctypes.byref(call))

    def cuda_blend(self, call: Call, images) -> int:
        return self.library.shim_blend(ctypes.byref(call), _pointers(images))

    def cuda_backward(self, call: Call, images, v_images, slots: int, grads) -> int:
        pointers = [_pointers(images), _pointers(v_images), ctypes.c_void_p(slots), _pointers(grads)]
        return self.library.shim_backward(ctypes.byref(call), *pointers)
