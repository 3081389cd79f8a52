"""Colours that render to the recorded images: overlap and blur of the splats, solved away in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.gaussians.edit import with_sh_bases
from scene4d.geometry.frame_images import alpha_of
from scene4d.geometry.sh import SH_C0
from scene4d.lift.refine.adam_loop import Progress, ProgressReporter
from scene4d.render.render import render
from scene4d.types import Frames, Gaussians

# A render clamps colours at 0 and is linear above: working so far up keeps it linear. Coverage takes the level off.
LEVEL = 4.0


@dataclass(frozen=True)
class DeblurConfig:
    """How colours are solved for."""

    num_steps: int = 2
    """Conjugate gradient steps; each renders and back-propagates every frame once."""
    damping: float = 0.1
    """Pull towards the colours given, in pixels of evidence: hardly seen Gaussians keep theirs."""
    view_damping: float = 2.0
    """The same for coefficients that depend on the view (degree 1 and up)."""
    degree: int = 0
    """Highest spherical-harmonics degree of the colours."""
    eps2d: float = 0.3
    """Blur in px^2 of the renders that the colours are meant for."""
    min_alpha: float = 0.5
    """Coverage from which a pixel counts."""


def deblur_colours(
    gaussians: Gaussians, frames: Frames, *, config: DeblurConfig | None = None, progress: Progress | None = None
) -> Gaussians:
    """The Gaussians with the colours whose renders are nearest to the frames, in the least-squares sense.

    A render is linear in the colours, so a few preconditioned conjugate gradient steps on the normal equations undo
    the blur that footprint and `eps2d` bring, where gradient descent on everything would need hundreds.

    Args:
        gaussians: [n].
        frames: [v] recorded of the same scene at the same instant; pixels with alpha <= 0.5 do not count.
        progress: called with (done, total) renders.
    Returns:
        The same Gaussians with another sh.
    """
    config = config or DeblurConfig()
    count = frames.batch_shape[0]
    total, reporter = count * (config.num_steps + 1), ProgressReporter(progress)
    start = with_sh_bases(gaussians.sh, max((config.degree + 1) ** 2, gaussians.sh.shape[-2]))
    bare = gaussians.replace(sh=start, extras={})
    damping = torch.full_like(start, config.view_damping)
    damping[:, 0] = config.damping

    def gather(x: Tensor, *, first: bool) -> tuple[Tensor, Tensor]:
        """(W^T y, W^T 1): y is the residual at first, then the drawn image of x; summed over frames."""
        back, ones = torch.zeros_like(x), torch.zeros_like(x)
        for v in range(count):
            frame = frames[v]
            sh = x.detach().clone()
            sh[:, 0] += LEVEL / SH_C0
            sh.requires_grad_()
            drawn = render(bare.replace(sh=sh), frame.cameras, eps2d=config.eps2d)
            usable = (alpha_of(drawn) > config.min_alpha).to(drawn.rgb)
            if frame.alpha is not None:
                usable = usable * (frame.alpha > 0.5)
            # sh 0 means mid grey to a renderer; here x is a colour itself at first and a change of colour later.
            image = (drawn.rgb - (LEVEL + 0.5 * (not first)) * alpha_of(drawn)[..., None]).detach()
            target = frame.rgb - image if first else image
            back += torch.autograd.grad(drawn.rgb, sh, target * usable[..., None], retain_graph=first)[0]
            if first:
                ones += torch.autograd.grad(drawn.rgb, sh, usable[..., None].expand_as(target))[0]
            reporter(reporter.done + 1, total)
        return back / SH_C0, ones / SH_C0

    # Unknowns are changes in units of colour: y = SH_C0 * change of sh.
    left, rows = gather(start, first=True)
    scale = rows[:, :1].expand_as(left).clamp_min(0.0) + damping
    solution, step = torch.zeros_like(start), left / scale
    energy = (left * step).sum()
    for _ in range(config.num_steps):
        image = gather(step / SH_C0, first=False)[0] + damping * step
        length = energy / (step * image).sum().clamp_min(1e-20)
        solution = solution + length * step
        left = left - length * image
        better = left / scale
        before, energy = energy, (left * better).sum()
        step = better + (energy / before.clamp_min(1e-20)) * step
    return gaussians.replace(sh=start + solution / SH_C0)
