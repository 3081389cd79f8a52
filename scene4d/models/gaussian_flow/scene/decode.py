"""From a forecast to Gaussians over time: memory carried by its anchors, new matter where nobody has looked."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.rotation import compose_pose, identity_pose
from scene4d.models.gaussian_flow.networks.completion import MIN_OPACITY, joined
from scene4d.models.gaussian_flow.scene.anchors import PAST_FLOW
from scene4d.scene import Motion, Scene4D
from scene4d.types import Gaussians
from scene4d.world.contract import Forecast, State


def forecast_scene(
    state: State, forecast: Forecast, *, new: Gaussians, new_skin: tuple[Tensor, Tensor], step_seconds: float
) -> Scene4D:
    """Scene4D at now (observed) and the h predicted steps: memory keeps its ids, new matter gets ids above them.

    Args:
        new: decoded matter [*b r] at rest, which exists from the first predicted step on; its skin index and weights
            [r j] say which anchors it rides on. step_seconds: when the state does not tell.
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
    new, new_skin = _visible_rows(new, new_skin)
    born = torch.stack([times[..., 1:2], times[..., -1:]], -1).expand(*lead, new.num_gaussians, 2)
    alive = torch.stack([times[..., :1], times[..., -1:]], -1).expand(*lead, memory.num_gaussians, 2)
    both = lambda old, added: torch.cat([old, added.expand(*lead, *added.shape)], -2)
    observed = torch.zeros(times.shape, dtype=torch.bool, device=times.device)
    observed[..., 0] = True
    return Scene4D(
        base=joined(memory, new),
        motion=Motion(
            anchors=motion.anchors,
            world_from_rest=torch.cat([identity, forecast.world_from_now], -3),
            skin_index=both(motion.skin_index, new_skin[0]),
            skin_weights=both(motion.skin_weights, new_skin[1]),
            log_var=log_var,
        ),
        alive=torch.cat([alive, born], -2),
        times=times,
        observed=observed,
        info={"model": "scene4d dynamics"},
    )


def _visible_rows(new: Gaussians, skin: tuple[Tensor, Tensor]) -> tuple[Gaussians, tuple[Tensor, Tensor]]:
    """Rows too faint to see become empty slots, and go where they are faint in every scene of the batch."""
    visible = new.opacities > MIN_OPACITY  # [*b r]
    kept = visible.reshape(-1, visible.shape[-1]).any(0).nonzero()[:, 0]
    new = new.replace(opacities=new.opacities * visible, ids=torch.where(visible, new.ids, -1))
    return new.map(lambda x: x.index_select(len(visible.shape) - 1, kept)), (skin[0][kept], skin[1][kept])


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
