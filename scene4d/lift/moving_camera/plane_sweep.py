"""Depth where no sensor measured: a plane sweep through the view until its neighbours show the same picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from scene4d.geometry.camera import invert_rigid, pixel_centres
from scene4d.geometry.frame_images import depth_of
from scene4d.lift.rgbd.depth_images import complete_depth, despeckled, sample_grids
from scene4d.types import Frames


@dataclass(frozen=True)
class PlaneSweepConfig:
    """Which planes are tried, and what decides."""

    num_planes: int = 32
    """Planes, evenly spread in inverse depth."""
    farthest: float = 6.0
    """The farthest plane, in multiples of the farthest depth that the frame measured."""
    reach: int = 2
    """Neighbours in time, before and after, that a frame is compared with."""
    patch: int = 9
    """Width in px of the patch whose mean colour difference decides."""
    clip: float = 0.12
    """Colour difference above which pixels are equally wrong."""
    pull: float = 0.004
    """Cost of leaving the depth of the nearest measured pixel, for a tenth of the range."""


def plane_sweep_depth(frames: Frames, *, config: PlaneSweepConfig | None = None) -> Tensor:
    """Depth [m h w] of frames [m] in time order: measured pixels as they are, the others by plane sweep.

    Each pixel takes the plane on which the better half of its neighbours in time (the others may be hidden) show its
    patch, and the depth of the nearest measured pixel where the pictures do not decide. Pixels without a usable
    colour (alpha) are not compared. Frames that measured nothing stay 0.

    Source: Collins, A Space-Sweep Approach to True Multi-Image Matching, 1996.
    """
    config = config or PlaneSweepConfig()
    count = frames.batch_shape[0]
    depth = complete_depth(depth_of(frames))
    for i in range(count):
        measured = depth_of(frames)[i] > 0
        others = [j for j in range(max(0, i - config.reach), min(count, i + config.reach + 1)) if j != i]
        if measured.all() or not measured.any() or not others:
            continue
        found = _depth_of_frame(frames, i, others=others, guess=depth[i], config=config)
        depth[i] = torch.where(measured, depth[i], found)
    return depth


def _depth_of_frame(
    frames: Frames, index: int, *, others: list[int], guess: Tensor, config: PlaneSweepConfig
) -> Tensor:
    """Depth [h w] of every pixel of one frame."""
    known = depth_of(frames)[index]
    known = known[known > 0]
    near, far = 0.8 * float(known.quantile(0.02)), config.farthest * float(known.quantile(0.98))
    planes = torch.linspace(1 / near, 1 / far, config.num_planes)
    costs = torch.stack([_cost(frames, index, other=j, planes=planes, config=config) for j in others])  # [v p h w]
    costs = costs.topk((len(others) + 1) // 2, dim=0, largest=False).values.mean(0)
    away = (1 / guess - planes[:, None, None]).abs() / (1 / near - 1 / far)
    costs = costs + config.pull * (10 * away).clamp_max(3.0)
    best = costs.argmin(0).clamp(1, config.num_planes - 2)
    before, here, after = (costs.gather(0, (best + k)[None])[0] for k in (-1, 0, 1))
    # The lowest point of the parabola through three costs.
    part = ((before - after) / (2 * (before + after - 2 * here)).clamp_min(1e-6)).clamp(-0.5, 0.5)
    inverse = planes[0] + (best + part) * (planes[1] - planes[0])
    return 1 / despeckled(inverse)


def _cost(frames: Frames, index: int, *, other: int, planes: Tensor, config: PlaneSweepConfig) -> Tensor:
    """Patch-wise colour difference [p h w] between one frame and another, were all its pixels on each plane."""
    cameras = frames.cameras
    width, height = cameras.width, cameras.height
    pose = invert_rigid(cameras.viewmats[index])
    pixels = pixel_centres(width, height, like=pose)
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ torch.linalg.inv(cameras.Ks[index]).T
    across = cameras.viewmats[other] @ pose
    # A point at depth z divided by z: the ray turned, plus the shift times inverse depth.
    x = (rays @ across[:3, :3].T)[None] + across[:3, 3] * planes[:, None, None, None]  # [p h w 3]
    x = x @ cameras.Ks[other].T
    there = x[..., :2] / x[..., 2:].clamp_min(1e-6)
    inside = (x[..., 2] > 1e-4) & (there > 0).all(-1) & (there < there.new_tensor([width, height])).all(-1)
    theirs = sample_grids(frames.rgb[other].movedim(-1, 0), there)
    difference = (theirs - frames.rgb[index].movedim(-1, 0)).abs().mean(1).clamp_max(config.clip)
    if frames.alpha is not None:
        # What has no usable colour counts neither for nor against a plane.
        usable = sample_grids(frames.alpha[other][None], there)[:, 0]
        inside = inside & (usable > 0.5) & (frames.alpha[index] > 0.5)
    difference = torch.where(inside, difference, config.clip)
    return avg_pool2d(difference[:, None], config.patch, 1, config.patch // 2, count_include_pad=False)[:, 0]
