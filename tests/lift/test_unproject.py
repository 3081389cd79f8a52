"""Lifting against the truth of an analytic scene: positions, normals, sizes, and the picture it gives back."""

import pytest
import torch

from scene4d.errors import DepthError
from scene4d.geometry.camera import project
from scene4d.geometry.rotation import matrix_from_quat
from scene4d.lift.rgbd.deblur_colours import DeblurConfig, deblur_colours
from scene4d.lift.rgbd.unproject import LiftConfig, lift_frames, surface_from_depth
from scene4d.render.losses import psnr
from scene4d.render.render import render
from scene4d.types import Cameras, Frames


def test_one_gaussian_a_valid_pixel_in_its_place(table):
    frames = table(20.0, 160.0)
    gaussians = lift_frames(frames, config=LiftConfig(drop_flying=False, keep_pixels=True))
    assert gaussians.num_gaussians == int((frames.depth > 0).sum())
    for v in range(2):
        mine = (gaussians.extras["pixel"][:, 0] // 64**2) == v
        pixels, depth = project(gaussians.means[mine], frames.cameras.viewmats[v], Ks=frames.cameras.Ks[v])
        index = gaussians.extras["pixel"][mine, 0] % 64**2
        torch.testing.assert_close(pixels[:, 0], index % 64 + 0.5, atol=1e-3, rtol=0)
        torch.testing.assert_close(pixels[:, 1], index // 64 + 0.5, atol=1e-3, rtol=0)
        torch.testing.assert_close(depth, frames.depth[v].flatten()[index])
    segments = frames.extras["segments"][frames.depth > 0]
    assert torch.equal(gaussians.extras["segments"], segments)


def test_normals_are_those_of_the_surface(table):
    frames = table(20.0, size=96)
    surface = surface_from_depth(frames)
    inner = (frames.depth > 0) & ~surface.edge
    agreement = (surface.normals * frames.extras["normals"]).sum(-1)[inner]
    assert (agreement > 0.999).float().mean() > 0.95
    gaussians = lift_frames(frames)
    thin = matrix_from_quat(gaussians.quats)[:, :, 2]
    torch.testing.assert_close(thin, gaussians.extras["normals"], atol=1e-4, rtol=0)
    assert (gaussians.scales[:, 2] < gaussians.scales[:, :2].amin(1)).all()
    confidence = gaussians.extras["confidence"]
    assert (confidence >= 0).all() and (confidence <= 1).all()


def test_flying_pixels_are_dropped():
    depth = torch.full((1, 20, 20), 1.0)
    depth[:, :, 10:] = 2.0
    depth[:, :, 10] = 1.5  # halfway between the two surfaces
    camera = _front_camera(20)
    frames = _plain(depth, camera)
    kept = lift_frames(frames, config=LiftConfig(keep_pixels=True)).extras["pixel"][:, 0] % 20
    assert not (kept == 10).any() and set(kept.tolist()) == set(range(20)) - {10}


def test_a_slanted_plane_is_no_edge():
    camera = _front_camera(32)
    x = torch.linspace(-0.4, 0.4, 32)
    depth = (1 / (1.0 + 0.9 * x)).expand(1, 32, 32).contiguous()
    surface = surface_from_depth(_plain(depth, camera))
    assert not surface.edge.any() and not surface.flying.any()


def test_the_lift_shows_its_own_views_sharply(table):
    frames = table(20.0, 160.0, wavelength=0.25)
    gaussians = lift_frames(frames)
    sharp = deblur_colours(gaussians, frames, config=DeblurConfig(eps2d=0.1))
    before = psnr(render(gaussians, frames.cameras, eps2d=0.1).rgb, frames.rgb)
    after = psnr(render(sharp, frames.cameras, eps2d=0.1).rgb, frames.rgb)
    assert (before > 26).all() and (after > 30).all() and (after > before).all()


def test_unusable_pixels_and_missing_depth(table):
    frames = table(20.0)
    half = frames.alpha.clone()
    half[:, :, 32:] = 0.0
    assert lift_frames(frames.replace(alpha=half)).num_gaussians < 0.6 * lift_frames(frames).num_gaussians
    nothing = frames.replace(depth=torch.zeros_like(frames.depth))
    assert lift_frames(nothing).num_gaussians == 0
    with pytest.raises(DepthError):
        lift_frames(frames.replace(depth=None))


def _front_camera(size):
    focal = 3.0 * size
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    return Cameras(viewmats=torch.eye(4)[None], Ks=K[None], width=size, height=size)


def _plain(depth, cameras):
    return Frames(rgb=torch.full((*depth.shape, 3), 0.5), depth=depth, alpha=None, cameras=cameras)
