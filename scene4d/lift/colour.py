"""Colours that render to the recorded image: the blur of overlapping splats, solved away in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.sh import SH_C0
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class ColourConfig:
    """How colours are solved for."""

    num_steps: int = 4
    """Conjugate gradient steps; each renders and back-propagates every frame once."""
    damping: float = 0.05
    """Pull towards the colours given, in pixels of evidence: hardly seen Gaussians keep theirs."""
    eps2d: float = 0.3
    """Blur in px^2 of the renders that the colours are meant for."""
    min_alpha: float = 0.5
    """Coverage from which a pixel has a say."""


def sharpen_colours(gaussians: Gaussians, frames: Frames, *, config: ColourConfig | None = None) -> Gaussians:
    """The Gaussians with the degree-0 colours whose render is nearest to the frames, in the least-squares sense.

    A render is linear in the colours, so a few preconditioned conjugate gradient steps on the normal equations undo
    the blur that footprint and `eps2d` bring, where gradient descent on everything would need hundreds.

    Args:
        gaussians: [n].
        frames: [v] recorded from the same instant; pixels with alpha <= 0.5 have no say.
    Returns:
        The same Gaussians with another sh.
    """
    config = config or ColourConfig()
    with torch.no_grad():
        now = render(gaussians, frames.cameras, eps2d=config.eps2d)
    say = (now.alpha > config.min_alpha).to(now.rgb)  # type: ignore[operator]  # [v h w]
    if frames.alpha is not None:
        say = say * (frames.alpha > 0.5)
    change = solve_colours(gaussians, frames.cameras, residual=frames.rgb - now.rgb, weights=say, config=config)
    sh = gaussians.sh.clone()
    sh[:, 0] += change / SH_C0
    return gaussians.replace(sh=sh)


def solve_colours(gaussians: Gaussians, cameras, *, residual: Tensor, weights: Tensor, config: ColourConfig) -> Tensor:
    """Change of colour [n 3] that explains a residual [v h w 3] with pixel weights [v h w]."""
    bare = gaussians.replace(extras={"change": torch.zeros_like(gaussians.means)})
    probe = bare.extras["change"].requires_grad_()
    drawn = render(bare, cameras, extras=("change",), eps2d=config.eps2d).extras["change"]

    def gather(image: Tensor) -> Tensor:
        return torch.autograd.grad(drawn, probe, image * weights[..., None], retain_graph=True)[0]

    def normal(x: Tensor) -> Tensor:
        with torch.no_grad():
            image = render(bare.replace(extras={"change": x}), cameras, extras=("change",), eps2d=config.eps2d)
        return gather(image.extras["change"]) + config.damping * x

    scale = gather(torch.ones_like(residual)) + config.damping  # [n 3]: row sums, a good enough diagonal
    solution = torch.zeros_like(probe)
    left = gather(residual)
    step = left / scale
    energy = (left * step).sum()
    for _ in range(config.num_steps):
        image = normal(step)
        length = energy / (step * image).sum().clamp_min(1e-20)
        solution = solution + length * step
        left = left - length * image
        better = left / scale
        before, energy = energy, (left * better).sum()
        step = better + (energy / before.clamp_min(1e-20)) * step
    return solution.detach()
