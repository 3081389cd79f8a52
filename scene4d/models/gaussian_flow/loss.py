"""The loss of the world model on a batch of windows."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.rotation import pose_about
from scene4d.geometry.skinning import skinned_displacement
from scene4d.models.flow import draw_levels, noised
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.motion.known_future import KnownMotion, drawn_known
from scene4d.models.gaussian_flow.networks.skin_head import AnchorFeatures
from scene4d.models.instants import Steps
from scene4d.models.proprio import RobotCondition
from scene4d.models.tokens.motion_estimate import MotionEstimate, motion_losses, outcome_loss, weighted_mean
from scene4d.models.tokens.scene_tokens import SceneTokens
from scene4d.models.tokens.token_windows import MOVING_M, TokenWindows, is_moving
from scene4d.text.task_vectors import tasks_dropped


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
    task_dropout: float = 0.1
    """Share of the windows whose task the denoisers of motion and of actions do not get, and of its phrases in the
    others; the robot's own state is foreseen with it."""
    outcome: float = 0.05
    """Squared error of the scaled reward, cross-entropy of success and of having succeeded."""
    shown_futures: float = 0.35
    """Share of the batches of a model with dit.known_futures in which a part of the future is shown."""
    absent_actions: float = 0.15
    """Share of the samples of such a model whose actions are not."""


def loss(
    model: GaussianWorldModel, batch: TokenWindows, *, config: LossConfig = LossConfig(), steps: Steps | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scalar loss and metrics of a batch [b]; random levels and noise come from torch's generator.

    Args:
        steps: whose ends the batch's truth about motion is of, by default single frames.
    """
    steps = steps or Steps.regular(batch.motion.shape[1], stride=1, frame_seconds=model.spec.step_seconds)
    # The denoiser takes the foreseen hand as it will get it, errors and all; it does not teach the hand.
    with torch.no_grad():
        given = model.proprio.condition(batch.actions, track=batch.track, task=batch.task)
    given = given.replace(task=tasks_dropped(batch.task, text=model.config.text, rate=config.task_dropout))
    hand = (given.proprio_change - batch.proprio_change)[:, -1, :3].norm(dim=-1).mean()
    scene, given = _shaken(model.window_tokens(batch), spread=config.context_noise), given.at(steps)
    target = model.scale.normalize(batch.motion, steps)  # [b h l 6]
    moving = is_moving(batch.motion)  # [b h l]
    counts, shown = batch.known[:, None].expand_as(moving), None
    levels = draw_levels(target.shape[0], config=model.config.flow, like=target)
    noisy = noised(target, torch.randn_like(target), levels=levels)
    if model.config.dit.known_futures:
        given, shown = _partly_known(batch, given=given, target=target, moving=moving, config=config)
    estimate = model.denoiser(
        noisy, levels, scene=scene, given=given, scale=model.scale.at(steps), steps=steps, known=shown
    )
    if shown is not None:
        counts = counts & ~shown.known
    parts = motion_losses(estimate, target, moving=moving, known=counts)
    parts["points"], metrics = _point_loss(model, estimate, batch=batch, steps=steps)
    parts["outcome"] = outcome_loss(estimate.outcome, batch, scale=model.reward_scale, steps=steps)
    total = functools.reduce(torch.add, [getattr(config, name) * value for name, value in parts.items()])
    return total, {**{k: v.detach() for k, v in parts.items()}, **metrics, "hand_mm": 1e3 * hand.detach()}


def _partly_known(
    batch: TokenWindows, *, given: RobotCondition, target: Tensor, moving: Tensor, config: LossConfig
) -> tuple[RobotCondition, KnownMotion | None]:
    """Without the actions of some samples, and with a part of the future of all, as often as the configuration says."""
    absent = torch.rand(len(target), device=target.device) < config.absent_actions
    given = given.without_actions(absent)
    if float(torch.rand(())) >= config.shown_futures:
        return given, None
    shown = drawn_known(batch.motion, batch.anchors, moving=moving) & batch.known[:, None]
    return given, KnownMotion(target, shown)


def _shaken(scene: SceneTokens, *, spread: float) -> SceneTokens:
    """Tokens and past motion with noise."""
    if spread == 0:
        return scene
    gain, apart = 1 + spread * torch.randn_like(scene.past[..., :1]), 0.002 * spread * torch.randn_like(scene.past)
    moved = scene.past.abs().amax(-1, keepdim=True) > 0  # what rests is known to
    tokens = scene.tokens + spread * torch.randn_like(scene.tokens)
    return scene.replace(tokens=tokens, past=(scene.past * gain + apart) * moved)


def skin_logits(model: GaussianWorldModel, batch: TokenWindows) -> Tensor:
    """What the skin says of the rows of prepared windows, [b r j+1]."""
    return model.skin(
        AnchorFeatures(batch.rows, past=batch.row_past, rgb=batch.row_rgb),
        AnchorFeatures(batch.anchors, past=batch.anchor_past, rgb=batch.anchor_rgb),
        tokens=model.scaled(batch.tokens),
        hand=batch.past_proprio[:, -1, :3],
        skin_index=batch.skin_index,
    )


def _point_loss(
    model: GaussianWorldModel, estimate: MotionEstimate, *, batch: TokenWindows, steps: Steps
) -> tuple[Tensor, dict[str, Tensor]]:
    """Error of the displacement of memory rows in cm, moving and still rows in equal shares, and its metrics in mm."""
    logits = skin_logits(model, batch)
    motion = model.scale.denormalize(estimate.motion, steps) * estimate.gate.sigmoid()[..., None]
    poses = pose_about(batch.anchors[:, None], motion[..., :3], shift=motion[..., 3:])  # [b h l 7]
    weights = model.skin.weights(logits, hard=False)
    moved = skinned_displacement(batch.rows, poses, skin_index=batch.skin_index, skin_weights=weights)
    error = 100 * (moved - batch.displacement).norm(dim=-1)  # [b h r] cm
    smooth = torch.where(error < 0.5, error.square(), error - 0.25)
    moving = (batch.displacement.norm(dim=-1) > 2 * MOVING_M).to(error)
    with torch.no_grad():
        metrics = {
            "epe_moving_mm": 10 * weighted_mean(error[:, -1], moving[:, -1]),
            "epe_still_mm": 10 * weighted_mean(error[:, -1], 1 - moving[:, -1]),
            "epe_zero_mm": 1e3 * weighted_mean(batch.displacement[:, -1].norm(dim=-1), moving[:, -1]),
        }
    return weighted_mean(smooth, moving) + weighted_mean(smooth, 1 - moving), metrics
