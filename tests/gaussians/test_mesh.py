"""Meshes fused from exact depth lie on the surface, face outwards, close, and have its colours; holes stay holes."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from ball import CENTER, RADIUS, ball_colors, ball_frames

from scene4d.errors import EnvError, ResourceError, ShapeError
from scene4d.gaussians.formats.mesh import fitting_voxel, fuse_depth, mesh_from_depth, mesh_from_tsdf
from scene4d.geometry.camera import invert_rigid

VOXEL = 0.02


def errors(vertices: torch.Tensor) -> torch.Tensor:
    return (vertices - torch.tensor(CENTER)).norm(dim=-1) - RADIUS


@pytest.fixture(scope="module")
def frames():
    return ball_frames()


@pytest.fixture(scope="module")
def mesh(frames):
    pytest.importorskip("skimage")
    return mesh_from_depth(frames, voxel=VOXEL)


def test_the_surface_is_where_it_was_seen(mesh):
    off = errors(mesh.vertices)
    assert off.abs().mean() < 0.15 * VOXEL and off.abs().max() < 0.5 * VOXEL
    assert len(mesh.faces) > 2000


def test_it_is_closed_and_faces_outwards(mesh):
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    forward = {tuple(e) for e in edges.tolist()}
    assert len(forward) == len(edges) and all((b, a) in forward for a, b in forward)
    a, b, c = (mesh.vertices[mesh.faces[:, i]].double() for i in range(3))
    volume = float((a * torch.linalg.cross(b, c)).sum() / 6)
    assert volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)


def test_colours_are_those_of_the_place(mesh):
    assert (mesh.colors - ball_colors(mesh.vertices)).abs().mean() < 0.01


def test_what_one_side_saw_is_an_open_shell_on_that_side(frames):
    pytest.importorskip("skimage")
    one = frames[8]
    shell = mesh_from_depth(one, voxel=VOXEL)
    assert errors(shell.vertices).abs().max() < VOXEL
    eye = invert_rigid(one.cameras.viewmats)[:3, 3]
    seen = ((shell.vertices - torch.tensor(CENTER)) * (eye - torch.tensor(CENTER))).sum(-1) > 0
    assert seen.float().mean() > 0.99 and 0.2 < len(shell.faces) / 4000 < 0.6


def test_free_space_carves_what_one_image_got_wrong(frames):
    pytest.importorskip("skimage")
    depth = frames.depth.clone()
    depth[0, 30:36, 30:36] = 0.6  # a ghost before the ball, that every other image looks through
    depth[1, 30:36, 30:36] = torch.nan
    carved = mesh_from_depth(frames.replace(depth=depth), voxel=VOXEL, min_weight=2, min_faces=8)
    assert errors(carved.vertices).abs().max() < 2.5 * VOXEL
    assert len(carved.faces) > 2000


def test_low_coverage_is_a_hole_and_pieces_that_are_small_go(frames):
    alpha = torch.ones_like(frames.depth)
    alpha[:, :, 36:] = 0.4
    half = fuse_depth(frames.replace(alpha=alpha), voxel=VOXEL)
    whole = fuse_depth(frames, voxel=VOXEL)
    assert 0.3 < half.weights.sum() / whole.weights.sum() < 0.7
    pytest.importorskip("skimage")
    assert len(mesh_from_tsdf(half, min_faces=10**6).faces) == 0


def test_the_voxel_fits_the_pixels(frames):
    pixel = 0.9 / float(frames.cameras.Ks[0, 0, 0])
    assert fitting_voxel(frames) == pytest.approx(pixel, rel=0.15)


def test_nothing_seen_and_too_much_are_named(frames, monkeypatch):
    with pytest.raises(ShapeError, match="depth"):
        fuse_depth(frames.replace(depth=torch.zeros_like(frames.depth)))
    with pytest.raises(ShapeError, match="depth"):
        fuse_depth(frames.replace(depth=None))
    with pytest.raises(ResourceError, match="larger voxel") as caught:
        fuse_depth(frames, voxel=1e-4)
    assert caught.value.field == "voxel" and caught.value.exit_code == 4
    field = fuse_depth(frames, voxel=0.05)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(EnvError, match=r"scene4d\[geometry\]"):
        mesh_from_tsdf(field)
