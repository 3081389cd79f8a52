"""RGB-D to Gaussians: one flat, footprint-sized, normal-aligned splat for every pixel with a depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scene4d.check import check
from scene4d.geometry.camera import invert_rigid, unproject
from scene4d.geometry.frame_images import depth_of
from scene4d.geometry.rotation import quat_from_matrix
from scene4d.geometry.sh import sh_from_rgb
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class LiftConfig:
    """How a pixel becomes a Gaussian."""

    footprint: float = 0.4
    """Standard deviation of a splat in pixel spacings at its depth; the renderer's `eps2d` comes on top of it."""
    max_stretch: float = 2.0
    """Longest stretch along a slanted surface (1 / cos of the incidence angle), in footprints."""
    thickness: float = 0.1
    """Standard deviation along the normal, in footprints."""
    opacity: float = 0.98
    """Opacity of every splat."""
    max_slope: float = 8.0
    """Depth change over one pixel, in pixel spacings, from which two neighbours lie on different surfaces."""
    edge_confidence: float = 0.3
    """Confidence factor of pixels beside a depth edge."""
    noise_depth: float = 3.0
    """Depth in m at which sensor noise halves the confidence (it grows with the square)."""
    drop_flying: bool = True
    """Drop pixels that float between a near and a far surface."""
    keep_pixels: bool = False
    """Add extras pixel [n 1]: the flat index of the source pixel in [v h w]."""


@dataclass(frozen=True)
class Surface:
    """The surface at each pixel as the depth images measure it, all [v h w] (normals [v h w 3])."""

    points: Tensor
    normals: Tensor
    cosine: Tensor
    spacing: Tensor
    edge: Tensor
    flying: Tensor
    valid: Tensor


def lift_frames(frames: Frames, *, config: LiftConfig | None = None) -> Gaussians:
    """One Gaussian for every valid pixel of every view, in view, row, column order.

    The splat is as wide as a pixel, stretched along the surface by the incidence angle, thin along the normal, so that
    it covers its own pixel from its own camera and lies on the surface for any other.

    Args:
        frames: [v] recorded views; a pixel counts where depth > 0 and alpha > 0.5 (or alpha is None).
        config: sizes and thresholds.
    Returns:
        Gaussians [n] with sh [n 1 3] and extras confidence [n 1] in 0..1, normals [n 3] (towards the camera) and
        segments [n 1] if the frames have them.
    Raises:
        DepthError: the frames have no depth.
    """
    config = config or LiftConfig()
    surface = surface_from_depth(frames, config=config)
    keep = surface.valid & ~surface.flying if config.drop_flying else surface.valid
    normals = surface.normals[keep]  # [n 3]
    centres = invert_rigid(frames.cameras.viewmats)[:, None, None, :3, 3].expand_as(surface.points)
    view = torch.nn.functional.normalize(centres[keep] - surface.points[keep], dim=-1)  # [n 3] towards the camera
    cosine, spacing = surface.cosine[keep], surface.spacing[keep]
    depth = depth_of(frames)[keep]
    confidence = cosine * torch.where(surface.edge[keep], config.edge_confidence, 1.0)
    confidence = confidence / (1 + (depth / config.noise_depth) ** 2)
    extras = {"confidence": confidence[:, None], "normals": normals}
    if "segments" in frames.extras:
        extras["segments"] = frames.extras["segments"][keep]
    if config.keep_pixels:
        extras["pixel"] = keep.flatten().nonzero()
    size = config.footprint * spacing
    stretch = (1 / cosine.clamp_min(1e-3)).clamp_max(config.max_stretch)
    # Across an edge the slope is not the surface's: a stretched splat would smear over the gap.
    stretch = torch.where(surface.edge[keep], 1.0, stretch)
    return Gaussians(
        means=surface.points[keep],
        quats=surface_quats(normals, view),
        scales=torch.stack([size * stretch, size, size * config.thickness], -1),
        opacities=torch.full_like(size, config.opacity),
        sh=sh_from_rgb(frames.rgb[keep]),
        extras=extras,
    )


def valid_pixels(frames: Frames) -> Tensor:
    """Where [v h w] a frame has a finite positive depth and a usable colour."""
    valid = torch.isfinite(depth_of(frames)) & (depth_of(frames) > 0)
    return valid if frames.alpha is None else valid & (frames.alpha > 0.5)


