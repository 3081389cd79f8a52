"""The CUDA kernels of the neighbours, executed on the host: the same bits as the CPU's in any order of threads."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess

import pytest
import torch
from cuda_shim import ROOT, SCHEDULES, SHIM
from test_native_neighbours import cloud, lattice

from scene4d.native import cuda, ops
from scene4d.native import nearest as neighbours

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

# ctypes' binding of neighbours.h, as bind_neighbours.cpp is Python's.
BINDING = """
#include "../neighbours.h"
#include "shim.h"
using namespace s4d;
struct Rows { const void* rows; const uint8_t* mask; int64_t num_rows; };
NeighbourOptions options_of(const int64_t* counts, int is_double) {
  return {counts[0], counts[1], is_double, -1, 1, -1};
}
RowSets rows_of(const Rows* r) { return {r->rows, r->mask, r->num_rows}; }
extern "C" {
void shim_schedule(int schedule, unsigned seed) { shim::set_schedule(static_cast<shim::Schedule>(schedule), seed); }
int farthest(const int64_t* counts, int is_double, const Rows* points, const int64_t* start, int64_t* index,
             void* squares, void* gaps) {
  NeighbourOptions options = options_of(counts, is_double);
  return cuda_farthest_points(options, rows_of(points), start, counts[2], index, squares, gaps, {});
}
int nearest(const int64_t* counts, int is_double, const Rows* points, const Rows* queries, void* squares,
            int64_t* index) {
  return cuda_nearest(options_of(counts, is_double), rows_of(points), rows_of(queries), counts[2], squares, index, {});
}
}
"""


class Rows(ctypes.Structure):
    """The struct of the same name in BINDING."""

    _fields_ = (("rows", ctypes.c_void_p), ("mask", ctypes.c_void_p), ("num_rows", ctypes.c_int64))


def _rows(x: tuple[int, int, int]) -> Rows:
    return Rows(x[0] or None, x[1] or None, x[2])


class ShimModule:
    """What scene4d/native/neighbours.py asks of the native module, on the shim; the rest comes from the real one."""

    cuda_prepare = None  # says that there are CUDA kernels

    def __init__(self, library: ctypes.CDLL, native) -> None:
        self.library, self.native = library, native

    def __getattr__(self, name: str):
        return getattr(self.native, name)

    def schedule(self, name: str, *, seed: int = 0) -> None:
        """The order in which blocks and threads run."""
        self.library.shim_schedule(SCHEDULES[name], seed)

    def cuda_device_usable(self, device: int) -> bool:
        return True

    def cuda_farthest_points(self, counts, options, points, *addresses) -> int:
        *addresses, _ = map(ctypes.c_void_p, (*addresses[:-1], None))
        return self.library.farthest((ctypes.c_int64 * 3)(*counts), options[0], ctypes.byref(_rows(points)), *addresses)

    def cuda_nearest(self, counts, options, points, queries, squares, index, place) -> int:
        rows = (ctypes.byref(_rows(points)), ctypes.byref(_rows(queries)))
        outputs = (ctypes.c_void_p(squares), ctypes.c_void_p(index))
        return self.library.nearest((ctypes.c_int64 * 3)(*counts), options[0], *rows, *outputs)


@pytest.fixture(scope="session")
def neighbour_library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda_neighbours_shim")
    (folder / "binding.cpp").write_text(BINDING)
    library = folder / "libneighbours_shim.so"
    sources = [folder / "binding.cpp", SHIM / "shim.cpp", ROOT / "cuda_ext" / "cuda" / "neighbours.cu"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", f"-I{SHIM}", f"-I{ROOT}/cuda_ext/cuda"]
    command = [COMPILER, *flags, "-x", "c++", *map(str, sources), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


@pytest.fixture
def shim(neighbour_library, monkeypatch):
    """The shim in the place of the GPU; memory that nobody wrote is NaN."""
    module = ShimModule(neighbour_library, ops.native_module())
    module.schedule("forward")
    monkeypatch.setattr(ops, "native_module", lambda: module)
    monkeypatch.setattr(cuda, "_usable", {})
    torch.use_deterministic_algorithms(True)
    yield module
    torch.use_deterministic_algorithms(False)


def masked(points: torch.Tensor) -> torch.Tensor:
    """A third of the rows missing, one of the others not finite."""
    points[:, 5, 0] = torch.nan
    return torch.rand(points.shape[:2], generator=torch.Generator().manual_seed(4)) < 0.7


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("make", [cloud, lattice])
@pytest.mark.parametrize("dims", [2, 3, 9])
def test_nearest_equals_the_cpu(shim, schedule, make, dims):
    shim.schedule(schedule, seed=1)
    points, queries = make(2, 90, dims), make(2, 150, dims, seed=1)
    mask, query_mask = masked(points), masked(queries)
    for num in (1, 3, 8, 12, 20):  # a list of each kind
        for args in ((points, mask, queries, query_mask, num), (points.double(), None, queries.double(), None, num)):
            for found, expected in zip(neighbours._nearest_cuda(*args), neighbours._nearest_cpu(*args), strict=True):
                assert torch.equal(found, expected), num


def test_points_of_several_tiles(shim):
    points, queries = cloud(1, 2500, 3), cloud(1, 9, 3, seed=1)  # a tile holds 1024
    for num in (1, 5, 33):
        args = (points, None, queries, None, num)
        for found, expected in zip(neighbours._nearest_cuda(*args), neighbours._nearest_cpu(*args), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("make", [cloud, lattice])
@pytest.mark.parametrize("shape", [(2, 1500, 3), (1, 8300, 3), (1, 1100, 5)])
def test_farthest_points_equal_the_cpu(shim, schedule, make, shape):
    shim.schedule(schedule, seed=1)
    points = make(*shape)
    mask, start = masked(points), torch.tensor([5, 0])[: shape[0]]  # row 5 does not exist
    for args in ((points, mask, start, 5), (points.double(), None, start, 3)):
        found, expected = neighbours._farthest_points_cuda(*args), neighbours._farthest_points_cpu(*args)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_too_few_rows(shim):
    points, mask = torch.rand(2, 4, 3), torch.tensor([[False, True, True, False], [False] * 4])
    for args in ((points, mask, torch.tensor([3, 0]), 4), (points[:, :0], None, torch.tensor([0, 0]), 2)):
        found, expected = neighbours._farthest_points_cuda(*args), neighbours._farthest_points_cpu(*args)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    for num in (3, 17):
        args = (points, mask, points, None, num)
        for found, expected in zip(neighbours._nearest_cuda(*args), neighbours._nearest_cpu(*args), strict=True):
            assert torch.equal(found, expected)
