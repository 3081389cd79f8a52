"""From a forecast to Gaussians over time: memory carried by its anchors, new matter where nobody has looked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scene4d.dynamics.anchors import PAST_FLOW
from scene4d.geometry.camera import project
from scene4d.geometry.rotation import compose_pose, identity_pose
from scene4d.render.render import render
from scene4d.types import Cameras, Gaussians, Motion, Scene4D
from scene4d.worldmodel import Forecast, State

MIN_OPACITY = 0.3
HIDDEN_MARGIN = 0.03
"""Metres behind the seen surface from which a decoded Gaussian counts as never seen."""


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


def unseen_matter(state: State, forecast: Forecast, *, codec: Any) -> tuple[Gaussians | None, Tensor | None]:
    """Decoded Gaussians [*b r], at rest, that no camera of the context can have seen, and their tokens [*b r].

    Decoded are the tokens of the last predicted step about the anchors of now: what the model holds to be there.
    """
    cameras = input_cameras(state.context)
    if cameras is None:
        return None, None
    final = forecast.latent.map(lambda x: x.select(len(state.batch_shape), -1))  # [*b l c]
    decoded = codec.decode(final.replace(anchors=state.skin.anchors))
    lead, num_tokens = state.batch_shape, state.skin.anchors.shape[-2]
    if not lead:
        return _unseen(decoded, state.memory, cameras, num_tokens)
    num = math.prod(lead)
    flatten = lambda noun: noun.map(lambda x: x.reshape(num, *x.shape[len(lead) :]))
    decoded, memory, cameras = flatten(decoded), flatten(state.memory), flatten(cameras)
    picked = [_unseen(decoded[i], memory[i], cameras[i], num_tokens) for i in range(num)]
    new = Gaussians.stack([g for g, _ in picked])
    most = new.num_gaussians
    token = torch.stack([torch.cat([t, t.new_zeros(most - len(t))]) for _, t in picked])
    return new.map(lambda x: x.reshape(*lead, *x.shape[1:])), token.reshape(*lead, most)


def _unseen(decoded: Gaussians, memory: Gaussians, cameras: Cameras, num_tokens: int) -> tuple[Gaussians, Tensor]:
    hidden = hidden_from(decoded.means, memory, cameras=cameras) & (decoded.opacities > MIN_OPACITY)
    token = torch.arange(decoded.num_gaussians, device=hidden.device) // (decoded.num_gaussians // num_tokens)
    start = int(memory.ids.max()) + 1
    ids = start + torch.arange(decoded.num_gaussians, device=hidden.device)
    return decoded.replace(ids=ids).pick(hidden), token[hidden]


def hidden_from(points: Tensor, memory: Gaussians, *, cameras: Cameras) -> Tensor:
    """Which points [n 3] lie behind what every camera [v] sees of the memory, or outside its image: [n] bool."""
    frames = render(memory, cameras)  # [v h w]
    pixels, depth = project(
        points.expand(len(cameras.viewmats), -1, -1), cameras.viewmats, cameras.Ks
    )  # [v n 2], [v n]
    column, row = pixels[..., 0].floor().long(), pixels[..., 1].floor().long()
    inside = (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height) & (depth > 0)
    at = row.clamp(0, cameras.height - 1) * cameras.width + column.clamp(0, cameras.width - 1)
    surface = frames.depth.flatten(1).gather(1, at)
    covered = frames.alpha.flatten(1).gather(1, at) > 0.5
    return (~inside | (covered & (depth > surface + HIDDEN_MARGIN))).all(0)


def input_cameras(context: Mapping[str, Any]) -> Cameras | None:
    """The context's cameras as one Cameras [*b v]: given so, or as {name: Cameras [*b]}."""
    cameras = context.get("cameras")
    if cameras is None or isinstance(cameras, Cameras):
        return cameras
    each = list(cameras.values())
    return Cameras.stack(each, dim=len(each[0].batch_shape)) if each else None


def joined(memory: Gaussians, new: Gaussians) -> Gaussians:
    """Both sets [*b n+r] as one; `new` takes zeros for what the memory knows besides, fewer SH bases are filled up."""
    axis = len(memory.batch_shape)
    bases = max(memory.sh.shape[-2], new.sh.shape[-2])
    fill = lambda sh: torch.nn.functional.pad(sh, (0, 0, 0, bases - sh.shape[-2]))
    extras = {
        k: torch.zeros(*new.opacities.shape, v.shape[-1], dtype=v.dtype, device=v.device)
        for k, v in memory.extras.items()
    }
    both = lambda a, b: torch.cat([a, b], axis)
    return Gaussians(
        means=both(memory.means, new.means),
        quats=both(memory.quats, new.quats),
        scales=both(memory.scales, new.scales),
        opacities=both(memory.opacities, new.opacities),
        sh=both(fill(memory.sh), fill(new.sh)),
        ids=both(memory.ids, new.ids),
        extras={k: both(v, extras[k]) for k, v in memory.extras.items()},
    )
