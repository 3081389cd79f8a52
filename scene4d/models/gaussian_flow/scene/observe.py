"""What a scene tells a forecaster to start from: the rows that exist now, and how they have been moving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import GaussianError
from scene4d.gaussians.edit import by_id
from scene4d.geometry.rotation import identity_pose
from scene4d.models.gaussian_flow.scene.anchors import PAST_FLOW
from scene4d.robot.slots import proprio_slots
from scene4d.scene import Scene4D
from scene4d.types import Gaussians


def memory_of(scene: Scene4D, *, memory: Gaussians | None = None) -> Gaussians:
    """The rows [n] that exist at the last time of a scene, with extras["past_flow"] [n 6] m over the two last steps.

    `memory` gives the rows instead of `scene.at(now)`; their past is looked up by ids.
    Raises:
        GaussianError: there are none.
    """
    times = [float(t) for t in scene.times]
    flows = []
    for late in (len(times) - 1, len(times) - 2):
        flow = torch.zeros_like(scene.base.means)
        if late > 0:
            flow, valid = scene.flow(times[late - 1], times[late])
            flow = flow * valid[:, None]
        flows.append(flow)
    past = torch.cat(flows, -1)
    if memory is None:
        memory = scene.at(times[-1])
    else:
        past, _ = by_id(past, scene.base.ids, wanted=memory.ids)
    memory = memory.replace(extras={**memory.extras, PAST_FLOW: past.to(memory.means)})
    alive = (memory.opacities > 0) & (memory.ids >= 0)
    if not bool(alive.any()):
        raise GaussianError("the scene is empty now", field="scene", found=f"{memory.num_gaussians} rows, none alive")
    return memory.pick(alive)


def focus_of(memory: Gaussians, proprio: Tensor, context: Mapping[str, Any]) -> Tensor:
    """Where detail is wanted [3]: the hand if proprio tells its place, else the middle of the memory."""
    named = {str(s.get("name", "")).lower()[-1:] for s in context.get("proprio_spec") or []}
    if {"x", "y", "z"} <= named:
        return proprio_slots(proprio, context)[:3]
    return memory.means.median(0).values


def past_poses(past: Tensor) -> Tensor:
    """World-from-rest [3 l 7] at the two steps before now and now (rest = now), from past motion [l 6]."""
    identity = identity_pose(past.shape[0], like=past)
    before = torch.cat([identity[..., :4], -past[..., :3]], -1)
    older = torch.cat([identity[..., :4], -past[..., :3] - past[..., 3:]], -1)
    return torch.stack([older, before, identity])


def step_seconds(scene: Scene4D, default: float) -> float:
    """Seconds between the last two times of a scene; `default` when it has one time only."""
    return float(scene.times[-1] - scene.times[-2]) if scene.times.shape[-1] > 1 else default
