"""How sure the world model is, set right by episodes that its denoiser has not been trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.rotation import pose_about
from scene4d.geometry.skinning import skinned_displacement, skinned_variance
from scene4d.models.flow import seeded_noise
from scene4d.models.gaussian_flow.loss import skin_logits
from scene4d.models.gaussian_flow.model import GaussianWorldModel
from scene4d.models.gaussian_flow.networks.action_denoiser import ActionEvidence
from scene4d.models.instants import Steps
from scene4d.models.tokens.token_windows import TokenWindows, at_steps

SIGMAS_90 = 1.6448536
"""Half width of the central 90 % of a normal distribution, in standard deviations."""
FLOOR_M = 1e-3
"""Standard deviation in m that is added to every forecast: where Gaussians are now is not known better."""
MOVED_M = 5e-3
"""Way from which a row counts as moving."""
LEAST = 200
"""Errors of a step below which nothing is learnt from it."""
SHIFTS = torch.arange(-4.0, 4.05, 0.1)
"""Shifts of a log-variance that are tried."""
TEMPERATURES = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
"""Spreads of the noise that actions are drawn from that are tried."""
MOST_JUDGED = 128
"""Windows that temperatures are judged by, at most: every one is sampled from dozens of times."""


@torch.no_grad()
def calibrate(model: GaussianWorldModel, batch: TokenWindows, *, steps: int = 4, part: int = 32) -> Tensor:
    """Shift the log-variances to where the errors are likeliest; one shift for each step ahead.

    The errors are those of where moving rows of the memory in `batch` [b] come to be, windows kept apart from training.
    Likelihood, not the share that intervals hold: a few moments go wrong altogether, and count by how much.
    Result: the share [s h] that the 90 % intervals hold now, for each stride (NaN where too little moves: nothing is
    changed there).
    """
    held = model.log_var_shift.new_full((len(model.config.strides), model.config.horizon), float("nan"))
    if len(batch.task) == 0:
        return held
    for shares, stride in zip(held, model.config.strides, strict=True):
        strided = model.with_stride(stride)
        chunk = strided.steps_of(strided.spec.horizon, model.robots[0])  # all are of one rate
        window = at_steps(batch, chunk, instants=model.config.instants)
        count = range(0, len(window.task), part)
        parts = [_errors(model, window[i : i + part], chunk=chunk, seed=i, steps=steps) for i in count]
        squares, variances = (torch.cat(each) for each in zip(*parts, strict=True))  # [n h]
        for step in range(chunk.num):
            counts = squares[:, step].isfinite()
            if int(counts.sum()) < LEAST:
                continue
            square, variance = squares[counts, step], variances[counts, step]
            shift = min(SHIFTS.to(square), key=lambda x: float(_surprise(square, variance * x.exp() + FLOOR_M**2)))
            strided.calibration[step] = shift
            shares[step] = (square <= SIGMAS_90**2 * (variance * shift.exp() + FLOOR_M**2)).float().mean()
    return held


@torch.no_grad()
def calibrate_actions(
    model: GaussianWorldModel, batch: TokenWindows, *, steps: int = 16, num_samples: int = 8
) -> float:
    """Set the temperature at which chunks of actions differ from each other as they differ from what was done.

    A denoiser that knows its few thousand windows makes samples too much alike. `batch` [b]: windows kept apart from
    training. The temperature with the least energy score wins: the mean distance of samples to what was done, less half
    of that to each other, of the sum of a chunk's actions. Source: Gneiting and Raftery 2007.
    Result: the temperature; where nothing is kept apart it stays as it was.
    """
    intent = model.intent
    if len(batch.task) == 0:
        return float(intent.temperature)
    batch = batch[:: -(-len(batch.task) // MOST_JUDGED)]
    given = ActionEvidence(model.window_tokens(batch), batch.track, batch.task)
    done = intent.normalize(batch.actions).sum(1)  # [b 16]
    seeds = [range(k * len(done), (k + 1) * len(done)) for k in range(num_samples)]
    noise = [seeded_noise(each, batch.actions.shape[1:], like=batch.actions) for each in seeds]
    scores = {}
    for temperature in TEMPERATURES:
        intent.temperature.fill_(temperature)
        totals = [intent.normalize(intent.draw(x, given=given, steps=steps)).sum(1) for x in noise]
        drawn = torch.stack(totals)  # [s b 16]
        apart = (drawn[:, None] - drawn).norm(dim=-1).sum((0, 1)) / (num_samples * (num_samples - 1))
        scores[temperature] = float(((drawn - done).norm(dim=-1).mean(0) - 0.5 * apart).mean())
    best = min(scores, key=scores.__getitem__)
    intent.temperature.fill_(best)
    return best


def _surprise(square: Tensor, variance: Tensor) -> Tensor:
    """Twice the mean negative log-likelihood of errors with these squares [n] under normal laws, but for a constant."""
    return (square / variance + variance.log()).mean()


def _errors(
    model: GaussianWorldModel, batch: TokenWindows, *, chunk: Steps, seed: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Squared errors [b*r*3, h] of where rows come to be, NaN for rows at rest, and the variances predicted for them.

    Rows that the skin lets follow nothing have no variance to shift, and are left out.
    """
    shape = batch.motion.shape[1:]
    noise = seeded_noise([seed + i for i in range(len(batch.task))], shape, like=batch.motion)
    given = model.proprio.condition(batch.actions, track=batch.track, task=batch.task).at(chunk)
    motion, estimate = model.draw_motion(
        noise, scene=model.window_tokens(batch), given=given, steps=chunk, sampler_steps=steps
    )  # [b h l 6]
    poses = pose_about(batch.anchors[:, None], motion[..., :3], shift=motion[..., 3:])  # [b h l 7]
    weights = model.skin.weights(skin_logits(model, batch), hard=True)
    rows, index = batch.rows, batch.skin_index
    moved = skinned_displacement(rows, poses, skin_index=index, skin_weights=weights)  # [b h r 3]
    log_vars = (estimate.log_var + 2 * model.scale.at(chunk).log()[:, None]).unbind(1)  # [b l 6] each
    variance_of = lambda x: skinned_variance(rows, batch.anchors, log_var=x, skin_index=index, skin_weights=weights)
    variance = torch.stack([variance_of(x) for x in log_vars], 1)  # [b h r 3]
    counts = (batch.displacement.norm(dim=-1) > MOVED_M) & (weights.sum(-1) > 0)[:, None]
    square = torch.where(counts[..., None], (moved - batch.displacement).square(), torch.nan)
    return square.movedim(1, -1).flatten(0, -2), variance.movedim(1, -1).flatten(0, -2)
