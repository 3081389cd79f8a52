"""The Gaussians that exist now and how they have been moving: what every model of scenes starts from."""

from __future__ import annotations

import torch

from scene4d.errors import GaussianError
from scene4d.gaussians.edit import by_id
from scene4d.scene import Scene4D
from scene4d.types import Gaussians

PAST_FLOW = "past_flow"
"""Extra of Gaussians [n 6] m: displacement over the last step, and over the one before."""


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
