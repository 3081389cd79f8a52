"""What a network says of the motion of anchors, which of them rest, and the losses of that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scene4d.models.instants import Steps
from scene4d.models.tokens.token_windows import TokenWindows
from scene4d.tensor_struct import TensorStruct, shapes


@dataclass(frozen=True)
class MotionEstimate(TensorStruct):
    """What is estimated of anchors: motion [b h l 6], scaled, and log_var [b h l 6] of it; gate [b h l], a logit;
    outcome [b h 3]: scaled reward, logit of success at the step, logit of having succeeded by then."""

    motion: Tensor
    gate: Tensor
    log_var: Tensor
    outcome: Tensor

    SHAPES = shapes(outcome="*b h c")


def moving_anchors(gate: Tensor, *, past: Tensor, thresholds: tuple[float, float]) -> Tensor:
    """Whether anchors move [b h l], from logits of that [b h l] and their past motion [b l 6]; 0 is at rest.

    `thresholds`: probability from which one at rest sets out, and from which one that has moved goes on. The first is
    high: what stands beside a moving object and is once predicted to move with it would count as moving, for the
    rest of a long forecast.
    """
    setting_out, going_on = thresholds
    likely = gate.sigmoid()
    out = (past != 0).any(-1)[:, None] | (likely > setting_out).cummax(1).values
    return out & (likely > going_on)


def motion_losses(estimate: MotionEstimate, target: Tensor, *, moving: Tensor, known: Tensor) -> dict[str, Tensor]:
    """{flow_matching: squared error, likelihood: negative log-likelihood, gate} of scaled targets [b h l 6].

    What stands still teaches the motion little, the gate is there for it. moving, known: [b h l] bool.
    """
    weight = known * (0.1 + 0.9 * moving)  # [b h l]
    weight = weight / weight.sum().clamp_min(1.0)
    square = (estimate.motion - target).square()  # [b h l 6]
    log_var = estimate.log_var.clamp(-12, 6)
    likelihood = 0.5 * (square.detach() / log_var.exp() + log_var).mean(-1)
    gate = F.binary_cross_entropy_with_logits(estimate.gate, moving.to(estimate.gate), reduction="none")
    return {
        "flow_matching": (weight * square.mean(-1)).sum(),
        "likelihood": (weight * likelihood).sum(),
        # Few anchors move; both kinds count the same, or a shy gate would hold back motion that is well known.
        "gate": 0.5 * (weighted_mean(gate, known & moving) + weighted_mean(gate, known & ~moving)),
    }


def outcome_loss(outcome: Tensor, batch: TokenWindows, *, scale: Tensor, steps: Steps | None = None) -> Tensor:
    """Reward, success at each step, and success by each step; what a recording does not tell (NaN) is passed over.

    Args:
        steps: of the outcome [b h 3], by default single frames.
    """
    at = (lambda x: x) if steps is None else steps.pick
    by_then = at(batch.success.nan_to_num().cummax(1).values)
    success, reward = at(batch.success), at(batch.reward)
    wanted = torch.stack([success.nan_to_num(), by_then], -1)
    logits = F.binary_cross_entropy_with_logits(outcome[..., 1:], wanted, reduction="none")
    square = (outcome[..., 0] - reward.nan_to_num() / scale).square()
    return weighted_mean(logits.mean(-1), success.isfinite()) + weighted_mean(square, reward.isfinite())


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean; 0 where nothing has weight."""
    return (values * weights).sum() / weights.sum().clamp_min(1)
