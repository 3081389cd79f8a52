"""Forecasts of any length: chunks chained through `advance`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from scene4d.geometry.rotation import apply_pose, compose_pose, identity_pose
from scene4d.world.contract import Forecast, State, WorldModel
from scene4d.world.latent import Latent


def chunk_seeds(seeds: Sequence[int], number: int) -> list[int]:
    """The seeds of chunk `number` of forecasts of any length: each sample and chunk draws on its own."""
    return [seed + 1_000_003 * number for seed in seeds]


def rollout(
    model: WorldModel, state: State, *, actions: Tensor, horizon: int, steps: int = 4, seeds: Sequence[int] = (0,)
) -> Iterator[tuple[State, Forecast]]:
    """Yield (state, forecast) of each chunk of at most `horizon` steps under `actions` [*b h a].

    Chunk c of sample s draws from its own seed, made of both.
    """
    for number, start in enumerate(range(0, actions.shape[-2], horizon)):
        chunk = actions[..., start : start + horizon, :]
        forecast = model.predict(state, actions=chunk, steps=steps, seeds=chunk_seeds(seeds, number))
        yield state, forecast
        state = model.advance(state, forecast, num_steps=chunk.shape[-2])


def forecast_long(
    model: WorldModel, state: State, *, actions: Tensor, horizon: int, steps: int = 4, seeds: Sequence[int] = (0,)
) -> Forecast:
    """One Forecast for all of `actions` [*b h a], motion since now throughout, however many chunks it took."""
    since = identity_pose(*state.batch_shape, state.skin.anchors.shape[-2], like=state.skin.anchors)
    parts: list[Forecast] = []
    for _, chunk in rollout(model, state, actions=actions, horizon=horizon, steps=steps, seeds=seeds):
        # A chunk moves what lies at its own start: compose with what came before.
        poses = compose_pose(chunk.world_from_now, since.unsqueeze(-3).expand(chunk.world_from_now.shape))
        anchors = apply_pose(poses, state.skin.anchors.unsqueeze(-3).expand(*poses.shape[:-1], 3))
        parts.append(chunk.replace(world_from_now=poses, latent=chunk.latent.replace(anchors=anchors)))
        since = poses[..., -1, :, :]
    return parts[0] if len(parts) == 1 else _joined(parts, axis=len(state.batch_shape))


def _joined(parts: list[Forecast], *, axis: int) -> Forecast:
    def cat(pick) -> Tensor:
        return torch.cat([pick(p) for p in parts], axis)

    names = ("tokens", "anchors", "rotations", "present", "ids")
    has_var = all(p.log_var is not None for p in parts)
    return Forecast(
        latent=Latent(**{n: cat(lambda p, n=n: getattr(p.latent, n)) for n in names}),
        world_from_now=cat(lambda p: p.world_from_now),
        # Chunks add their variances.
        log_var=_summed([p.log_var for p in parts], axis) if has_var else None,
        actions=cat(lambda p: p.actions),
        heads={k: cat(lambda p, k=k: p.heads[k]) for k in parts[0].heads},
    )


def _summed(log_vars: list[Tensor], axis: int) -> Tensor:
    before, out = torch.zeros_like(log_vars[0].select(axis, 0)).exp() * 0, []
    for log_var in log_vars:
        variance = log_var.exp() + before.unsqueeze(axis)
        out.append(variance.log())
        before = variance.select(axis, -1)
    return torch.cat(out, axis)
