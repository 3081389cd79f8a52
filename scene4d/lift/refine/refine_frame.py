"""A few gradient steps that make freshly lifted Gaussians render to the very images they were lifted from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.frame_images import alpha_of
from scene4d.lift.refine.adam_loop import descend
from scene4d.lift.refine.sparse_adam import SparseAdam
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians


@dataclass(frozen=True)
class RefineFrameConfig:
    """How Gaussians are refined: splats overlap and spill over edges, so that a lift alone renders blurred."""

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
        frames: what was seen at this instant; pixels without colour do not count.
        spacing: size in m of a pixel at each Gaussian, [n].
        free: the rows [n] that may change; what is hidden now had better stay as it was.
    """
    config = config or RefineFrameConfig()
    if num_steps <= 0 or gaussians.num_gaussians == 0:
        return gaussians
    usable = torch.ones_like(frames.rgb[..., 0]) if frames.alpha is None else (frames.alpha > 0.5).float()
    centre, span = measured.means, spacing[:, None].float()
    values = {
        "shift": ((gaussians.means - centre) / span).clamp(-config.max_shift, config.max_shift),
        "growth": (gaussians.scales / measured.scales).log(),
        "logits": torch.logit(gaussians.opacities.clamp(0.02, 0.98)),
        "sh": gaussians.sh.detach().clone(),
    }
    rates = (config.shift_rate, config.scale_rate, config.opacity_rate, config.colour_rate)
    adam = SparseAdam(
        values,
        rates=dict(zip(values, rates, strict=True)),
        beta2=0.99,
        damping=short_at_the_end,
        limits={"shift": config.max_shift, "growth": float(torch.tensor(config.max_scale).log())},
        mask=free,
    )
    bare = measured.replace(extras={})

    def built(leaves: Mapping[str, Tensor]) -> Gaussians:
        return bare.replace(
            means=centre + span * leaves["shift"],
            scales=measured.scales * leaves["growth"].exp(),
            opacities=leaves["logits"].sigmoid(),
            sh=leaves["sh"],
        )

    def loss_of_step(step: int) -> Tensor:
        leaves = adam.leaves()
        drawn = render(built(leaves), frames.cameras)
        loss = (usable[..., None] * (drawn.rgb - frames.rgb) ** 2).mean() * 3
        loss = loss + config.coverage * (usable * (1 - alpha_of(drawn)) ** 2).mean()
        return loss + config.colour_pull * ((leaves["sh"] - measured.sh) ** 2).mean()

    descend(loss_of_step, optimizer=adam, steps=num_steps)
    return built(adam.values).detach().replace(extras=gaussians.extras)


def short_at_the_end(done: float) -> float:
    """Factor of the rates when a share `done` is over: the last steps are short, or images end as noisy as they are."""
    return min(1.0, 2.0 * (1 - done))