def surface_from_depth(frames: Frames, *, config: LiftConfig | None = None) -> Surface:
    """World points, normals, pixel spacing and depth edges of depth images [v].

    The tangent along each image axis is the one-sided difference to the neighbour on the same surface, so normals stay
    right up to an edge; inverse depth is used for "same surface", because a plane is exactly linear in it.
    """
    config = config or LiftConfig()
    check(rgb=(frames.rgb, "v h w 3"), depth=(frames.depth, "v h w"))
    valid = valid_pixels(frames)
    depth = torch.where(valid, depth_of(frames), 0.0)
    cameras = frames.cameras
    points = unproject(depth, cameras.viewmats, Ks=cameras.Ks)  # [v h w 3]
    focal = (cameras.Ks[:, 0, 0] * cameras.Ks[:, 1, 1]).abs().sqrt()[:, None, None]
    spacing = depth / focal
    tangent = partial(_tangent, points, depth, spacing=spacing, valid=valid, max_slope=config.max_slope)
    (tangent_x, edge_x, flying_x), (tangent_y, edge_y, flying_y) = tangent(dim=2), tangent(dim=1)
    centres = invert_rigid(cameras.viewmats)[:, None, None, :3, 3]
    view = torch.nn.functional.normalize(centres - points, dim=-1)
    normals = torch.linalg.cross(tangent_x, tangent_y)
    length = normals.norm(dim=-1, keepdim=True)
    normals = torch.where(length > 1e-12, normals / length.clamp_min(1e-12), view)
    cosine = (normals * view).sum(-1)
    normals = torch.where(cosine[..., None] < 0, -normals, normals)
    return Surface(
        points=points,
        normals=normals,
        cosine=cosine.abs(),
        spacing=spacing,
        edge=edge_x | edge_y,
        flying=valid & (flying_x | flying_y),
        valid=valid,
    )


def _tangent(
    points: Tensor, depth: Tensor, *, spacing: Tensor, valid: Tensor, dim: int, max_slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(tangent [v h w 3] along +dim, 0 where there is none; edge [v h w]; flying [v h w])."""
    step = points.diff(dim=dim)  # from a pixel to the next
    jump = depth.diff(dim=dim)
    size = depth.shape[dim]
    both = valid.narrow(dim, 1, size - 1) & valid.narrow(dim, 0, size - 1)
    reach = max_slope * torch.minimum(spacing.narrow(dim, 1, size - 1), spacing.narrow(dim, 0, size - 1))
    same = both & (jump.abs() <= reach)
    (ahead, behind), (same_ahead, same_behind) = _padded(step, dim), _padded(same, dim)
    (jump_ahead, jump_behind), (both_ahead, both_behind) = _padded(jump, dim), _padded(both, dim)
    # On a plane both one-sided steps agree and their mean halves the noise; at a crease the flatter one is right.
    bend = (jump_ahead - jump_behind).abs() > 2 * spacing
    use_mean = same_ahead & same_behind & ~bend
    use_ahead = same_ahead & (~same_behind | (jump_ahead.abs() <= jump_behind.abs()))
    tangent = torch.where(use_ahead[..., None], ahead, behind * same_behind[..., None])
    tangent = torch.where(use_mean[..., None], 0.5 * (ahead + behind), tangent)
    edge = (both_ahead & ~same_ahead) | (both_behind & ~same_behind)
    flying = both_ahead & both_behind & ~same_ahead & ~same_behind & (jump_ahead * jump_behind > 0)
    return tangent, edge, flying


def _padded(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`x` with one zero slice added at the end of `dim`, and at its start."""
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    return torch.cat([x, zero], dim), torch.cat([zero, x], dim)


def surface_quats(normals: Tensor, view: Tensor) -> Tensor:
    """Unit quaternions [n 4] whose axes are (steepest direction in the surface, across it, normal)."""
    along = view - (view * normals).sum(-1, keepdim=True) * normals
    length = along.norm(dim=-1, keepdim=True)
    # Seen head-on there is no steepest direction; any tangent does.
    axis = torch.zeros_like(normals).scatter_(-1, normals.abs().argmin(-1, keepdim=True), 1.0)
    other = torch.nn.functional.normalize(torch.linalg.cross(normals, axis), dim=-1)
    along = torch.where(length > 1e-4, along / length.clamp_min(1e-4), other)
    across = torch.linalg.cross(normals, along)
    return quat_from_matrix(torch.stack([along, across, normals], -1))
