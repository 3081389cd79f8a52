"""How a robot got to now: its last actions and states, padded where less is known, and what comes after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from scene4d.robot.actions import action_slots
from scene4d.robot.angles import unwrapped, unwrapped_to_last
from scene4d.robot.slots import USUAL_SLOTS, Slots, proprio_slots
from scene4d.robot.spec import RobotSpec
from scene4d.tensor_struct import TensorStruct, shapes


@dataclass(frozen=True)
class Track(TensorStruct):
    """How a robot got to now, p past steps, oldest first. Batch axes `*b`.

    actions [*b p a]: the last led to now; proprio [*b p+1 q]: the last is now; valid [*b p] bool: False = before the
    recording began (zeros and repeats stand there).
    """

    actions: Tensor
    proprio: Tensor
    valid: Tensor

    SHAPES = shapes(valid="*b p")


def track_of(actions: Tensor, proprio: Tensor, *, num_past: int) -> Track:
    """The last `num_past` steps [p] of actions [t a] and proprio [t+1 q] (or any that end now), padded at the front.

    Where one of the two reaches back less far, so does the track.
    """
    known = min(actions.shape[-2], proprio.shape[-2] - 1, num_past)
    missing = num_past - known
    actions = actions[..., actions.shape[-2] - known :, :]
    proprio = proprio[..., proprio.shape[-2] - known - 1 :, :]
    front = proprio[..., :1, :].expand(*proprio.shape[:-2], missing, proprio.shape[-1])
    valid = torch.arange(num_past, device=proprio.device) >= missing
    return Track(
        actions=pad(actions, (0, 0, missing, 0)),
        proprio=torch.cat([front, proprio], -2),
        valid=valid.expand(*proprio.shape[:-2], num_past),
    )


def track_in_slots(track: Track, robot: RobotSpec, *, slots: Slots = USUAL_SLOTS) -> Track:
    """The same track with its actions [*b p 16] and proprio [*b p+1 20] in slots, angles without jumps up to now."""
    proprio = unwrapped_to_last(track.proprio, robot.proprio)
    actions = action_slots(track.actions, robot, proprio=proprio[..., :-1, :], slots=slots)
    return track.replace(actions=actions * track.valid[..., None], proprio=proprio_slots(proprio, robot, slots=slots))


def proprio_change(future: Tensor, *, now: Tensor, robot: RobotSpec, slots: Slots = USUAL_SLOTS) -> Tensor:
    """Change [*b h 20] in slots of the robot's state since `now` [*b q], of states `future` [*b h q] after it."""
    future = unwrapped(future, robot.proprio, start=now)
    return proprio_slots(future, robot, slots=slots) - proprio_slots(now, robot, slots=slots)[..., None, :]
