"""What the input cameras rule out: where they looked through, nothing stands."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from scene4d.geometry.camera import project
from scene4d.geometry.rotation import matrix_from_quat
from scene4d.render.render import render
from scene4d.types import Cameras, Frames, Gaussians

WIDTH = 64
"""Widest picture in px that is drawn to look."""
TOLERANCE_M = 0.01
"""AnchorFeatures this little in front of a surface may be part of it."""
MOST_ENDS = 1
"""Ends of a Gaussian's axes, one standard deviation out, that may be seen though its centre is hidden."""


@torch.no_grad()
def unseen_rows_of(rows: Gaussians, *, memory: Gaussians, cameras: Iterable[Cameras]) -> Tensor:
    """[r] whether Gaussians [r] can be there though these cameras [] saw only the memory [n].

    One whose centre lies before what a camera saw cannot, nor one that is hidden but sticks out. Where the memory shows
    nothing a camera says nothing.
    """
    axes = matrix_from_quat(rows.quats).mT * rows.scales[..., None]  # [r 3 3], a row each
    points = torch.cat([rows.means[:, None], rows.means[:, None] + axes, rows.means[:, None] - axes], 1)  # [r 7 3]
    seen = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    for camera in cameras:
        small = camera.resized(WIDTH, max(1, round(WIDTH * camera.height / camera.width))).to(points)
        seen |= _in_the_open(points.flatten(0, 1), render(memory.replace(extras={}), small)).unflatten(0, seen.shape)
    return ~seen[:, 0] & (seen[:, 1:].sum(-1) <= MOST_ENDS)


def _in_the_open(points: Tensor, frames: Frames) -> Tensor:
    """[p] whether points [p 3] lie before the surface that frames [] show."""
    cameras = frames.cameras
    pixels, depth = project(points, cameras.viewmats, Ks=cameras.Ks)
    column, row = pixels.floor().long().unbind(-1)
    inside = (depth > 0) & (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
    at = row.clamp(0, cameras.height - 1), column.clamp(0, cameras.width - 1)
    return inside & (frames.known_alpha[at] > 0.5) & (depth < frames.known_depth[at] - TOLERANCE_M)
