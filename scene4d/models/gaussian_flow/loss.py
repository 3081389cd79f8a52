"""The loss of the world model on a batch of windows, and the statistics that its inputs are scaled by."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scene4d.geometry.rotation import pose_about
from scene4d.geometry.skinning import skinned_displacement
from scene4d.models.flow import draw_levels, noised
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.networks.dit import Denoised, SceneTokens
from scene4d.models.gaussian_flow.networks.skin_head import Matter
from scene4d.models.tokens.token_windows import MOVING_M, TokenWindows, is_moving
from scene4d.robot.track import Track


@dataclass(frozen=True)
class LossConfig:
    """How the parts of the loss are weighed."""

    flow_matching: float = 1.0
    """Squared error of the clean scaled motion."""
    gate: float = 0.5
    """Cross-entropy of "this anchor moves"."""
    points: float = 1.0
    """Displacement error of memory rows, per cm."""
    likelihood: float = 0.05
    """Negative log-likelihood under the predicted variance."""
    context_noise: float = 0.0
    """Spread of the noise on what is known of the anchors, against the errors of a rollout: as a part of their past
    motion and of 2 mm, and in units of the tokens."""
    outcome: float = 0.05
    """Squared error of the scaled reward, cross-entropy of success and of having succeeded."""


@torch.no_grad()
def set_statistics(model: GaussianWorldModel, batches: Sequence[TokenWindows]) -> None:
    """Take the scales of tokens, motion and proprio from prepared training windows; once, before training."""
    tokens = torch.cat([b.tokens.flatten(0, -2) for b in batches])
    model.token_mean.copy_(tokens.mean(0))
    # A channel that the codec does not use must not be blown up to noise.
    model.token_std.copy_(tokens.std(0).clamp_min(0.05 * tokens.std()))
    rewards = torch.cat([b.reward.flatten() for b in batches])
    model.reward_scale.copy_(rewards.nan_to_num().abs().max().clamp_min(1e-3))
    for batch in batches:
        model.scale.update(batch.motion[None], (is_moving(batch.motion) & batch.known[None])[None])


def loss(
    model: GaussianWorldModel,
    batch: TokenWindows,
    *,
    config: LossConfig = LossConfig(),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scalar loss and metrics of a batch [b]; random levels and noise come from torch's generator."""
    # The denoiser takes the foreseen hand as it will get it, errors and all; it does not teach the hand.
    with torch.no_grad():
        drive = model.drive(actions=batch.actions, track=track_of_batch(batch), task=batch.task)
    scene = _shaken(scene_tokens(model, batch), spread=config.context_noise)
    target = model.scale.normalize(batch.motion)  # [b h l 6]
    moving = is_moving(batch.motion)  # [b h l]
    known = batch.known[:, None].expand_as(moving)
    levels = draw_levels(target.shape[0], config=model.config.flow, like=target)
    noisy = noised(target, torch.randn_like(target), levels=levels)
    said = model.denoiser(noisy, levels, scene=scene, drive=drive, scale=model.scale.scale)
    parts = _motion_losses(said, target, moving=moving, known=known)
    parts["points"], metrics = _point_loss(model, said, batch)
    parts["outcome"] = _outcome_loss(said.outcome, batch, scale=model.reward_scale)
    total = functools.reduce(torch.add, [getattr(config, name) * value for name, value in parts.items()])
    hand = (drive.proprio_change - batch.proprio_change)[:, -1, :3].norm(dim=-1).mean()
    return total, {**{k: v.detach() for k, v in parts.items()}, **metrics, "hand_mm": 1e3 * hand.detach()}


def _shaken(scene: SceneTokens, *, spread: float) -> SceneTokens:
    """Tokens and past motion with noise."""
    if spread == 0:
        return scene
    gain, apart = 1 + spread * torch.randn_like(scene.past[..., :1]), 0.002 * spread * torch.randn_like(scene.past)
    moved = scene.past.abs().amax(-1, keepdim=True) > 0  # what rests is known to
    return scene.replace(
        tokens=scene.tokens + spread * torch.randn_like(scene.tokens), past=(scene.past * gain + apart) * moved
    )


