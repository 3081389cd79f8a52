"""The CUDA kernels on a GPU: the CPU's meaning, the same bits every time, gsplat's picture. Skipped without a GPU."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest
import torch
from raster_cases import CASES, DEGENERATE, SETTINGS, arguments, both_ways, crowd, some_inputs

from scene4d.errors import ResourceError
from scene4d.native import cuda, ops
from scene4d.native.ops import RasterSettings, rasterize
from scene4d.render.gsplat_backend import render_gsplat
from scene4d.render.render import render

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
    pytest.mark.skipif(not hasattr(ops.native_module(), "cuda_prepare"), reason="scene4d was built without CUDA"),
]

FORWARD, BACKWARD = torch.ops.scene4d.rasterize, torch.ops.scene4d.rasterize_backward


def on_gpu(args) -> tuple:
    return tuple(x.cuda() if isinstance(x, torch.Tensor) else x for x in args)


def gpu_both_ways(args, **options) -> dict[str, torch.Tensor]:
    return both_ways(FORWARD, BACKWARD, on_gpu(args), **options)


def assert_same_picture(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The approximations of the GPU may move a pixel across the cut-off at 1 / 255: a few values may differ."""
    for name, x in expected.items():
        y = found[name].cpu()
        assert y.shape == x.shape and y.isfinite().all(), name
        if not x.numel() or not x.any():
            assert not y.any(), name
            continue
        off = (y - x).abs() > 3e-5 * x.abs().max()
        assert off.float().mean() < 2e-3 and (y - x).norm() < 3e-4 * x.norm(), name


def test_a_gpu_of_a_supported_kind_is_used():
    assert cuda.why_not(torch.device("cuda", 0)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpu_both_ways(CASES["crowd"]())["rgb"].is_cuda


@pytest.mark.parametrize("case", [*CASES, *DEGENERATE])
def test_equals_the_cpu(case):
    args = {**CASES, **DEGENERATE}[case]()
    expected = both_ways(FORWARD, BACKWARD, args)
    if case in ("not finite", "near plane"):  # gradients of rows on the edge of float32 are finite, not comparable
        found = gpu_both_ways(args)
        assert all(x.isfinite().all() for x in found.values())
        found, expected = ({name: x[name] for name in ops.Raster._fields} for x in (found, expected))
        return assert_same_picture(found, expected)
    return assert_same_picture(gpu_both_ways(args), expected)


def test_fast_functions_equal_the_plain_ones():
    values = torch.cat([torch.linspace(-100, 0, 100_001), torch.linspace(1e-3, 1, 100_001)]).cuda()
    out = values.new_empty(4, len(values))
    status = ops.native_module().cuda_compare_math(
        values.data_ptr(), len(values), out.data_ptr(), 0, torch.cuda.current_stream().cuda_stream
    )
    fast_power, power, fast_inverse, inverse = out.cpu().double()
    exact, positive = torch.exp2(values.cpu().double()), values.cpu() > 0
    assert status == 0
    assert ((power / exact - 1).abs() < 3e-7).all() and ((fast_power / exact - 1).abs() < 6e-7).all()
    assert ((fast_inverse / inverse - 1).abs()[positive] < 3e-7).all()


def large_case(num: int = 30_000, *, views: int = 2):
    gaussians, cameras = some_inputs(num, sets=2, views=views)
    gaussians["scales"] *= 0.3
    cameras["Ks"] = cameras["Ks"] * torch.tensor([[8.0], [8.0], [1.0]])
    return arguments(gaussians, cameras, RasterSettings(width=296, height=168, median=True, radii=True))


def test_a_larger_scene_equals_the_cpu():
    args = large_case()
    assert_same_picture(gpu_both_ways(args), both_ways(FORWARD, BACKWARD, args))


def test_gives_the_same_bits_every_time():
    args = large_case()
    first = gpu_both_ways(args)
    for _ in range(3):
        assert all(torch.equal(x, first[name]) for name, x in gpu_both_ways(args).items())


def test_through_autograd_and_with_kept_lists():
    gaussians, cameras = some_inputs(500, grads=True)
    moved = {k: x.detach().cuda().requires_grad_(x.requires_grad) for k, x in gaussians.items()}
    views = {k: x.detach().cuda().requires_grad_(x.requires_grad) for k, x in cameras.items()}
    for g, c in ((gaussians, cameras), (moved, views)):
        raster = rasterize(g, c, settings=SETTINGS)
        (raster.rgb.square().sum() + raster.depth.sum() + raster.extras.sum()).backward()
    expected = {name: x.grad for name, x in {**gaussians, **cameras}.items() if x.grad is not None}
    assert_same_picture({name: x.grad for name, x in {**moved, **views}.items() if x.grad is not None}, expected)


def test_on_a_stream_of_its_own():
    args = on_gpu(large_case())
    expected = FORWARD(*args)[0]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = FORWARD(*args)[0]
    stream.synchronize()
    assert torch.equal(found, expected)


def test_too_much_is_refused_with_an_estimate(monkeypatch):
    monkeypatch.setattr(cuda, "MAX_ENTRIES", 1000)
    with pytest.raises(ResourceError, match=r"\d+ pairs of a Gaussian and a tile"):
        gpu_both_ways(large_case())


def test_a_million_on_one_pixel():
    gaussians, cameras = some_inputs(1_000_000, sets=1, views=1, extras=0)
    gaussians["means"] = torch.tensor([0.0, 0.0, 2.0]) + 1e-4 * gaussians["means"]
    gaussians["scales"] *= 0.01
    found = gpu_both_ways(arguments(gaussians, cameras, SETTINGS))
    assert all(x.isfinite().all() for x in found.values())


def test_a_gpu_without_code_for_it_draws_on_the_cpu(monkeypatch):
    monkeypatch.setattr(cuda, "_warned", set())
    monkeypatch.setattr(cuda, "_usable", {torch.cuda.current_device(): False})
    args = CASES["crowd"]()
    with pytest.warns(UserWarning, match="no code for"):
        found = FORWARD(*on_gpu(args))
    assert found[0].is_cuda and torch.equal(found[0].cpu(), FORWARD(*args)[0])


@pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed")
@pytest.mark.parametrize("antialiased", [False, True])
def test_draws_what_gsplat_draws(antialiased):
    sys.path.insert(0, str(Path(__file__).parents[1] / "render"))
    from render_scenes import require_grads, some_cameras, some_gaussians

    scene = some_gaussians(3000).map(lambda x: x.cuda())
    cameras = some_cameras(310, 203).map(lambda x: x.cuda())
    results = []
    for draw in (render, render_gsplat):
        gaussians, views, leaves = require_grads(scene, cameras)
        frames = draw(gaussians, views, extras=("features",), antialiased=antialiased)
        (frames.rgb.square().sum() + frames.extras["features"].sum()).backward()
        results.append((frames, leaves))
    (ours, our_leaves), (theirs, their_leaves) = results
    assert (ours.rgb - theirs.rgb).abs().mean() < 1e-3 and (ours.alpha - theirs.alpha).abs().mean() < 1e-3
    for name in ("quats", "scales", "opacities", "sh", "features"):  # colour pulls on gsplat's means and cameras
        a, b = our_leaves[name].grad.flatten(), their_leaves[name].grad.flatten()
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.999, name


def test_crowd_is_deterministic_under_gradients_of_everything():
    args = arguments(*crowd(400, sets=2, extras=11), SETTINGS)
    first, second = gpu_both_ways(args), gpu_both_ways(args)
    assert all(torch.equal(x, second[name]) for name, x in first.items())
