"""Futures of which a part is known: all of it, an object's, the last step alone, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.rotation import apply_pose, pose_about
from scene4d.models.instants import Steps
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.world.carry import AnchorMotion
from scene4d.world.flat_batches import flat_steps

RIGID_M = 0.004
"""Distance in m from where an object's motion would carry an anchor up to which it counts as a part of it."""
SHARES = {"all": 0.25, "object": 0.3, "last step": 0.25, "steps": 0.2}
"""How often each kind of known future is shown in training, where any is."""


@dataclass(frozen=True)
class KnownMotion(TensorStruct):
    """Motion [*b h l 6] of anchors since now, scaled, and where it is known [*b h l]; elsewhere it counts for 0."""

    motion: Tensor
    known: Tensor

    SHAPES = shapes(motion="*b h l 6", known="*b h l")

    @classmethod
    def whole(cls, motion: Tensor) -> KnownMotion:
        """A motion all of which is known."""
        return cls(motion, torch.ones(motion.shape[:-1], dtype=torch.bool, device=motion.device))

    @property
    def features(self) -> Tensor:
        """[*b h l 7]: the motion where it is known, and whether it is."""
        known = self.known.to(self.motion)[..., None]
        return torch.cat([self.motion * known, known], -1)

    def put_into(self, motion: Tensor) -> Tensor:
        """Another motion with this one in its place where it is known."""
        return torch.where(self.known[..., None], self.motion, motion)


def drawn_known(motion: Tensor, anchors: Tensor, *, moving: Tensor) -> Tensor:
    """Which part of a future is shown to each training sample, [b h l] bool, by torch's generator: see `SHARES`.

    Args:
        motion: [b h l 6] rad and m, about the anchors [b l 3]. moving: [b h l] bool.
    """
    num, num_steps, num_anchors = moving.shape
    kind = torch.multinomial(torch.tensor(list(SHARES.values())), num, replacement=True).to(motion.device)
    step = torch.arange(num_steps, device=motion.device)[:, None]  # [h 1]
    some = torch.rand(num, num_steps, 1, device=motion.device) < torch.rand(num, 1, 1, device=motion.device)
    whole = torch.ones(num, num_steps, num_anchors, dtype=torch.bool, device=motion.device)
    masks = {
        "all": whole,
        "object": whole & of_one_object(motion[:, -1], anchors, moving=moving.any(1))[:, None],
        "last step": whole & (step == num_steps - 1),
        "steps": whole & some,
    }
    stacked = torch.stack([masks[name] for name in SHARES], 1)  # [b k h l]
    return stacked[torch.arange(num, device=motion.device), kind]


def of_one_object(motion: Tensor, anchors: Tensor, *, moving: Tensor) -> Tensor:
    """The anchors [b l] that move as one rigid body with one moving anchor, drawn by torch's generator.

    Args:
        motion: [b l 6] about the anchors [b l 3] at one instant. moving: [b l] bool; where nothing moves, any is drawn.
    """
    weight = torch.where(moving.any(1, keepdim=True), moving, ~moving).float()
    chosen = torch.multinomial(weight, 1)[:, 0]  # [b]
    poses = pose_about(anchors, motion[..., :3], shift=motion[..., 3:])  # [b l 7]
    rows = torch.arange(len(chosen), device=chosen.device)
    with_it = apply_pose(poses[rows, chosen][:, None].expand_as(poses), anchors)
    own = apply_pose(poses, anchors)
    return (with_it - own).norm(dim=-1) < RIGID_M


def flat_future(
    future: Tensor, known: Tensor | None, *, lead: tuple[int, ...], most: tuple[int, int]
) -> tuple[Tensor, Tensor | None]:
    """A future [*b h l 7] and where it is known [*b h l] or None, of states of shape `lead`, with one batch axis.

    Raises:
        ShapeError: other axes, or more than `most` = (steps, anchors).
    """
    horizon, num_anchors = most
    future = flat_steps(future, lead, name="future", tail=(num_anchors, 7), horizon=horizon)
    if known is not None:
        known = flat_steps(known, lead, name="known", tail=(num_anchors,), horizon=horizon)
    return future, known


def kept_where_known(motion: AnchorMotion, future: Tensor, *, known: KnownMotion, steps: Steps) -> AnchorMotion:
    """Motion [b n l 7] with `future` [b h l 7] in its place where that is known, to the bit."""
    poses, ends = motion.world_from_now.clone(), [frames - 1 for frames in steps.ahead]
    poses[:, ends] = torch.where(known.known[..., None], future, poses[:, ends])
    return motion.replace(world_from_now=poses)