def track_of_batch(batch: TokenWindows) -> Track:
    """How the robots of prepared windows [b] got to now."""
    return Track(actions=batch.past_actions, proprio=batch.past_proprio, valid=batch.past_valid)


def scene_tokens(model: GaussianWorldModel, batch: TokenWindows) -> SceneTokens:
    """What is known of the anchors of prepared windows [b]."""
    return SceneTokens(
        tokens=model.scaled(batch.tokens),
        anchors=batch.anchors,
        rgb=batch.anchor_rgb,
        past=batch.anchor_past,
    )


def skin_logits(model: GaussianWorldModel, batch: TokenWindows) -> Tensor:
    """What the skin says of the rows of prepared windows, [b r j+1]."""
    return model.skin(
        Matter(batch.rows, past=batch.row_past, rgb=batch.row_rgb),
        Matter(batch.anchors, past=batch.anchor_past, rgb=batch.anchor_rgb),
        tokens=model.scaled(batch.tokens),
        hand=batch.past_proprio[:, -1, :3],
        skin_index=batch.skin_index,
    )


def _outcome_loss(outcome: Tensor, batch: TokenWindows, *, scale: Tensor) -> Tensor:
    """Reward, success at each step, and success by each step; what a recording does not tell (NaN) is passed over."""
    success, reward = batch.success.nan_to_num(), batch.reward.nan_to_num()
    by_then = success.cummax(1).values
    logits = F.binary_cross_entropy_with_logits(outcome[..., 1:], torch.stack([success, by_then], -1), reduction="none")
    square = (outcome[..., 0] - reward / scale).square()
    return _mean(logits.mean(-1), batch.success.isfinite()) + _mean(square, batch.reward.isfinite())


def _motion_losses(said: Denoised, target: Tensor, *, moving: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Losses on the anchors; what stands still teaches the motion little, the gate is there for it."""
    weight = known * (0.1 + 0.9 * moving)  # [b h l]
    weight = weight / weight.sum().clamp_min(1.0)
    square = (said.clean - target).square()  # [b h l 6]
    log_var = said.log_var.clamp(-12, 6)
    likelihood = 0.5 * (square.detach() / log_var.exp() + log_var).mean(-1)
    gate = F.binary_cross_entropy_with_logits(said.gate, moving.to(said.gate), reduction="none")
    return {
        "flow_matching": (weight * square.mean(-1)).sum(),
        "likelihood": (weight * likelihood).sum(),
        # Few anchors move; both kinds count the same, or a shy gate would hold back motion that is well known.
        "gate": 0.5 * (_mean(gate, known & moving) + _mean(gate, known & ~moving)),
    }


def _point_loss(model: GaussianWorldModel, said: Denoised, batch: TokenWindows) -> tuple[Tensor, dict[str, Tensor]]:
    """Error of the displacement of memory rows in cm, moving and still rows in equal shares, and its metrics in mm."""
    logits = skin_logits(model, batch)
    motion = model.scale.denormalize(said.clean) * said.gate.sigmoid()[..., None]
    poses = pose_about(batch.anchors[:, None], motion[..., :3], shift=motion[..., 3:])  # [b h l 7]
    weights = model.skin.weights(logits, hard=False)
    moved = skinned_displacement(batch.rows, poses, skin_index=batch.skin_index, skin_weights=weights)
    error = 100 * (moved - batch.displacement).norm(dim=-1)  # [b h r] cm
    smooth = torch.where(error < 0.5, error.square(), error - 0.25)
    moving = (batch.displacement.norm(dim=-1) > 2 * MOVING_M).to(error)
    with torch.no_grad():
        metrics = {
            "epe_moving_mm": 10 * _mean(error[:, -1], moving[:, -1]),
            "epe_still_mm": 10 * _mean(error[:, -1], 1 - moving[:, -1]),
            "epe_zero_mm": 1e3 * _mean(batch.displacement[:, -1].norm(dim=-1), moving[:, -1]),
        }
    return _mean(smooth, moving) + _mean(smooth, 1 - moving), metrics


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean; 0 where nothing has weight."""
    return (values * weights).sum() / weights.sum().clamp_min(1)
