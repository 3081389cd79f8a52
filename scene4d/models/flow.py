"""Flow matching with prediction of the clean sample: noise levels, the path, the loss and the few-step sampler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from scene4d.layers import sinusoidal_embedding


@dataclass(frozen=True)
class FlowConfig:
    """Where training looks on the way from noise (level 0) to data (level 1)."""

    level_mean: float = -0.6
    """Mean of the logit of the level; below 0 = nearer to noise, where the future is decided."""
    level_std: float = 1.2
    """Standard deviation of the logit of the level."""
    pure_noise: float = 0.3
    """Share of the samples at level 0 exactly: the first and most telling step of the sampler."""


class Sampler:
    """What models that draw from noise in a few steps share; implements `Samples`."""

    sampler_steps = 4
    """Steps of the sampler, where nobody chose (`with_sampler`)."""

    def with_sampler(self, num_steps: int) -> Self:
        """The same model, its weights shared, with another number of sampler steps; 1 = the network's mean."""
        other = copy.copy(self)
        other.sampler_steps = num_steps
        return other


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
    draw = lambda seed: torch.randn(*shape, generator=torch.Generator().manual_seed(int(seed)), dtype=torch.float32)
    return torch.stack([draw(seed) for seed in seeds]).to(like)


def step_features(
    levels: Tensor, actions: Tensor, *, last_action: Tensor, gaps: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What a denoiser is given of now and each of the h steps to come, at levels [b] (now: 1).

    The action that leads there and the sum of actions [b h a] since now (a quarter of it) [b 1+h 2a], of which the one
    before, last_action [b a], led to now; noise level and step number, embedded [b 1+h 48].

    Args:
        gaps: [h] frames that each action is held, by default 1.
    """
    num_steps = actions.shape[1]
    held = actions if gaps is None else actions * gaps[:, None]
    total = torch.cat([torch.zeros_like(last_action)[:, None], held.cumsum(1)], 1) / 4
    led = torch.cat([torch.cat([last_action[:, None], actions], 1), total], -1)
    level = torch.cat([torch.ones_like(levels)[:, None], levels[:, None].expand(-1, num_steps)], 1)
    number = torch.arange(num_steps + 1.0, device=levels.device)
    number = sinusoidal_embedding(number, 16, shortest=3.0, longest=64.0).expand(len(levels), -1, -1)
    return led, torch.cat([sinusoidal_embedding(level, 32, shortest=0.05, longest=4.0), number], -1)


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
