"""The motion of the anchors drawn from the denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.dynamics.dit import Denoised, DiT, Drive, SceneTokens
from scene4d.dynamics.flow import sample

PART = 8
"""Samples that the denoiser takes at once on a CPU: what its cache holds, which is half again as fast."""


@torch.no_grad()
def sample_motion(
    denoiser: DiT, noise: Tensor, *, scene: SceneTokens, drive: Drive, scale: Tensor, steps: int
) -> tuple[Tensor, Denoised]:
    """Scaled motion [b h l 6] from noise of that shape in `steps` steps, and what the denoiser says of it.

    `scale` [horizon 6] turns scaled motion into rad and m.
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
    return x, said[-1].replace(log_var=said[0].log_var)
