"""The CUDA kernels, executed on the host: same meaning as the CPU kernels, same bits in any order of threads."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import warnings

import pytest
import torch
from cuda_shim import SHIM, ShimModule, build
from raster_cases import (
    CASES,
    DEGENERATE,
    SETTINGS,
    arguments,
    assert_close,
    both_ways,
    crowd,
    gradients_of_images,
    some_inputs,
)

from scene4d.errors import ResourceError
from scene4d.native import cuda, ops

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def cuda_both_ways(args, **options):
    return both_ways(cuda.rasterize_cuda, cuda.rasterize_backward_cuda, args, **options)


def cpu_both_ways(args, **options):
    return both_ways(ops._rasterize_cpu, ops._rasterize_backward_cpu, args, **options)


pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cuda_shim"), compiler=COMPILER)


@pytest.fixture
def shim(library, monkeypatch):
    """The shim in the place of the GPU; memory that nobody wrote is NaN."""
    module = ShimModule(library, ops.native_module())
    module.schedule("forward")
    monkeypatch.setattr(ops, "native_module", lambda: module)
    torch.use_deterministic_algorithms(True)
    yield module
    torch.use_deterministic_algorithms(False)
    monkeypatch.undo()


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_cpu(shim, case, schedule):
    args = CASES[case]()
    shim.schedule(schedule, seed=1)
    assert_close(cuda_both_ways(args), cpu_both_ways(args))


@pytest.mark.parametrize("case", ["crowd", "many channels"])
def test_any_order_of_threads_gives_the_same_bits(shim, case):
    args = CASES[case]()
    results = []
    for schedule, seed in [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)]:
        shim.schedule(schedule, seed=seed)
        results.append(cuda_both_ways(args))
    for other in results[1:]:
        assert all(torch.equal(x, other[name]) for name, x in results[0].items())


@pytest.mark.parametrize("num_bases", [1, 4, 9, 16])
def test_every_sh_degree(shim, num_bases):
    gaussians, cameras = some_inputs(40)
    random = torch.Generator().manual_seed(5)
    gaussians["sh"] = 0.4 * torch.randn(2, 40, num_bases, 3, generator=random)
    args = arguments(gaussians, cameras, SETTINGS)
    assert_close(cuda_both_ways(args), cpu_both_ways(args))


def test_images_without_a_gradient(shim):
    args = arguments(*crowd(60), SETTINGS)
    full = gradients_of_images(ops._rasterize_cpu(*args))
    for given in range(4):
        v_images = [x if i == given else None for i, x in enumerate(full)]
        assert_close(cuda_both_ways(args, v_images=v_images), cpu_both_ways(args, v_images=v_images))


def test_only_wanted_gradients_are_computed(shim):
    args = arguments(*crowd(60), SETTINGS)
    full = cuda_both_ways(args)
    for index, name in enumerate(ops._GRADS):
        found = cuda_both_ways(args, wanted=[i == index for i in range(len(ops._GRADS))])
        assert torch.equal(found[f"v_{name}"], full[f"v_{name}"])
        assert all(found[f"v_{other}"].numel() == 0 for other in ops._GRADS if other != name)


@pytest.mark.parametrize("case", DEGENERATE)
def test_nothing_to_draw_and_degenerate_rows(shim, case):
    args = DEGENERATE[case]()
    found, expected = cuda_both_ways(args), cpu_both_ways(args)
    assert all(x.isfinite().all() for x in found.values())
    assert_close({k: found[k] for k in ops.Raster._fields}, {k: expected[k] for k in ops.Raster._fields})
    if case in ("none", "behind", "beside"):
        assert all(not x.any() for name, x in found.items() if name != "rgb")


def test_lists_of_a_token_are_used_and_given_back(shim, monkeypatch):
    args = arguments(*some_inputs(40), SETTINGS, token=77)
    again = cuda_both_ways(arguments(*some_inputs(40), SETTINGS))
    shim.calls.clear()
    kept = cuda_both_ways(args)
    assert shim.calls == ["prepare"] and all(torch.equal(x, again[name]) for name, x in kept.items())
    cuda.release(77)
    assert cuda._kept.get(77) is None
    monkeypatch.setattr(cuda, "KEPT_BYTES", 1)
    shim.calls.clear()
    cuda_both_ways(args)
    assert shim.calls == ["prepare", "prepare"]


def test_too_many_pairs_are_refused_with_an_estimate(shim, monkeypatch):
    args = arguments(*some_inputs(40), SETTINGS)
    monkeypatch.setattr(cuda, "MAX_ENTRIES", 100)
    with pytest.raises(ResourceError, match=r"\d+ pairs of a Gaussian and a tile"):
        cuda.rasterize_cuda(*args)
    monkeypatch.setattr(cuda, "MAX_ROWS", 100)
    with pytest.raises(ResourceError, match="fewer views"):
        cuda.rasterize_cuda(*args)


def test_without_cuda_it_runs_on_the_cpu_and_says_so_once(monkeypatch):
    monkeypatch.setattr(cuda, "_warned", set())
    monkeypatch.setattr(cuda, "why_not", lambda device: "scene4d was built without CUDA")
    args = arguments(*some_inputs(40), SETTINGS)
    with pytest.warns(UserWarning, match="without CUDA"):
        found = cuda.rasterize_cuda(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = cuda.rasterize_cuda(*args)
    expected = ops._rasterize_cpu(*args)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(expected, found, again, strict=True))


REVERSAL = """
#include "shim.h"
template <bool BARRIER> void reversal(int* out) {
  int* shared = static_cast<int*>(shim::shared_bytes(256));
  shared[threadIdx.x] = threadIdx.x;
  if (BARRIER) __syncthreads();
  out[threadIdx.x] = shared[63 - threadIdx.x];
}
extern "C" void run(int barrier, int schedule, int* out) {
  shim::set_schedule(static_cast<shim::Schedule>(schedule), 0);
  shim::run(1, 64, [=] { barrier ? reversal<true>(out) : reversal<false>(out); });
}
"""


def test_the_shim_shows_a_missing_barrier(tmp_path):
    (tmp_path / "reversal.cpp").write_text(REVERSAL)
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", f"-I{SHIM}"]
    sources = [str(tmp_path / "reversal.cpp"), str(SHIM / "shim.cpp")]
    subprocess.run([COMPILER, *flags, *sources, "-o", str(tmp_path / "reversal.so")], check=True)
    run = ctypes.CDLL(str(tmp_path / "reversal.so")).run
    outputs = {}
    for barrier in (0, 1):
        for schedule in (0, 1, 2):
            out = (ctypes.c_int * 64)()
            run(barrier, schedule, out)
            outputs[barrier, schedule] = list(out)
    right = list(range(63, -1, -1))
    assert all(outputs[1, schedule] == right for schedule in (0, 1, 2))
    assert outputs[0, 0] != right and outputs[0, 0] != outputs[0, 1]
