"""Training of an action head: batches of samples, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scene4d.policy.head import ActionHead, head_loss
from scene4d.policy.learning.label_augment import other_goals, recoloured, with_holes, without_future
from scene4d.policy.learning.samples import PolicySamples
from scene4d.types import Cameras, Frames

PLACE_NOISE_M = 0.1
"""Standard deviation of the noise on the hand's position over the table: in a few dozen demonstrations that position
gives away what is to be done next, and the head would not look at the views."""
KEEP_GOAL = 0.9
"""Share of the samples that keep their goal, so that the head can do without one."""


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
