"""The motion of the anchors drawn from the denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.models.flow import sample
from scene4d.models.gaussian_flow.networks.dit import DiT
from scene4d.models.proprio import RobotCondition
from scene4d.models.tokens.motion_estimate import MotionEstimate, moving_anchors
from scene4d.models.tokens.scene_tokens import SceneTokens

PART = 8
"""Samples that the denoiser takes at once on a CPU: what its cache holds, which is half again as fast."""


@torch.no_grad()
def sample_motion(
    denoiser: DiT,
    noise: Tensor,
    *,
    scene: SceneTokens,
    given: RobotCondition,
    scale: Tensor,
    thresholds: tuple[float, float],
    steps: int,
) -> tuple[Tensor, MotionEstimate]:
    """Scaled motion [b h l 6] from noise of that shape in `steps` steps, and what the denoiser says of it.

    `scale` [horizon 6] turns scaled motion into rad and m. What rests has motion 0: see `moving_anchors`.
    """
    estimates: list[MotionEstimate] = []

    def clean(x: Tensor, levels: Tensor) -> Tensor:
        num = PART if x.device.type == "cpu" else len(x)
        parts = [slice(i, i + num) for i in range(0, len(x), num)]
        each = [denoiser(x[p], levels[p], scene=scene[p], given=given[p], scale=scale) for p in parts]
        estimates.append(each[0] if len(each) == 1 else MotionEstimate.cat(each))
        return estimates[-1].motion

    x = sample(clean, noise, steps=steps)
    # How sure it is, it says before it has seen its own guess: later steps take that for evidence.
    estimates[-1] = estimates[-1].replace(log_var=estimates[0].log_var, gate=estimates[0].gate)
    moves = moving_anchors(estimates[-1].gate, past=scene.past, thresholds=thresholds)
    return x * moves[..., None], estimates[-1]
