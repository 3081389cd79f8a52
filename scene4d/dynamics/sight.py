"""What the input cameras rule out: where they looked through, there is no matter."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from scene4d.geometry.camera import project
from scene4d.render.render import render
from scene4d.types import Cameras, Gaussians

WIDTH = 64
"""Widest picture in px that is drawn to look."""
TOLERANCE_M = 0.01
"""Matter this little in front of a surface may be part of it."""


@torch.no_grad()
def out_of_sight(rows: Gaussians, *, memory: Gaussians, cameras: Iterable[Cameras]) -> Tensor:
    """[r] whether Gaussians [r] can be there though these cameras [] saw only the memory [n]: False before its surface.

    Where the memory shows nothing a camera says nothing.
    """
    hidden = torch.ones(rows.num_gaussians, dtype=torch.bool, device=rows.means.device)
    for camera in cameras:
        small = camera.resized(WIDTH, max(1, round(WIDTH * camera.height / camera.width))).to(rows.means)
        frames = render(memory.replace(extras={}), small)
        pixels, depth = project(rows.means, small.viewmats, small.Ks)
        column, row = pixels.floor().long().unbind(-1)
        inside = (depth > 0) & (column >= 0) & (column < small.width) & (row >= 0) & (row < small.height)
        at = row.clamp(0, small.height - 1), column.clamp(0, small.width - 1)
        before = (frames.alpha[at] > 0.5) & (depth < frames.depth[at] - TOLERANCE_M)
        hidden &= ~(inside & before)
    return hidden
