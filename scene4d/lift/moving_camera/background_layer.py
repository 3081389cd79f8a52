"""The background layer behind nearly transparent ones: the mean picture of two frames, from the middle between them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn.functional import avg_pool2d, max_pool2d

from scene4d.geometry.camera import invert_rigid, unproject
from scene4d.geometry.frame_images import alpha_of, depth_of
from scene4d.geometry.rotation import interpolate_pose, matrix_from_pose, quat_from_matrix
from scene4d.lift.rgbd.depth_images import fill_nearest, pixels_of_points, sample_image, with_colour
from scene4d.lift.rgbd.unproject import LiftConfig
from scene4d.render.render import render
from scene4d.types import Cameras, Frames, Gaussians


@dataclass(frozen=True)
class BackgroundLayerConfig:
    """Where the picture stands, and how it is drawn."""

    lift: LiftConfig = field(
        default_factory=lambda: LiftConfig(
            footprint=0.6, opacity=0.98, drop_flying=False, max_stretch=1.0, keep_pixels=True
        )
    )
    """The splats: opaque, and wide enough to be closed."""
    margin: float = 0.06
    """What is added to the picture on each side, in its widths: neighbours see a little past each other's borders."""
    behind: float = 0.02
    """How far, as a fraction of depth, the picture stands behind the layers."""
    reach: int = 5
    """Width in px of the window in which it keeps behind the farthest surface."""
    tolerance: float = 0.05
    """Two depths closer than this fraction are one surface."""


def interpolated_camera(cameras: Cameras, place: float = 0.5, *, margin: int = 0) -> Cameras:
    """The camera [] at `place` in 0..1 from the first to the last of cameras [k], `margin` px wider on each side."""
    poses = invert_rigid(cameras.viewmats[[0, -1]])
    a, b = torch.cat([quat_from_matrix(poses[:, :3, :3]), poses[:, :3, 3]], -1)
    about = poses.new_zeros(3)
    pose = interpolate_pose(a, b, weight=poses.new_tensor(place), about=about)
    Ks = cameras.Ks[[0, -1]].mean(0)
    Ks[:2, 2] += margin
    width, height = cameras.width + 2 * margin, cameras.height + 2 * margin
    return Cameras(viewmats=invert_rigid(matrix_from_pose(pose)), Ks=Ks, width=width, height=height)


def middle_view(layers: Gaussians, frames: Frames, *, config: BackgroundLayerConfig) -> Frames:
    """The mean picture [] of frames [1..2] from the middle between them, with a depth at every pixel.

    The transparent layers, drawn, give the depth of each pixel; its colour is looked up in the pictures, which are
    sharper. What neither frame shows takes the nearest colour and depth, but where they look and have no usable colour
    (alpha) there is nothing: depth 0.
    """
    camera = interpolated_camera(frames.cameras, margin=round(config.margin * frames.cameras.width))
    with torch.no_grad():
        drawn = render(layers.replace(extras={}), camera)
    known = (alpha_of(drawn) > 0.3) & (depth_of(drawn) > 0)
    depth = fill_nearest(depth_of(drawn), known)
    points = unproject(depth, camera.viewmats, Ks=camera.Ks).flatten(0, 1)
    total = torch.zeros_like(points)
    weight = torch.full_like(points[:, :1], 1e-9)
    blind, seen = torch.zeros(2, len(points), dtype=torch.bool, device=points.device)
    for frame in (frames[i] for i in range(frames.batch_shape[0])):
        pixels, z, inside = pixels_of_points(points, frame.cameras)
        if frame.alpha is not None:
            usable = with_colour(inside, pixels, alpha=frame.alpha)
            blind, seen, inside = blind | (inside & ~usable), seen | usable, usable
        there = sample_image(depth_of(frame)[..., None], pixels)[:, 0]
        # A frame that the place is hidden from is still better than none: it counts a thousandth.
        share = (torch.where((there - z).abs() < config.tolerance * z, 1.0, 1e-3) * inside)[:, None]
        total += share * sample_image(frame.rgb, pixels)
        weight += share
    rgb = (total / weight).reshape(drawn.rgb.shape)
    if frames.alpha is not None:
        blind, seen = blind.reshape(known.shape), seen.reshape(known.shape)
        # Beyond their borders it is as at the nearest place within.
        depth = torch.where(fill_nearest(blind & ~seen, blind | seen), 0.0, depth)
    rgb = fill_nearest(rgb, known & (weight > 1e-6).reshape(known.shape))
    return Frames(rgb=rgb, depth=depth, alpha=None, cameras=camera)


def pushed_back(view: Frames, *, config: BackgroundLayerConfig) -> Frames:
    """The picture [] with a smooth depth that lies behind everything near each of its pixels; 0 stays 0."""
    pad = config.reach // 2
    far = max_pool2d(depth_of(view)[None, None], config.reach, 1, pad)
    far = avg_pool2d(far, config.reach, 1, pad, count_include_pad=False)[0, 0]
    return view.replace(depth=(1 + config.behind) * far * (depth_of(view) > 0))
