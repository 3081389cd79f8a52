"""Gaussians that ride on anchors: carried by predicted motion, and put together as a scene over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from scene4d.geometry.rotation import compose_pose, identity_pose
from scene4d.geometry.skinning import skinned_displacement, skinned_gaussians
from scene4d.scene import Motion, Scene4D
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Gaussians

KNOWN_LOG_VAR = -18.4
"""Log-variance of the motion of what is observed: (0.1 mm or 0.1 mrad)^2."""


@dataclass(frozen=True)
class AnchoredGaussians(TensorStruct):
    """Gaussians [*b n] now, the anchors [*b m 3] that they follow, skin index and weights [*b n j]; all 0 = none."""

    gaussians: Gaussians
    anchors: Tensor
    skin_index: Tensor
    skin_weights: Tensor

    SHAPES = shapes(anchors="*b m 3", skin_index="*b n j", skin_weights="*b n j", **{"gaussians.means": "*b n 3"})

    def moved(self, poses: Tensor) -> Gaussians:
        """The Gaussians [*b n] after the motion [*b m 7] of their anchors since now."""
        return skinned_gaussians(self.gaussians, poses, skin_index=self.skin_index, skin_weights=self.skin_weights)

    def displacement(self, poses: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Displacement [*b h r 3] in m of the means of `rows` [r], all by default, under poses [*b h m 7] since now."""
        pick = lambda x: x if rows is None else x.index_select(len(self.batch_shape), rows)
        return skinned_displacement(
            pick(self.gaussians.means), poses, skin_index=pick(self.skin_index), skin_weights=pick(self.skin_weights)
        )

    def padded(self, num_rows: int) -> Self:
        """Filled up to `num_rows` rows by empty slots, which follow no anchor."""
        missing = num_rows - self.gaussians.num_gaussians
        if missing == 0:
            return self
        fill = lambda x: torch.cat([x, x.new_zeros(*x.shape[:-2], missing, x.shape[-1])], -2)
        return self.replace(
            gaussians=self.gaussians.padded(num_rows),
            skin_index=fill(self.skin_index),
            skin_weights=fill(self.skin_weights),
        )

    @classmethod
    def stack(cls, items: Sequence[Any], dim: int = 0) -> Self:
        """Stack sets of any number of rows; shorter ones get empty slots."""
        num_rows = max(item.gaussians.num_gaussians for item in items)
        return super().stack([item.padded(num_rows) for item in items], dim)


@dataclass(frozen=True)
class AnchorMotion(TensorStruct):
    """Rigid motion [*b h m 7] of anchors since now, and its log-variance [*b h m 6] (turn, shift) or None."""

    world_from_now: Tensor
    log_var: Tensor | None = None

    SHAPES = shapes(world_from_now="*b h m 7", log_var="*b h m 6")

    def followed_by(self, later: AnchorMotion) -> AnchorMotion:
        """The motion [*b h+h' m 7] since now, `later` counting from where this one ends; variances add up."""
        last = self.world_from_now[..., -1:, :, :]
        poses = compose_pose(later.world_from_now, last.expand(later.world_from_now.shape))
        log_var = None
        if self.log_var is not None and later.log_var is not None:
            variance = later.log_var.exp() + self.log_var[..., -1:, :, :].exp()
            log_var = torch.cat([self.log_var, variance.log()], -3)
        return AnchorMotion(torch.cat([self.world_from_now, poses], -3), log_var)


def scene_of_motion(
    now: AnchoredGaussians, motion: AnchorMotion, *, times: Tensor, alive: Tensor | None = None
) -> Scene4D:
    """The scene [*b] of Gaussians that are observed now and predicted at the h steps after it.

    Args:
        times: [*b 1+h] s, now first. alive: [*b n 2] s of the rows; None = all the time.
    """
    lead, num_rows = now.batch_shape, now.gaussians.num_gaussians
    poses, log_var = motion.world_from_now, motion.log_var
    identity = identity_pose(*lead, 1, poses.shape[-2], like=poses)
    if log_var is not None:
        known = log_var.new_full((*lead, 1, *log_var.shape[-2:]), KNOWN_LOG_VAR)
        log_var = torch.cat([known, log_var], -3)
    if alive is None:
        alive = torch.stack([times[..., :1], times[..., -1:]], -1).expand(*lead, num_rows, 2)
    observed = torch.zeros(times.shape, dtype=torch.bool, device=times.device)
    observed[..., 0] = True
    return Scene4D(
        base=now.gaussians,
        motion=Motion(
            anchors=now.anchors,
            world_from_rest=torch.cat([identity, poses], -3),
            skin_index=now.skin_index,
            skin_weights=now.skin_weights,
            log_var=log_var,
        ),
        alive=alive,
        times=times,
        observed=observed,
    )


def later_times(time: Tensor, *, num_steps: int, step_seconds: float) -> Tensor:
    """Times [*b 1+h] s, float64: `time` [*b] and the `num_steps` steps after it."""
    return time[..., None].double() + step_seconds * torch.arange(num_steps + 1, device=time.device)
