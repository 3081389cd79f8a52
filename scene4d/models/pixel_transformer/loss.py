"""What the 2D baseline learns from: the loss on clips, its scales, and the error that its rate is chosen by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scene4d.models.flow import noised
from scene4d.models.pixel_transformer.network import Clip, PixelModel

HIDDEN_STATE = 0.2
"""Share of the samples that do not get the robot's own state, as in the later chunks of a long forecast."""


@torch.no_grad()
def set_scale(model: PixelModel, clips: Sequence[Clip]) -> None:
    """Take the spread of what is added at each step from training clips [b]; once, before training."""
    added = torch.cat([c.known_future - c.pictures[:, -1:] for c in clips])
    model.scale.copy_(added.square().mean((0, 2, 3, 4, 5)).sqrt().clamp_min(1e-3))


def loss(model: PixelModel, clip: Clip, *, levels: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of the clean residual of clips [b] seen at levels [b] through noise [b h l c], and metrics.

    Which samples do not get the robot's own state comes from torch's generator.
    """
    clip = clip.replace(known=clip.known * (torch.rand(len(levels), device=levels.device) >= HIDDEN_STATE))
    target = model.residual(clip)  # [b h l c]
    clean = model(noised(target, noise, levels=levels), levels, clip=clip)
    return (clean - target).square().mean(), {"copy": target.square().mean()}


@torch.no_grad()
def mean_error(model: PixelModel, clips: Sequence[Clip], *, seed: int = 0) -> tuple[float, float]:
    """Mean squared error of the forecast from pure noise in one step, and that of copying the last picture."""
    ours, copy = [], []
    for number, clip in enumerate(clips):
        target = model.residual(clip)
        draw = torch.Generator().manual_seed(seed * 100_003 + number)
        noise = torch.randn(target.shape, generator=draw).to(target)
        clean = model(noise, torch.zeros(target.shape[0]).to(target), clip=clip)
        unit = model.scale[:, None, None]
        ours.append(((clean - target) * unit).square().mean())
        copy.append((target * unit).square().mean())
    return float(torch.stack(ours).mean()), float(torch.stack(copy).mean())
