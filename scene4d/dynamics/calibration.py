"""How sure the world model is, set right by episodes that its denoiser has not been trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.dynamics.flow import seeded_noise
from scene4d.dynamics.model import GaussianWorldModel
from scene4d.dynamics.sampling import sample_motion
from scene4d.dynamics.training import DynamicsBatch, is_moving, scene_tokens, track_of_batch

SHARE = 0.9
"""Share of the errors that the central interval of that name must hold."""
LEAST = 200
"""Errors of a step below which nothing is learnt from it."""


@torch.no_grad()
def calibrate(model: GaussianWorldModel, batch: DynamicsBatch, *, steps: int = 4, part: int = 32) -> Tensor:
    """Shift the log-variances so that 90 % of the errors fall within the 90 % intervals; one shift for each step ahead.

    The errors are those of the shifts of moving anchors in `batch` [b], windows kept apart from training. Result: the
    share [h] that the intervals held before (NaN where too little moves, and nothing is changed).
    """
    model.log_var_shift.zero_()
    held = model.log_var_shift.new_full((model.horizon,), float("nan"))
    if len(batch.task) == 0:
        return held
    ratios = torch.cat(
        [_ratios(model, batch[i : i + part], seed=i, steps=steps) for i in range(0, len(batch.task), part)]
    )
    sigmas = model.scale.scale.new_tensor(SHARE / 2 + 0.5)
    sigmas = 2**0.5 * torch.erfinv(2 * sigmas - 1)
    for step, each in enumerate(ratios.unbind(1)):
        each = each[each.isfinite()]
        if len(each) >= LEAST:
            held[step] = (each <= sigmas).float().mean()
            model.log_var_shift[step] = 2 * (each.quantile(SHARE) / sigmas).log()
    return held


def _ratios(model: GaussianWorldModel, batch: DynamicsBatch, *, seed: int, steps: int) -> Tensor:
    """|error| over the said standard deviation [b*l*3, h] of the anchors' shifts, NaN where an anchor does not move."""
    target = model.scale.normalize(batch.motion)  # [b h l 6]
    noise = seeded_noise([seed + i for i in range(len(target))], target.shape[1:], like=target)
    drive = model.drive(actions=batch.actions, track=track_of_batch(batch), task=batch.task)
    drawn, said = sample_motion(
        model.denoiser, noise, scene=scene_tokens(model, batch), drive=drive, scale=model.scale.scale, steps=steps
    )
    ratio = ((drawn - target).abs() / (0.5 * said.log_var).exp())[..., 3:]
    counts = is_moving(batch.motion) & batch.known[:, None]
    ratio = torch.where(counts[..., None], ratio, ratio.new_tensor(float("nan")))
    return ratio.movedim(1, -1).flatten(0, -2)
