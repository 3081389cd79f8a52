"""Augmentation of the training samples of an action head, so that it does not learn them by heart."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.policy.learning.samples import PolicySamples

NUM_HOLES, HOLE = 3, 0.4
"""How many rectangles are taken out of a view in training, and the longest side of one as a share of the view's."""

GOAL_NOISE_M, OTHER_GOAL_NOISE_M = 0.01, 0.05
"""Standard deviation of the noise on goals in training: where the goal is needed, and where it is not yet."""


def without_future(samples: PolicySamples, *, num_views: int) -> PolicySamples:
    """The views of now alone, as of an agent that does not ask the world model for anything."""
    return samples.replace(
        features=samples.features[:, :0],
        **{k: getattr(samples, k)[:, :num_views] for k in ("rgb", "depth", "alpha", "viewmats", "Ks")},
    )


def with_holes(samples: PolicySamples, *, generator: torch.Generator) -> PolicySamples:
    """A few rectangles of each view, of up to HOLE of its side, hold nothing."""
    lead, (height, width) = samples.depth.shape[:2], samples.depth.shape[-2:]
    whole = torch.ones(*lead, height, width, dtype=torch.bool)
    for _ in range(NUM_HOLES):
        start, size = torch.rand(2, *lead, 2, generator=generator)  # [b w 2] shares of the side
        size = size * HOLE
        start = start * (1 + size) - size  # over the edges too
        inside = []
        for axis, length in enumerate((height, width)):
            at = (torch.arange(length) + 0.5) / length
            low = start[..., axis, None]
            inside.append((at >= low) & (at < low + size[..., axis, None]))
        whole &= ~(inside[0][..., :, None] & inside[1][..., None, :])
    return samples.replace(rgb=samples.rgb * whole[..., None], depth=samples.depth * whole, alpha=samples.alpha * whole)


def recoloured(samples: PolicySamples, *, generator: torch.Generator) -> PolicySamples:
    """Each moment in another light."""
    count = len(samples.task_rows)
    gain = 1 + 0.15 * torch.randn(count, 1, 1, 1, 3, generator=generator)
    shift = 0.05 * torch.randn(count, 1, 1, 1, 3, generator=generator)
    rgb = (samples.rgb.float() / 255 * gain + shift).clamp(0, 1)
    return samples.replace(rgb=rgb)


def other_goals(samples: PolicySamples, *, generator: torch.Generator) -> Tensor:
    """Goals [b 3] m for a batch, NaN where there is none: those of other samples where the goal is not needed yet.

    Every demonstration has a goal of its own, so that a head would know it by its goal and the object's place by heart.
    """
    goal, count = samples.goal, len(samples.task_rows)
    known = goal.isfinite().all(-1).nonzero()[:, 0]
    if not len(known):
        return goal
    others = goal[known[torch.randint(len(known), (count,), generator=generator)]]
    near, far = torch.randn(2, count, 3, generator=generator)
    free = (samples.goal_free & goal.isfinite().all(-1))[:, None]
    return torch.where(free, others + OTHER_GOAL_NOISE_M * far, goal + GOAL_NOISE_M * near)
