"""An analytic scene: textured ground and boxes, ray-cast exactly, for tests that need truth and no simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.camera import invert_rigid, pixel_centres
from scene4d.types import Cameras, Frames


@dataclass(frozen=True)
class Box:
    """An axis-aligned box: lower and upper corner in m."""

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]


TABLE_SCENE = (Box((-0.2, -0.15, 0.0), (0.0, 0.1, 0.15)), Box((0.1, 0.0, 0.0), (0.25, 0.2, 0.25)))


def cast_boxes(cameras: Cameras, *, boxes: Sequence[Box] = TABLE_SCENE, wavelength: float = 0.15) -> Frames:
    """What cameras [*v] see of `boxes` on the endless ground z = 0.

    Colours are smooth products of sines of the world position, with a period of `wavelength` m: they do not depend on
    the view, so any two views agree. Rays that meet nothing have depth 0 and alpha 0.

    Returns:
        Frames [*v] with exact z-depth and extras segments [*v h w 1] int64 (0 ground, 1.. boxes, -1 nothing) and
        normals [*v h w 3].
    """
    world_from_cam = invert_rigid(cameras.viewmats)
    pixels = pixel_centres(cameras.width, cameras.height, like=cameras.Ks)
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)  # [h w 3]
    local = torch.einsum("...ij,hwj->...hwi", torch.linalg.inv(cameras.Ks), rays)  # z = 1: length is z-depth
    rays = torch.einsum("...ij,...hwj->...hwi", world_from_cam[..., :3, :3], local)
    origin = world_from_cam[..., None, None, :3, 3].expand_as(rays)
    depth = torch.where(rays[..., 2] < -1e-9, -origin[..., 2] / rays[..., 2], torch.inf)
    normals = torch.zeros_like(rays)
    normals[..., 2] = 1.0
    segments = torch.where(depth.isfinite(), 0, -1)
    for i, box in enumerate(boxes):
        hit, normal = _cast_box(origin, rays, box=box)
        nearer = hit < depth
        depth = torch.where(nearer, hit, depth)
        normals = torch.where(nearer[..., None], normal, normals)
        segments = torch.where(nearer, i + 1, segments)
    seen = depth.isfinite()
    depth = torch.where(seen, depth, 0.0)
    points = origin + rays * depth[..., None]
    rgb = torch.where(seen[..., None], _texture(points, segments, wavelength=wavelength), 0.0)
    extras = {"segments": segments[..., None], "normals": torch.where(seen[..., None], normals, 0.0)}
    return Frames(rgb=rgb, depth=depth, alpha=seen.to(depth), cameras=cameras, extras=extras)


def _cast_box(origin: Tensor, rays: Tensor, *, box: Box) -> tuple[Tensor, Tensor]:
    """Length (inf where missed) and outward normal where rays enter a box."""
    safe = torch.where(rays.abs() < 1e-12, torch.full_like(rays, 1e-12), rays)
    first, second = (origin.new_tensor(box.lower) - origin) / safe, (origin.new_tensor(box.upper) - origin) / safe
    enter, axis = torch.minimum(first, second).max(-1)
    leave = torch.maximum(first, second).amin(-1)
    hit = (enter < leave) & (enter > 0)
    normal = torch.nn.functional.one_hot(axis, 3).to(rays) * -safe.sign()
    return torch.where(hit, enter, torch.inf), normal


def _texture(points: Tensor, segments: Tensor, *, wavelength: float) -> Tensor:
    """Colour [... 3] of world points, different for every segment."""
    phase = segments[..., None].to(points) * points.new_tensor([1.0, 2.1, 3.3])
    waves = (2 * torch.pi / wavelength * points).sin()
    mixed = torch.stack([waves[..., 0] * waves[..., 1], waves[..., 1] + waves[..., 2], waves.sum(-1)], -1)
    return 0.5 + 0.2 * (mixed + phase.sin()) / 1.5
