"""What the world model learns from: windows made ready once, and the loss on a batch of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scene4d.data.load.scene_window import Window
from scene4d.geometry.rotation import pose_about
from scene4d.geometry.sh import rgb_from_sh
from scene4d.geometry.skinning import skinned_displacement
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.motion.flow import draw_levels, noised
from scene4d.models.gaussian_flow.motion.motion_targets import anchor_motion
from scene4d.models.gaussian_flow.networks.dit import Denoised, SceneTokens
from scene4d.models.gaussian_flow.networks.proprio import Track, track_in_slots
from scene4d.models.gaussian_flow.networks.skin_head import Matter
from scene4d.models.gaussian_flow.scene.anchors import PAST_FLOW, anchor_past, choose_anchors
from scene4d.models.gaussian_flow.scene.observe import focus_of
from scene4d.robot.actions import action_slots
from scene4d.robot.slots import proprio_slots, task_embedding
from scene4d.tensor_struct import TensorStruct

MOVING_M = 0.0015
"""Motion since now in m from which an anchor counts as moving; a turn counts at an arm of 5 cm."""


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


@dataclass(frozen=True)
class DynamicsBatch(TensorStruct):
    """A window made ready: anchors, tokens and targets, and r memory rows for the point loss. Batch axes `*b`.

    tokens [*b l c] raw; anchors, anchor_rgb [*b l 3]; anchor_past [*b l 6]; motion [*b h l 6] rad, m; known [*b l];
    rows, row_rgb [*b r 3]; row_past [*b r 6]; skin_index [*b r j]; displacement [*b h r 3];
    actions [*b h 16], past_actions [*b p 16], past_proprio [*b p+1 20] (now last), past_valid [*b p] in slots;
    proprio_change [*b h 20]; task [*b 32]; reward, success [*b h], NaN where unknown.
    """

    tokens: Tensor
    anchors: Tensor
    anchor_rgb: Tensor
    anchor_past: Tensor
    motion: Tensor
    known: Tensor
    rows: Tensor
    row_rgb: Tensor
    row_past: Tensor
    skin_index: Tensor
    displacement: Tensor
    actions: Tensor
    past_actions: Tensor
    past_proprio: Tensor
    past_valid: Tensor
    proprio_change: Tensor
    task: Tensor
    reward: Tensor
    success: Tensor

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.anchors.shape[:-2])


@torch.no_grad()
def prepare(
    model: GaussianWorldModel,
    window: Window,
    *,
    context: Mapping[str, Any],
    tasks: Sequence[str],
    num_rows: int = 768,
    seed: int = 0,
) -> DynamicsBatch:
    """Make one window (no batch axes) ready: the slow part of a training step, done once and kept (about 150 kB).

    Args:
        context: action_spec and proprio_spec. tasks: the texts that `window.task` counts in.
        num_rows: memory rows kept for the point loss. seed: of their choice.
    """
    valid = window.displacement_valid
    past = (window.past_flow * window.past_flow_valid[..., None]).movedim(0, 1).flatten(1)[:, :6]  # [n 6]
    past = F.pad(past, (0, 6 - past.shape[-1]))
    memory = window.memory.replace(extras={**window.memory.extras, PAST_FLOW: past})
    alive = (memory.ids >= 0) & (memory.opacities > 0)
    memory, valid, displacement = memory.pick(alive), valid[alive], window.displacement[:, alive]
    now = window.past_proprio[-1]
    track = Track(actions=window.past_actions, proprio=window.past_proprio, valid=window.past_valid)
    track = track_in_slots(track, context)
    focus = focus_of(memory, now, context)
    index, candidates = choose_anchors(memory, focus=focus, config=model.config.anchors)
    latent, _ = model.codec.encode(memory, anchors=index)
    segments = memory.extras["segments"][:, 0].long() if "segments" in memory.extras else None
    motion, known = anchor_motion(memory.means, displacement, anchor_index=index, valid=valid, segments=segments)
    rows = _choose_rows(displacement, valid, candidates, is_moving(motion), num=num_rows, seed=seed)
    rgb = rgb_from_sh(memory.sh)
    return DynamicsBatch(
        tokens=latent.tokens,
        anchors=memory.means[index],
        anchor_rgb=rgb[index],
        anchor_past=anchor_past(memory, index, config=model.config.anchors),
        motion=motion,
        known=known,
        rows=memory.means[rows],
        row_rgb=rgb[rows],
        row_past=memory.extras[PAST_FLOW][rows],
        skin_index=candidates[rows],
        displacement=displacement[:, rows],
        actions=action_slots(window.actions, context, proprio=now),
        past_actions=track.actions,
        past_proprio=track.proprio,
        past_valid=track.valid,
        proprio_change=proprio_slots(window.proprio, context) - proprio_slots(now, context),
        task=task_embedding(tasks[int(window.task)]),
        reward=window.reward.to(motion),
        success=window.success.to(motion),
    )


def is_moving(motion: Tensor) -> Tensor:
    """Whether motion [*b 6] is enough to speak of."""
    return (motion[..., 3:].norm(dim=-1) > MOVING_M) | (0.05 * motion[..., :3].norm(dim=-1) > MOVING_M)


def _choose_rows(
    displacement: Tensor, valid: Tensor, candidates: Tensor, moving: Tensor, *, num: int, seed: int
) -> Tensor:
    """Rows [num] for the point loss: half of them moving, a quarter still beside a moving anchor, the rest any."""
    generator = torch.Generator().manual_seed(seed)
    moves = (displacement.norm(dim=-1).amax(0) > 2 * MOVING_M) & valid
    tempted = moving.any(0)[candidates].any(-1) & ~moves & valid
    rest = valid & ~moves
    chosen = []
    for mask, share in ((moves, num // 2), (tempted, num // 4), (rest, num)):
        rows = mask.nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        chosen.append(rows[: min(share, num - sum(len(c) for c in chosen))])
    rows = torch.cat(chosen)
    if len(rows) == 0:  # nothing is known of this window: the loss passes over it as standing still
        rows = torch.zeros(1, dtype=torch.int64)
    return rows[torch.arange(num) % len(rows)]


@torch.no_grad()
def set_statistics(model: GaussianWorldModel, batches: Sequence[DynamicsBatch]) -> None:
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
    batch: DynamicsBatch,
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
    total = sum(getattr(config, name) * value for name, value in parts.items())
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


def track_of_batch(batch: DynamicsBatch) -> Track:
    """How the robots of prepared windows [b] got to now."""
    return Track(actions=batch.past_actions, proprio=batch.past_proprio, valid=batch.past_valid)


def scene_tokens(model: GaussianWorldModel, batch: DynamicsBatch) -> SceneTokens:
    """What is known of the anchors of prepared windows [b]."""
    return SceneTokens(
        tokens=model.scaled(batch.tokens),
        anchors=batch.anchors,
        rgb=batch.anchor_rgb,
        past=batch.anchor_past,
    )


def skin_logits(model: GaussianWorldModel, batch: DynamicsBatch) -> Tensor:
    """What the skin says of the rows of prepared windows, [b r j+1]."""
    return model.skin(
        Matter(batch.rows, past=batch.row_past, rgb=batch.row_rgb),
        Matter(batch.anchors, past=batch.anchor_past, rgb=batch.anchor_rgb),
        tokens=model.scaled(batch.tokens),
        hand=batch.past_proprio[:, -1, :3],
        skin_index=batch.skin_index,
    )


def _outcome_loss(outcome: Tensor, batch: DynamicsBatch, *, scale: Tensor) -> Tensor:
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


def _point_loss(model: GaussianWorldModel, said: Denoised, batch: DynamicsBatch) -> tuple[Tensor, dict[str, Tensor]]:
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
