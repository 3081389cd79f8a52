"""Flow matching with prediction of the clean sample: noise levels, the path, the loss and the few-step sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FlowConfig:
    """Where training looks on the way from noise (level 0) to data (level 1)."""

    level_mean: float = -0.6
    """Mean of the logit of the level; below 0 = nearer to noise, where the future is decided."""
    level_std: float = 1.2
    """Standard deviation of the logit of the level."""
    pure_noise: float = 0.3
    """Share of the samples at level 0 exactly: the first and most telling step of the sampler."""


def draw_levels(num: int, *, config: FlowConfig, like: Tensor) -> Tensor:
    """Levels [num] in [0, 1) for training: logit-normal, with a share at 0.

    Source: Esser et al. 2024, section 3.1 (logit-normal sampling).
    """
    logits = config.level_mean + config.level_std * torch.randn(num, dtype=like.dtype, device=like.device)
    from_noise = torch.rand(num, device=like.device) < config.pure_noise
    return torch.where(from_noise, torch.zeros_like(logits), logits.sigmoid())


def noised(clean: Tensor, noise: Tensor, *, levels: Tensor) -> Tensor:
    """(1 - level) noise + level clean, levels [b] over the leading axis."""
    levels = levels.reshape(-1, *[1] * (clean.dim() - 1))
    return (1 - levels) * noise + levels * clean


def seeded_noise(seeds: Sequence[int], shape: Sequence[int], *, like: Tensor) -> Tensor:
    """Normal noise [b *shape], row i from seeds[i] alone, whatever its neighbours in the batch or the device."""
    rows = [
        torch.randn(*shape, generator=torch.Generator().manual_seed(int(seed)), dtype=torch.float32) for seed in seeds
    ]
    return torch.stack(rows).to(like)


def sample(predict_clean: Callable[[Tensor, Tensor], Tensor], noise: Tensor, *, steps: int) -> Tensor:
    """Carry noise [b ...] to a sample in `steps` Euler steps of the straight path.

    `predict_clean(x, levels [b])` gives the clean sample; the last step lands on its prediction exactly, so `steps` = 1
    is the network's mean.
    """
    x = noise
    for i in range(steps):
        level, following = i / steps, (i + 1) / steps
        clean = predict_clean(x, x.new_full((x.shape[0],), level))
        share = (following - level) / (1 - level)
        x = x + share * (clean - x)
    return x
