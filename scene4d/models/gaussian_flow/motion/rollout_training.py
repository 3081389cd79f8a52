"""Training on its own rollouts: windows as they stand after a forecast of the model itself, errors and all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose, motion_about, pose_about
from scene4d.geometry.skinning import skinned_displacement
from scene4d.models.gaussian_flow.loss import skin_logits
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.instants import Steps
from scene4d.models.tokens.token_windows import TokenWindows


@torch.no_grad()
def rolled_out(
    model: GaussianWorldModel, batch: TokenWindows, *, steps: Steps, num_steps: int
) -> tuple[TokenWindows, Steps]:
    """The windows [b] after the model's own forecast of their first `num_steps` >= 2 steps took the place of the truth.

    The truth about motion is that of the ends of `steps`; those that are left come back with the windows.

    Anchors, rows, their past and the hand are where the forecast has them; what is left of the targets says how they
    get from there to where they truly are. So a chunk learns to go on from the errors of the one before.
    """
    done, rest = steps.split(num_steps)
    frames = done.num_frames
    given = model.proprio.condition(batch.actions[:, :frames], track=batch.track, task=batch.task)
    noise = torch.randn_like(batch.motion[:, :num_steps])
    scene = model.window_tokens(batch)
    motion, _ = model.draw_motion(noise, scene=scene, given=given.at(done), steps=done, sampler_steps=1)  # [b k l 6]
    poses = pose_about(batch.anchors[:, None], motion[..., :3], shift=motion[..., 3:])  # [b k l 7]
    weights = model.skin.weights(skin_logits(model, batch), hard=True)
    shift = skinned_displacement(batch.rows, poses, skin_index=batch.skin_index, skin_weights=weights)  # [b k r 3]
    truth = pose_about(batch.anchors[:, None], batch.motion[..., :3], shift=batch.motion[..., 3:])[:, num_steps:]
    anchors, now = apply_pose(poses[:, -1], batch.anchors), invert_pose(poses[:, -1])[:, None]
    hand = batch.past_proprio[:, -1:] + given.proprio_change  # [b k 20]
    true_hand = batch.past_proprio[:, -1:] + batch.proprio_change[:, frames:]
    actions = torch.cat([batch.past_actions, batch.actions[:, :frames]], 1)
    valid = torch.cat([batch.past_valid, torch.ones_like(batch.past_valid[:, :1]).expand(-1, frames)], 1)
    later = batch.replace(
        anchors=anchors,
        anchor_past=_last_steps(motion[..., 3:], gaps=done.gaps),
        motion=motion_about(anchors[:, None], compose_pose(truth, now.expand_as(truth))),
        rows=batch.rows + shift[:, -1],
        row_past=_last_steps(shift, gaps=done.gaps),
        displacement=batch.displacement[:, num_steps:] - shift[:, -1:],
        actions=batch.actions[:, frames:],
        past_actions=actions[:, frames:],
        past_proprio=torch.cat([batch.past_proprio, hand], 1)[:, frames:],
        past_valid=valid[:, frames:],
        proprio_change=true_hand - hand[:, -1:],
        reward=batch.reward[:, frames:],
        success=batch.success[:, frames:],
    )
    return later, rest


def _last_steps(shift: torch.Tensor, *, gaps: Sequence[int]) -> torch.Tensor:
    """The motion in the last frame and in the one before [b n 6], by the last steps of the motion [b k n 3] since then.

    A step of several frames is taken to have gone on evenly.
    """
    steps = torch.cat([torch.zeros_like(shift[:, :1]), shift], 1).diff(dim=1)
    last = steps[:, -1] / gaps[-1]
    return torch.cat([last, last if gaps[-1] > 1 else steps[:, -2] / gaps[-2]], -1)
