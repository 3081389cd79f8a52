"""The gsplat backend: what it hands to gsplat, and what it says when there is none (test_cuda.py compares pictures)."""

from __future__ import annotations

import pytest
import torch
from render_scenes import require_grads, some_cameras, some_gaussians

from scene4d.errors import ConfigError, EnvError
from scene4d.native.ops import RasterSettings
from scene4d.render import gsplat_backend
from scene4d.render.gsplat_backend import render_gsplat
from scene4d.render.reference import rasterize_reference
from scene4d.render.render import render


def gsplat_in_torch(
    *, means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane, eps2d, packed,
    rasterize_mode, sh_degree, render_mode, backgrounds=None,
):  # fmt: skip
    """gsplat.rasterization as its documentation has it, drawn by the reference."""
    assert not packed and render_mode == ("RGB" if sh_degree is None else "RGB+ED")
    columns = colors if sh_degree is None else means[..., :0]
    sh = means[..., None, :] * 0 if sh_degree is None else colors
    assert sh_degree is None or sh.shape[-2] == (sh_degree + 1) ** 2
    gaussians = dict(means=means, quats=quats, scales=scales, opacities=opacities, sh=sh, extras=columns)
    gaussians["ids"] = torch.zeros(opacities.shape, dtype=torch.int64)
    settings = RasterSettings(
        width, height, eps2d, near_plane, far_plane, antialiased=rasterize_mode == "antialiased", radii=True
    )
    raster = rasterize_reference(gaussians, dict(viewmats=viewmats, Ks=Ks, background=backgrounds), settings=settings)
    depth = torch.where(raster.alpha > 0, raster.depth, 0.5)[..., None]  # whatever it is where nothing was blended
    channels = raster.extras if sh_degree is None else torch.cat([raster.rgb, depth], -1)
    return channels, raster.alpha[..., None], {"radii": raster.radii.int()}


@pytest.mark.parametrize("antialiased", [False, True])
def test_is_the_same_call(monkeypatch, antialiased):
    monkeypatch.setattr(gsplat_backend, "gsplat_rasterization", lambda: gsplat_in_torch)
    scene = some_gaussians(60, batch=(2,))
    ids = scene.ids.clone()
    ids[:, 3] = -1
    scene = scene.replace(ids=ids, means=scene.means.index_fill(1, torch.tensor([5]), float("nan")))
    cameras = some_cameras(31, 22).map(lambda x: x.expand(2, *x.shape))
    options = dict(background=torch.tensor([0.1, 0.2, 0.3]), extras=("features",), antialiased=antialiased)
    grads = []
    for draw in (render, render_gsplat):
        gaussians, views, leaves = require_grads(scene, cameras)
        frames = draw(gaussians, views, **options)
        (frames.rgb.square().sum() + frames.depth.sum() + frames.extras["features"].sum()).backward()
        grads.append((frames, {name: x.grad for name, x in leaves.items()}))
    (ours, our_grads), (theirs, their_grads) = grads
    for a, b in ((ours.rgb, theirs.rgb), (ours.depth, theirs.depth), (ours.alpha, theirs.alpha)):
        assert torch.allclose(a, b, atol=1e-4)
    for name, grad in our_grads.items():
        assert torch.allclose(grad, their_grads[name], rtol=1e-3, atol=1e-3 * grad.abs().max()), name


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvError, match="CUDA GPU"):
        render_gsplat(some_gaussians(5), some_cameras())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "gsplat", None)
    with pytest.raises(EnvError, match="not installed"):
        render_gsplat(some_gaussians(5), some_cameras())


def test_refuses_what_gsplat_does_not_have(monkeypatch):
    monkeypatch.setattr(gsplat_backend, "gsplat_rasterization", lambda: gsplat_in_torch)
    with pytest.raises(ConfigError, match="median"):
        render_gsplat(some_gaussians(5), some_cameras(), extras=("depth_median",))
