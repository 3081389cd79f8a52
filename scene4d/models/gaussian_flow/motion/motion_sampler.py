"""The motion of the anchors drawn from the denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.models.flow import sample
from scene4d.models.gaussian_flow.networks.dit import Denoised, DiT, Drive, SceneTokens

PART = 8
"""Samples that the denoiser takes at once on a CPU: what its cache holds, which is half again as fast."""


def moving_anchors(gate: Tensor, *, past: Tensor, thresholds: tuple[float, float]) -> Tensor:
    """Whether anchors move [b h l], from logits of that [b h l] and their past motion [b l 6]; 0 is at rest.

    `thresholds`: probability from which one at rest sets out, and from which one that has moved goes on. The first is
    high: a frame that once goes along with its door would be taken for what moves, for the rest of a long forecast.
    """
    setting_out, going_on = thresholds
    likely = gate.sigmoid()
    out = (past != 0).any(-1)[:, None] | (likely > setting_out).cummax(1).values
    return out & (likely > going_on)


@torch.no_grad()
def sample_motion(
    denoiser: DiT,
    noise: Tensor,
    *,
    scene: SceneTokens,
    drive: Drive,
    scale: Tensor,
    thresholds: tuple[float, float],
    steps: int,
) -> tuple[Tensor, Denoised]:
    """Scaled motion [b h l 6] from noise of that shape in `steps` steps, and what the denoiser says of it.

    `scale` [horizon 6] turns scaled motion into rad and m. What rests has motion 0: see `moving_anchors`.
    """
    said: list[Denoised] = []

    def clean(x: Tensor, levels: Tensor) -> Tensor:
        num = PART if x.device.type == "cpu" else len(x)
        parts = [slice(i, i + num) for i in range(0, len(x), num)]
        each = [denoiser(x[p], levels[p], scene=scene[p], drive=drive[p], scale=scale) for p in parts]
        said.append(each[0] if len(each) == 1 else Denoised.cat(each))
        return said[-1].clean

    x = sample(clean, noise, steps=steps)
    # How sure it is, it says before it has seen its own guess: later steps take that for evidence.
    said[-1] = said[-1].replace(log_var=said[0].log_var, gate=said[0].gate)
    moves = moving_anchors(said[-1].gate, past=scene.past, thresholds=thresholds)
    return x * moves[..., None], said[-1]
