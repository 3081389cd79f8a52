"""Training on its own rollouts: windows as they stand after a forecast of the model itself, errors and all."""

from __future__ import annotations

import torch

from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose, motion_about, pose_about
from scene4d.geometry.skinning import skinned_displacement
from scene4d.models.gaussian_flow.loss import skin_logits
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.tokens.token_windows import TokenWindows


@torch.no_grad()
def rolled_out(model: GaussianWorldModel, batch: TokenWindows, *, num_steps: int) -> TokenWindows:
    """The windows [b] after the model's own forecast of their first `num_steps` >= 2 steps took the place of the truth.

    Anchors, rows, their past and the hand are where the forecast has them; what is left of the targets says how they
    get from there to where they truly are. So a chunk learns to go on from the errors of the one before.
    """
    given = model.proprio.condition(batch.actions[:, :num_steps], track=batch.track, task=batch.task)
    noise = torch.randn_like(batch.motion[:, :num_steps])
    motion, _ = model.draw_motion(noise, scene=model.window_tokens(batch), given=given, steps=1)  # [b k l 6]
    poses = pose_about(batch.anchors[:, None], motion[..., :3], shift=motion[..., 3:])  # [b k l 7]
    weights = model.skin.weights(skin_logits(model, batch), hard=True)
    shift = skinned_displacement(batch.rows, poses, skin_index=batch.skin_index, skin_weights=weights)  # [b k r 3]
    truth = pose_about(batch.anchors[:, None], batch.motion[..., :3], shift=batch.motion[..., 3:])[:, num_steps:]
    anchors, now = apply_pose(poses[:, -1], batch.anchors), invert_pose(poses[:, -1])[:, None]
    hand = batch.past_proprio[:, -1:] + given.proprio_change  # [b k 20]
    true_hand = batch.past_proprio[:, -1:] + batch.proprio_change[:, num_steps:]
    actions = torch.cat([batch.past_actions, batch.actions[:, :num_steps]], 1)
    valid = torch.cat([batch.past_valid, torch.ones_like(batch.past_valid[:, :1]).expand(-1, num_steps)], 1)
    return batch.replace(
        anchors=anchors,
        anchor_past=_last_steps(motion[..., 3:]),
        motion=motion_about(anchors[:, None], compose_pose(truth, now.expand_as(truth))),
        rows=batch.rows + shift[:, -1],
        row_past=_last_steps(shift),
        displacement=batch.displacement[:, num_steps:] - shift[:, -1:],
        actions=batch.actions[:, num_steps:],
        past_actions=actions[:, num_steps:],
        past_proprio=torch.cat([batch.past_proprio, hand], 1)[:, num_steps:],
        past_valid=valid[:, num_steps:],
        proprio_change=true_hand - hand[:, -1:],
        reward=batch.reward[:, num_steps:],
        success=batch.success[:, num_steps:],
    )


def _last_steps(shift: torch.Tensor) -> torch.Tensor:
    """The last step and the one before [b n 6] of ways since the start [b k n 3]."""
    steps = torch.cat([torch.zeros_like(shift[:, :1]), shift], 1).diff(dim=1)
    return torch.cat([steps[:, -1], steps[:, -2]], -1)
