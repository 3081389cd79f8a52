"""Pinhole cameras, OpenCV: x right, y down, z forward; pixel (row i, column j) has its centre at (j + 0.5, i + 0.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scene4d.geometry.rotation import rigid_matrix
from scene4d.types import Cameras

CV_FROM_GL = (1.0, -1.0, -1.0)


def invert_rigid(matrices: Tensor) -> Tensor:
    """b_from_a of rigid a_from_b [..., 4, 4]."""
    rotation = matrices[..., :3, :3].transpose(-1, -2)
    top = torch.cat([rotation, -rotation @ matrices[..., :3, 3:]], -1)
    return torch.cat([top, matrices[..., 3:, :]], -2)


def transform_points(matrices: Tensor, points: Tensor) -> Tensor:
    """Points [*b p 3] moved by rigid a_from_b [*b 4 4]."""
    return points @ matrices[..., :3, :3].transpose(-1, -2) + matrices[..., None, :3, 3]


def opencv_from_opengl(world_from_cam: Tensor) -> Tensor:
    """World-from-camera of an OpenCV camera from that of an OpenGL one (y and z flipped), [..., 4, 4]."""
    return world_from_cam * world_from_cam.new_tensor([*CV_FROM_GL, 1.0])


def project(points: Tensor, viewmats: Tensor, *, Ks: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [*b p 2] and z-depth [*b p] m of world points [*b p 3]; a depth <= 0 is behind the camera."""
    cam = transform_points(viewmats, points)
    depth = cam[..., 2]
    safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
    pixels = cam[..., :2] / safe[..., None] * torch.stack([Ks[..., 0, 0], Ks[..., 1, 1]], -1)[..., None, :]
    skew = cam[..., 1] / safe * Ks[..., 0, 1, None]
    pixels = pixels + torch.stack([skew, torch.zeros_like(skew)], -1) + Ks[..., None, :2, 2]
    return pixels, depth


def pixel_centres(width: int, height: int, *, like: Tensor) -> Tensor:
    """(x, y) of every pixel centre, [h w 2]."""
    ys = torch.arange(height, dtype=like.dtype, device=like.device) + 0.5
    xs = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)


def unproject(depth: Tensor, viewmats: Tensor, *, Ks: Tensor) -> Tensor:
    """World points [*b h w 3] of z-depth [*b h w] m."""
    height, width = depth.shape[-2:]
    pixels = pixel_centres(width, height, like=depth).flatten(0, 1)
    rays = torch.cat([pixels, torch.ones_like(pixels[:, :1])], -1) @ torch.linalg.inv(Ks).mT  # [*b h*w 3], z = 1
    cam = rays * depth.flatten(-2)[..., None]
    return transform_points(invert_rigid(viewmats), cam).unflatten(-2, (height, width))


def look_at(eye: Tensor, target: Tensor, *, up: Tensor | None = None) -> Tensor:
    """Viewmats [*b 4 4] of cameras at `eye` [*b 3] that look at `target` [*b 3], image top towards `up` (world z)."""
    up = eye.new_tensor([0.0, 0.0, 1.0]) if up is None else up
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    side = torch.linalg.cross(forward, up.expand(forward.shape))
    # Looking straight along `up` leaves the roll free: take world x for the image's right.
    side = torch.where(side.norm(dim=-1, keepdim=True) < 1e-6, eye.new_tensor([1.0, 0.0, 0.0]), side)
    right = torch.nn.functional.normalize(side, dim=-1)
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward], -2)
    return rigid_matrix(rotation, (-rotation @ eye[..., None])[..., 0])


def intrinsics_from_fov(fov_y: float, *, width: int, height: int) -> Tensor:
    """K [3 3] of a centred camera with square pixels and a vertical field of view in radians."""
    focal = 0.5 * height / math.tan(0.5 * fov_y)
    return torch.tensor([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])


def orbit(
    center: Tensor,
    *,
    radius: float,
    elevation: float,
    num_views: int,
    width: int,
    height: int,
    fov_y: float = 0.785,
    azimuths: Tensor | None = None,
) -> Cameras:
    """Cameras on a horizontal circle round `center` [3], looking at it from `elevation` rad above the horizon.

    `azimuths` [num_views] rad; by default one full turn.
    """
    if azimuths is None:
        azimuths = torch.arange(num_views, dtype=center.dtype) * (2 * math.pi / num_views)
    flat, up = math.cos(elevation), torch.full_like(azimuths, math.sin(elevation))
    places = center + radius * torch.stack([azimuths.cos() * flat, azimuths.sin() * flat, up], -1)
    K = intrinsics_from_fov(fov_y, width=width, height=height).to(center)
    viewmats = look_at(places, center.expand_as(places))
    return Cameras(viewmats=viewmats, Ks=K.expand(num_views, 3, 3), width=width, height=height)
