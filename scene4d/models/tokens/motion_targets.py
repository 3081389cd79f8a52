"""What a forecast is trained towards: the exact rigid motion of what surrounds each anchor, and its statistics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scene4d.check import check
from scene4d.geometry.neighbours import nearest
from scene4d.geometry.rotation import motion_about, quat_from_matrix
from scene4d.models.instants import Steps

STILL_M = 1e-4
"""Displacement in m below which an anchor is held to rest: its neighbours' motion is not its own."""


def rigid_fit(points: Tensor, moved: Tensor, *, weights: Tensor, ridge: float = 2e-6) -> Tensor:
    """Poses [*b 7] that best carry points [*b k 3] to moved [*b k 3] under weights [*b k] (weighted Procrustes).

    `ridge` (m^2, against the summed weighted spread) draws the rotation to the identity where the points do not fix it:
    a single point, a line or two Gaussians give no wild spin.
    Source: Kabsch 1976; Umeyama 1991 for the reflection guard.
    """
    check(points=(points, "*b k 3"), moved=(moved, "*b k 3"), weights=(weights, "*b k"))
    share = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)  # [*b k]
    centre = (share[..., None] * points).sum(-2)  # [*b 3]
    goal = (share[..., None] * moved).sum(-2)
    eye = torch.eye(3, dtype=points.dtype, device=points.device)
    cross = (moved - goal[..., None, :]).transpose(-1, -2) @ (share[..., None] * (points - centre[..., None, :]))
    left, _, right_t = torch.linalg.svd(cross + ridge * eye)  # [*b 3 3]
    sign = torch.linalg.det(left @ right_t).sign()
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
    rotation = (left * flip[..., None, :]) @ right_t
    shift = goal - (rotation @ centre[..., None])[..., 0]
    return torch.cat([quat_from_matrix(rotation), shift], -1)


def fitted_anchor_motion(
    points: Tensor,
    displacement: Tensor,
    *,
    anchor_index: Tensor,
    valid: Tensor,
    segments: Tensor | None = None,
    num_rows: int = 24,
) -> tuple[Tensor, Tensor]:
    """The rigid motion since now of what surrounds each anchor, from the true displacement of the rows about it.

    A neighbour counts as of its body when it lies in its segment, or, without segments, when it moves nearly as
    the anchor does, with the slack that a rotation would give it.

    Args:
        points: [n 3] m, memory now. displacement: [h n 3] m, true, since now.
        anchor_index: [l] rows that are the anchors. valid: [n] bool, rows whose truth is known.
        segments: [n] int64 or None.
    Returns:
        motion [h l 6] (rotation vector, shift) as `motion_about(anchor)`, and known [l] bool.
    """
    check(points=(points, "n 3"), displacement=(displacement, "h n 3"), anchor_index=(anchor_index, "l"))
    anchors = points[anchor_index]  # [l 3]
    _, rows = nearest(points, anchors, num=min(num_rows, points.shape[0]))  # [l k]
    offset = (points[rows] - anchors[:, None]).norm(dim=-1)  # [l k]
    if segments is not None:
        alike = (segments[rows] == segments[anchor_index][:, None]).to(points)
    else:
        apart = (displacement[:, rows] - displacement[:, anchor_index][:, :, None]).norm(dim=-1).amax(0)  # [l k]
        alike = torch.exp(-((apart / (0.003 + 0.15 * offset)) ** 2))
    weights = alike * valid[rows].to(points) * torch.exp(-0.5 * (offset / 0.05) ** 2)
    moved = points[rows] + displacement[:, rows]  # [h l k 3]
    poses = rigid_fit(points[rows].expand_as(moved), moved, weights=weights.expand(moved.shape[:-1]))
    known = valid[anchor_index]
    motion = motion_about(anchors, poses) * known[:, None]  # [h l 6]
    # The anchor is itself a row: its own shift is known exactly, the fit only adds the rotation, where it moves at all.
    shift = displacement[:, anchor_index] * known[:, None]
    moves = shift.norm(dim=-1).amax(0) > STILL_M
    return torch.cat([motion[..., :3] * moves[:, None], shift], -1), known


def _filled(scale: Tensor, *, rows: Sequence[int]) -> Tensor:
    """A table [n 6] in which the rows between those that are known lie on straight lines between these."""
    full = scale.clone()
    for a, b in itertools.pairwise(rows):
        for i in range(a + 1, b):
            full[i] = torch.lerp(scale[a], scale[b], (i - a) / (b - a))
    return full


class MotionScale(nn.Module):
    """Per step and channel scale of the motion targets, kept beside the weights.

    Row i is of i + 1 frames ahead. Motion is divided by the spread of what *moves*, never clamped and never shifted, so
    that standing still is zero.
    """

    scale: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, horizon: int, *, dtype: torch.dtype = torch.float32):
        super().__init__()
        steps = torch.arange(1, horizon + 1, dtype=dtype)[:, None]
        start = torch.tensor([0.02, 0.02, 0.02, 0.01, 0.01, 0.01], dtype=dtype)
        self.register_buffer("scale", start * steps)  # [h 6]
        self.register_buffer("square", torch.zeros(horizon, 6, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(horizon, 1, dtype=torch.float64))

    @torch.no_grad()
    def update(self, motion: Tensor, moving: Tensor, *, instants: Sequence[int] | None = None) -> None:
        """Take targets [*b f l 6] where moving [*b f l] into the statistics.

        Args:
            instants: frames ahead of the targets, by default 1, 2, ...; between these the scale is interpolated.
        """
        motion, moving = motion.flatten(0, -4).double(), moving.flatten(0, -3).double()  # [b f l 6], [b f l]
        rows = torch.tensor(instants or range(1, motion.shape[1] + 1), device=motion.device) - 1
        self.square[rows] += torch.einsum("bhlc,bhl->hc", motion**2, moving)
        self.count[rows] += torch.einsum("bhl->h", moving)[:, None]
        seen = self.square / self.count.clamp_min(1.0)
        floor = torch.tensor([2e-3] * 3 + [1e-3] * 3, dtype=torch.float64)
        self.scale.copy_(torch.where(self.count > 16, seen.sqrt().clamp_min(floor.to(seen.device)), self.scale))
        self.scale.copy_(_filled(self.scale, rows=rows.tolist()))

    def at(self, steps: Steps) -> Tensor:
        """Scales [h 6] of a chunk's steps."""
        return steps.pick(self.scale, dim=0)

    def normalize(self, motion: Tensor, steps: Steps | None = None) -> Tensor:
        """Motion [*b h l 6] of a chunk's steps, by default frame by frame, in units of its spread."""
        return motion / (self.scale[: motion.shape[-3]] if steps is None else self.at(steps))[:, None]

    def denormalize(self, motion: Tensor, steps: Steps | None = None) -> Tensor:
        """The inverse of `normalize`."""
        return motion * (self.scale[: motion.shape[-3]] if steps is None else self.at(steps))[:, None]
