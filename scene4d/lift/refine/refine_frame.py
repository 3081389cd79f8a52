"""A few gradient steps that make freshly lifted Gaussians render to the very images they were lifted from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scene4d.geometry.frame_images import alpha_of
from scene4d.lift.refine.adam_loop import descend
from scene4d.lift.refine.refine_config import RefineFrameConfig, RefineSceneConfig
from scene4d.lift.refine.sparse_adam import SparseAdam
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians


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
    usable, span = usable_pixels(frames), spacing[:, None].float()
    shift = ((gaussians.means - measured.means) / span).clamp(-config.max_shift, config.max_shift)
    growth = (gaussians.scales / measured.scales).log()
    adam = look_optimizer(gaussians, shift=shift, growth=growth, config=config, beta2=0.99, mask=free)
    bare = measured.replace(extras={})

    def loss_of_step(step: int) -> Tensor:
        leaves = adam.leaves()
        drawn = render(bare.replace(**changed_look(bare, leaves, size=span)), frames.cameras)
        loss = misfit(drawn, frames, solid=usable, coverage=config.coverage)
        return loss + config.colour_pull * ((leaves["sh"] - measured.sh) ** 2).mean()

    descend(loss_of_step, optimizer=adam, steps=num_steps)
    found = bare.replace(**changed_look(bare, adam.values, size=span))
    return found.detach().replace(extras=gaussians.extras)


def usable_pixels(frames: Frames) -> Tensor:
    """[*b h w] 1 where a recorded colour is usable, else 0."""
    return torch.ones_like(frames.rgb[..., 0]) if frames.alpha is None else (frames.alpha > 0.5).float()


def misfit(drawn: Frames, seen: Frames, *, solid: Tensor, coverage: float) -> Tensor:
    """Squared colour error and, times `coverage`, missing coverage where `solid` [*b h w] is 1."""
    loss = 3 * (solid[..., None] * (drawn.rgb - seen.rgb) ** 2).mean()
    return loss + coverage * (solid * (1 - alpha_of(drawn)) ** 2).mean()


def look_optimizer(
    rows: Gaussians,
    *,
    shift: Tensor,
    growth: Tensor,
    config: RefineFrameConfig | RefineSceneConfig,
    beta2: float,
    skip_unseen: bool = False,
    mask: Tensor | None = None,
) -> SparseAdam:
    """Adam on what Gaussians [n] look like: from `shift` and `growth` [n 3] on, and from their opacities and sh.

    The last steps are short, or images end as noisy as they are. beta2, skip_unseen, mask: as `SparseAdam` has them.
    """
    values = {
        "shift": shift,
        "growth": growth,
        "logits": torch.logit(rows.opacities.clamp(0.02, 0.98)),
        "sh": rows.sh.detach().clone(),
    }
    rates = (config.shift_rate, config.scale_rate, config.opacity_rate, config.colour_rate)
    limits = {"shift": config.max_shift, "growth": float(torch.tensor(config.max_scale).log())}
    rates, damping = dict(zip(values, rates, strict=True)), lambda done: min(1.0, 2.0 * (1 - done))
    return SparseAdam(
        values, rates=rates, beta2=beta2, damping=damping, limits=limits, skip_unseen=skip_unseen, mask=mask
    )


def changed_look(start: Gaussians, leaves: Mapping[str, Tensor], *, size: Tensor) -> dict[str, Tensor]:
    """Fields of Gaussians [n] that the optimiser's leaves change; shifts are in units of `size` m, [n 1]."""
    return {
        "means": start.means + size * leaves["shift"],
        "scales": start.scales * leaves["growth"].exp(),
        "opacities": leaves["logits"].sigmoid(),
        "sh": leaves["sh"],
    }
