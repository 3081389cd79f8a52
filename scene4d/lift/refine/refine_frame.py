"""A few gradient steps that make freshly lifted Gaussians render to the very images they were lifted from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.lift.refine.sparse_adam import adam_step
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class RefineFrameConfig:
    """How Gaussians are polished: splats overlap and spill over edges, so that a lift alone renders blurred."""

    shift_rate: float = 0.08
    """Step size of the position, in pixel spacings."""
    scale_rate: float = 0.04
    """Step size of the log scales."""
    opacity_rate: float = 0.2
    """Step size of the opacity logits."""
    colour_rate: float = 0.03
    """Step size of the degree-0 colours."""
    max_shift: float = 0.5
    """Farthest a Gaussian may go from where it was measured, in pixel spacings."""
    max_scale: float = 2.0
    """Most that a scale may grow or shrink."""
    colour_pull: float = 0.1
    """Weight of staying near the measured colour: what suits these views alone looks like confetti from others."""
    coverage: float = 0.1
    """Weight of covering every measured pixel, beside the squared colour error."""


def refine_frame(
    gaussians: Gaussians,
    frames: Frames,
    *,
    measured: Gaussians,
    spacing: Tensor,
    free: Tensor | None = None,
    num_steps: int,
    config: RefineFrameConfig | None = None,
) -> Gaussians:
    """Gaussians [n] after `num_steps` of Adam on colour error in `frames` [v], never far from `measured`.

    Args:
        gaussians: where to start; the same rows as `measured`, whose means and scales bound the change.
        frames: what was seen at this instant; pixels without colour have no say.
        spacing: size in m of a pixel at each Gaussian, [n].
        free: the rows [n] that may change; what is hidden now had better stay as it was.
    """
    config = config or RefineFrameConfig()
    if num_steps <= 0 or gaussians.num_gaussians == 0:
        return gaussians
    say = torch.ones_like(frames.rgb[..., 0]) if frames.alpha is None else (frames.alpha > 0.5).float()
    centre, span = measured.means, spacing[:, None].float()
    shift = ((gaussians.means - centre) / span).clamp(-config.max_shift, config.max_shift).requires_grad_()
    growth = (gaussians.scales / measured.scales).log().requires_grad_()
    opacity = torch.logit(gaussians.opacities.clamp(0.02, 0.98)).requires_grad_()
    colour = gaussians.sh.detach().clone().requires_grad_()
    rates = {
        shift: config.shift_rate,
        growth: config.scale_rate,
        opacity: config.opacity_rate,
        colour: config.colour_rate,
    }
    moments = {x: (torch.zeros_like(x), torch.zeros_like(x)) for x in rates}
    limit = float(torch.tensor(config.max_scale).log())
    bare = measured.replace(extras={})

    def built() -> Gaussians:
        return bare.replace(
            means=centre + span * shift, scales=measured.scales * growth.exp(), opacities=opacity.sigmoid(), sh=colour
        )

    for step in range(num_steps):
        with torch.enable_grad():
            now = built()
            drawn = render(now, frames.cameras)
            loss = (say[..., None] * (drawn.rgb - frames.rgb) ** 2).mean() * 3
            loss = loss + config.coverage * (say * (1 - drawn.alpha) ** 2).mean()
            loss = loss + config.colour_pull * ((colour - measured.sh) ** 2).mean()
            slopes = torch.autograd.grad(loss, list(rates))
        # The last steps are short, or the image ends as noisy as they are long.
        damped = min(1.0, 2.0 * (1 - step / num_steps))
        for (x, rate), slope in zip(rates.items(), slopes, strict=True):
            if free is not None:
                slope = slope * free.reshape(-1, *[1] * (x.ndim - 1))
            adam_step(x, slope, moments[x], rate=rate * damped, count=step + 1)
        with torch.no_grad():
            shift.clamp_(-config.max_shift, config.max_shift)
            growth.clamp_(-limit, limit)
    with torch.no_grad():
        return built().detach().replace(extras=gaussians.extras)
