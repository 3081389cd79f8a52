"""Training of an action head: batches of samples, augmented so that it does not learn them by heart; the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scene4d.policy.head import ActionHead, head_loss
from scene4d.policy.learning.samples import PolicySamples
from scene4d.types import Cameras, Frames

PLACE_NOISE_M = 0.1
"""Standard deviation of the noise on the hand's position over the table: in a few dozen demonstrations that position
gives away what is to be done next, and the head would not look at the views."""
KEEP_GOAL = 0.9
"""Share of the samples that keep their goal, so that the head can do without one."""
NUM_HOLES, HOLE = 3, 0.4
"""How many rectangles are taken out of a view in training, and the longest side of one as a share of the view's."""

GOAL_NOISE_M, OTHER_GOAL_NOISE_M = 0.01, 0.05
"""Standard deviation of the noise on goals in training: where the goal is needed, and where it is not yet."""


def set_head_statistics(head: ActionHead, samples: PolicySamples) -> None:
    """Normalise a head by its training samples; call before the first step."""
    head.set_statistics(actions=samples.labels[samples.valid], proprio=samples.proprio)


def policy_batches(
    samples: PolicySamples,
    *,
    num_views: int,
    batch_size: int = 48,
    seed: int = 0,
    keep_future: float = 0.5,
    from_memory: bool = False,
) -> Callable[[int], dict[str, Any]]:
    """Batches for the training loop: step -> batch, a function of (seed, step) alone.

    Every epoch is a new order of all samples. Colours and proprioception get a little noise; the forecast's views are
    left out of a batch with probability 1 - `keep_future`, so that the head can do without. Of views rendered
    `from_memory`, parts are cut out (what real cameras cover changes with where they stand), and the hand's position
    over the table gets more noise, for such views follow the hand.
    """
    count = len(samples.task_rows)
    per_epoch = max(1, count // batch_size)

    def batch(step: int) -> dict[str, Any]:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step + 1)
        picked = samples[order[place * batch_size : (place + 1) * batch_size]]
        if torch.rand((), generator=generator) >= keep_future:
            picked = without_future(picked, num_views=num_views)
        # The proprioception that the head gets is noisy; the position that its views are seen from is not.
        noise = 0.02 * torch.randn(picked.proprio.shape, generator=generator)
        if from_memory:
            picked = with_holes(picked, generator=generator)
            noise[:, :2] += PLACE_NOISE_M * torch.randn(len(noise), 2, generator=generator)
        augmented = batch_from_samples(recoloured(picked, generator=generator))
        goal = other_goals(picked, generator=generator)
        goal = goal.masked_fill(torch.rand(len(noise), 1, generator=generator) >= KEEP_GOAL, torch.nan)
        return augmented | {"proprio": picked.proprio + noise, "hand": picked.proprio[:, :3], "goal": goal}

    return batch


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


def batch_from_samples(samples: PolicySamples) -> dict[str, Any]:
    """Samples [b] unpacked for `policy_loss`."""
    height, width = samples.depth.shape[-2:]
    views = Frames(
        rgb=samples.rgb.float() / 255 if samples.rgb.dtype == torch.uint8 else samples.rgb,
        depth=samples.depth.float(),
        alpha=samples.alpha.float() / 255,
        cameras=Cameras(viewmats=samples.viewmats, Ks=samples.Ks, width=width, height=height),
    )
    return {
        "views": views,
        "features": samples.features.float() if samples.features.shape[1] else None,
        "proprio": samples.proprio,
        "goal": samples.goal,
        "task_rows": samples.task_rows,
        "actions": samples.labels,
        "valid": samples.valid,
        "keypose": samples.keypose,
    }


def policy_loss(head: ActionHead) -> Callable[[dict], tuple[Tensor, Mapping[str, Tensor]]]:
    """The loss that the training loop minimises: batch -> (scalar, metrics)."""
    return lambda batch: head_loss(head, batch)
