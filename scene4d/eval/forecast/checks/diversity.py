"""Do several futures stay several? Two recordings with one past, and samples that must find both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.eval.forecast.forecasters.model_forecaster import ModelForecaster
from scene4d.eval.forecast.ground_truth import VisibleRows, visible_rows
from scene4d.eval.forecast.window_scores import past_of
from scene4d.sim.metaworld import ACTION_SPEC, PROPRIO_SPEC, MetaWorldSim
from scene4d.types import Episode, Frames
from scene4d.world.capabilities import Proposes

MIN_APART_M = 0.02
"""Two futures nearer to each other than this are one."""
HANDS_APART_M, MOST_BRANCHES = 0.04, 16
"""Branches are recorded until the hands of two end so far apart; the rest of the arm moves less than the hand."""


def record_fork(
    task: str,
    *,
    seed: int,
    branch: int,
    fork: int,
    num_frames: int,
    noise: float = 0.5,
    cameras: Sequence[str] = ("left", "right"),
) -> Episode:
    """A noisy expert's episode [t] whose first `fork` actions depend on `seed` alone, the later ones on `branch` too.

    So two branches of one seed share their frames 0..fork, bit for bit.
    """
    shared = torch.Generator().manual_seed(seed)
    own = torch.Generator().manual_seed(1_000_003 * (branch + 1) + seed)
    frames, rows = [], []
    with MetaWorldSim(task, seed=seed, cameras=cameras) as sim:
        for t in range(num_frames):
            frames.append(sim.observe())
            proprio, poses = sim.proprio(), sim.segment_poses()
            kick = noise * torch.randn(len(ACTION_SPEC), generator=shared if t < fork else own)
            action = (sim.expert_action() + kick).clamp(-1, 1)
            _, success = sim.step(action)
            rows.append((action, proprio, poses, torch.tensor(success)))
        actions, proprio, poses, success = (torch.stack(column) for column in zip(*rows, strict=True))
        return Episode(
            views={name: Frames.stack([f[name] for f in frames]) for name in cameras},
            times=torch.arange(num_frames, dtype=torch.float64) / sim.fps,
            valid=torch.ones(num_frames, dtype=torch.bool),
            actions=actions,
            proprio=proprio,
            success=success,
            segment_poses=poses,
            info={
                "task": task,
                "seed": seed,
                "source": f"metaworld branch {branch}",
                "action_spec": [dict(row) for row in ACTION_SPEC],
                "proprio_spec": [dict(row) for row in PROPRIO_SPEC],
            },
        )


def forked_pair(task: str, *, seed: int, fork: int, horizon: int = 8) -> tuple[Episode, Episode]:
    """Two branches of one seed whose hands end `HANDS_APART_M` apart at fork + horizon, or the farthest of many."""
    branches: list[Episode] = []
    apart = torch.zeros(1, 1)
    while len(branches) < MOST_BRANCHES:
        branches.append(record_fork(task, seed=seed, branch=len(branches), fork=fork, num_frames=fork + horizon + 1))
        hands = torch.stack([b.proprio[fork + horizon, :3] for b in branches])
        apart = torch.cdist(hands, hands)
        if float(apart.max()) > HANDS_APART_M:
            break
    first, second = divmod(int(apart.argmax()), len(branches))
    return branches[first], branches[second]


@torch.no_grad()
def both_futures_found(
    forecaster: ModelForecaster, branches: Sequence[Episode], *, now: int, horizon: int = 8, num_samples: int = 16
) -> dict[str, Any]:
    """Sample futures of a past without giving the actions, and look for each of the recorded ones among them.

    A recorded future is found when some sample lies nearer to it than half the distance to the other one: nearer
    than the mean of the two could. Distance: root mean square over the positions, at the horizon, of visible rows that
    move in either.

    Returns:
        found [bool, bool], nearest_m [m, m], apart_m, spread_m (root mean square of the samples about their mean).
    Raises:
        ConfigError: the recordings do not fork, or not far enough to tell.
    """
    inputs = forecaster.past_stream.inputs
    past = past_of(branches[0], now, inputs=inputs)
    memory = forecaster.past_stream.remember(past).memory
    rows = visible_rows(memory, branches[0], start=now, inputs=inputs, tolerance=0.02)
    truths = [rows.true_displacement(episode, start=now, stop=now + horizon) for episode in branches]
    moving = torch.stack([t.norm(dim=-1) > 0.005 for t in truths]).any(0)
    apart = _distance(truths[0][moving], truths[1][moving])
    if not apart > MIN_APART_M:
        raise ConfigError("do not fork", field="branches", found=f"{apart:.4f} m apart", expected=f"> {MIN_APART_M} m")
    samples = sampled_displacements(forecaster, past, rows=rows, horizon=horizon, num_samples=num_samples)[:, moving]
    nearest = [min(_distance(s, truth[moving]) for s in samples) for truth in truths]
    spread = _distance(samples, samples.mean(0, keepdim=True).expand_as(samples))
    return {
        "found": [n < 0.5 * apart for n in nearest],
        "nearest_m": [round(n, 4) for n in nearest],
        "apart_m": round(apart, 4),
        "spread_m": round(spread, 4),
    }


def sampled_displacements(
    forecaster: ModelForecaster, past: Episode, *, rows: VisibleRows, horizon: int, num_samples: int
) -> Tensor:
    """Displacement [s r 3] at `horizon` of the rows [r] in samples that do not get the actions."""
    model, state = forecaster.model, forecaster.state(past)
    if not isinstance(model, Proposes):
        raise ConfigError("has no actions of its own", field="world model", found=type(model).__name__)
    prediction = model.propose(state.expand(num_samples), seeds=range(num_samples))
    scenes = (model.scene(state, prediction[sample]) for sample in range(num_samples))
    return torch.stack([rows.predicted_displacement(scene, horizon) for scene in scenes])


def _distance(a: Tensor, b: Tensor) -> float:
    """Root mean square distance of points [.. r 3]."""
    return float((a - b).square().sum(-1).mean().sqrt())
