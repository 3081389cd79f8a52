"""A coloured ball with exact depth from all round: the truth that meshes are held to."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.camera import invert_rigid, orbit, unproject
from scene4d.types import Cameras, Frames

CENTER, RADIUS = (0.1, -0.2, 0.4), 0.3


def ball_frames(*, num_views: int = 6, size: int = 72) -> Frames:
    """Frames [v] from three rings round the ball, ray-cast; depth 0 beside it."""
    center = torch.tensor(CENTER)
    rings = [
        orbit(center, radius=1.2, elevation=e, num_views=num_views, width=size, height=size, fov_y=0.7)
        for e in (-0.9, 0.0, 0.9)
    ]
    viewmats, Ks = torch.cat([c.viewmats for c in rings]), torch.cat([c.Ks for c in rings])
    centres = invert_rigid(viewmats)[:, None, None, :3, 3]
    rays = unproject(torch.ones(len(viewmats), size, size), viewmats, Ks=Ks) - centres  # z = 1 along each
    offset = centres - center
    a, b = (rays * rays).sum(-1), (rays * offset).sum(-1)
    root = b * b - a * ((offset * offset).sum(-1) - RADIUS**2)
    depth = torch.where(root > 0, (-b - root.clamp_min(0).sqrt()) / a, 0.0)
    rgb = ball_colors(centres + rays * depth[..., None]) * (depth > 0)[..., None]
    return Frames(rgb=rgb, depth=depth, alpha=None, cameras=Cameras(viewmats=viewmats, Ks=Ks, width=size, height=size))


def ball_colors(points: Tensor) -> Tensor:
    """Colour [..., 3] of the ball at points [..., 3] of its surface."""
    return ((points - torch.tensor(CENTER)) / RADIUS * 0.5 + 0.5).clamp(0, 1)
