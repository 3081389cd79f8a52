"""From a forecast to Gaussians over time: memory carried by its anchors, new matter where nobody has looked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scene4d.dynamics.anchors import PAST_FLOW
from scene4d.dynamics.unseen import joined, unseen_matter
from scene4d.geometry.rotation import compose_pose, identity_pose
from scene4d.types import Gaussians, Motion, Scene4D
from scene4d.worldmodel import Forecast, State


def forecast_scene(state: State, forecast: Forecast, *, codec: Any, step_seconds: float) -> Scene4D:
    """Scene4D at now (observed) and the h predicted steps: memory keeps its ids, new matter gets ids above them.

    New matter is what the codec decodes behind everything that the context's cameras see; it exists from the first
    predicted step on. Without cameras in the context there is none.
    """
    lead, num_steps = state.batch_shape, forecast.actions.shape[-2]
    seconds = float(state.context.get("step_seconds", step_seconds))
    times = state.time[..., None].double() + seconds * torch.arange(num_steps + 1, device=state.time.device)
    memory, motion = state.memory, state.skin
    identity = identity_pose(*lead, 1, motion.anchors.shape[-2], like=forecast.world_from_now)
    log_var = forecast.log_var
    if log_var is not None:
        # Now is known: a variance of (0.1 mm or 0.1 mrad)^2.
        log_var = torch.cat([torch.full_like(log_var[..., :1, :, :], -18.4), log_var], -3)
    new, token = unseen_matter(state, forecast, codec=codec)
    num_new = new.num_gaussians if new is not None else 0
    index, weights = motion.skin_index, motion.skin_weights
    alive = torch.stack([times[..., :1], times[..., -1:]], -1).expand(*lead, memory.num_gaussians, 2)
    if new is not None and num_new:
        memory = joined(memory, new)
        first = torch.zeros(*lead, num_new, index.shape[-1], dtype=index.dtype, device=index.device)
        index = torch.cat([index, first + token[..., None]], -2)
        one = torch.zeros_like(first, dtype=weights.dtype)
        one[..., 0] = 1.0
        weights = torch.cat([weights, one], -2)
        later = torch.stack([times[..., 1:2], times[..., -1:]], -1).expand(*lead, num_new, 2)
        alive = torch.cat([alive, later], -2)
    observed = torch.zeros(times.shape, dtype=torch.bool, device=times.device)
    observed[..., 0] = True
    return Scene4D(
        base=memory,
        motion=Motion(
            anchors=motion.anchors,
            world_from_rest=torch.cat([identity, forecast.world_from_now], -3),
            skin_index=index,
            skin_weights=weights,
            log_var=log_var,
        ),
        alive=alive.contiguous(),
        times=times,
        observed=observed,
        info={"model": "scene4d dynamics"},
    )


def advanced_memory(state: State, *, recent: Tensor, now: Tensor) -> Gaussians:
    """The memory carried to `now` [*b l 7], with its past flow along the last three instants `recent` [*b 3 l 7]
    (poses of rest = new now, the last the identity)."""
    lead = state.batch_shape
    poses = torch.stack([compose_pose(pose, now) for pose in recent.unbind(-3)], -3)  # rest = old now
    times = torch.arange(3.0, dtype=torch.float64, device=now.device).expand(*lead, 3)
    scene = Scene4D(
        base=state.memory,
        motion=state.skin.replace(world_from_rest=poses, log_var=None),
        alive=torch.stack([times[..., :1], times[..., -1:]], -1).expand(*lead, state.memory.num_gaussians, 2),
        times=times,
        observed=torch.zeros(*lead, 3, dtype=torch.bool, device=now.device),
    )
    flow = torch.cat([scene.flow(1.0, 2.0)[0], scene.flow(0.0, 1.0)[0]], -1)
    memory = scene.at(2.0)
    return memory.replace(extras={**memory.extras, PAST_FLOW: flow})
