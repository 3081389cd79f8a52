"""What lies beyond every measured surface: a far shell of Gaussians that shows each direction's mean colour."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scene4d.geometry.camera import invert_rigid, pixel_centres
from scene4d.geometry.frame_images import depth_of
from scene4d.geometry.neighbours import nearest
from scene4d.geometry.sh import sh_from_rgb
from scene4d.lift.rgbd.unproject import surface_quats
from scene4d.types import Frames, Gaussians

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def sky_shell(frames: Frames, *, reach: float, num: int = 4000, stride: int = 4) -> Gaussians:
    """A shell of `num` Gaussians with radius `reach` m round the mean centre of cameras [m].

    Each has the mean colour of the unmeasured pixels that look in its direction; directions without any take it from
    their neighbours, and those that nothing ever looked at from all pixels. A guess that beats a hole, hence confidence
    0.
    """
    world_from_cam = invert_rigid(frames.cameras.viewmats)
    centre = world_from_cam[:, :3, 3].mean(0)
    pixels = pixel_centres(frames.cameras.width, frames.cameras.height, like=centre)[::stride, ::stride].flatten(0, 1)
    rays = torch.cat([pixels, torch.ones_like(pixels[:, :1])], -1)
    rays = (rays @ torch.linalg.inv(frames.cameras.Ks).mT) @ world_from_cam[:, :3, :3].mT  # [m p 3]
    rays = torch.nn.functional.normalize(rays, dim=-1)
    # Where a ray from a camera meets the shell, as seen from its centre.
    offset = (world_from_cam[:, None, :3, 3] - centre) / reach
    along = (rays * offset).sum(-1, keepdim=True)
    length = -along + (along * along + (1 - (offset * offset).sum(-1, keepdim=True)).clamp_min(0.0)).sqrt()
    hits = torch.nn.functional.normalize(offset + rays * length, dim=-1).flatten(0, 1)
    colours = frames.rgb[:, ::stride, ::stride].flatten(0, 2)
    measured = (depth_of(frames)[:, ::stride, ::stride] > 0).flatten()
    directions = _sphere(num, like=centre)
    _, cell = nearest(directions, hits, num=1)
    weights = torch.where(measured, 1e-3, 1.0)[:, None]
    total = torch.zeros_like(directions).index_add_(0, cell[:, 0], colours * weights)
    weight = torch.zeros(num, 1).to(total).index_add_(0, cell[:, 0], weights)
    _, around = nearest(directions, directions, num=9)
    filled, support = total, weight
    while bool((support == 0).any()) and bool((support > 0).any()):
        spread, shared = filled[around].sum(1), support[around].sum(1)
        empty = support == 0
        filled, support = torch.where(empty, spread, filled), torch.where(empty, shared, support)
    means = centre + reach * directions
    size = torch.full((num,), 0.6 * reach * math.sqrt(4 * math.pi / num)).to(means)
    return Gaussians(
        means=means,
        quats=surface_quats(-directions, -directions),
        scales=torch.stack([size, size, 0.05 * size], -1),
        opacities=torch.full_like(size, 0.98),
        sh=sh_from_rgb(filled / support.clamp_min(1e-9)),
        extras={"confidence": torch.zeros(num, 1).to(means), "normals": -directions},
    )


def shell_radius(points: Tensor, frames: Frames) -> float:
    """Radius in m of a shell round the mean centre of cameras [m] that lies behind nearly all points [n 3]."""
    centre = invert_rigid(frames.cameras.viewmats)[:, :3, 3].mean(0)
    return 1.5 * float((points - centre).norm(dim=-1)[:: max(1, len(points) // 10000)].quantile(0.99)) + 0.5


def _sphere(num: int, *, like: Tensor) -> Tensor:
    """Evenly spread unit directions [num 3]."""
    index = torch.arange(num, dtype=like.dtype, device=like.device) + 0.5
    z = 1 - 2 * index / num
    ring = (1 - z * z).sqrt()
    return torch.stack([ring * (GOLDEN_ANGLE * index).cos(), ring * (GOLDEN_ANGLE * index).sin(), z], -1)
