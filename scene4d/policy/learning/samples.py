"""Training samples of an action head: moments of demonstrations, as the head observes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import CheckpointError, ConfigError
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import task_row
from scene4d.policy.learning.demonstrations import (
    Demonstration,
    PolicyDataConfig,
    demonstration_jobs,
    successful_demonstration,
)
from scene4d.policy.learning.keyposes import keyposes_ahead
from scene4d.policy.observation_builder import CameraObservationBuilder, ObservationBuilder
from scene4d.policy.virtual_cameras import CameraOffset, random_camera_offset
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.train.checkpoint import load_tensors, save_tensors
from scene4d.types import Frames


@dataclass(frozen=True)
class PolicySamples(TensorStruct):
    """What a head trains on: n moments, as it will observe them.

    rgb [n w h w 3] and alpha [n w h w] uint8, depth [n w h w] half, w = v views of now or 2v with the forecast;
    viewmats [n w 4 4], Ks [n w 3 3]; features [n l f] half (l = 0: none); proprio [n p]; goal [n 3] (NaN: none);
    labels [n h a], valid [n h]; task_rows [n]; keypose [n 3] m where the hand is at the next keypose (NaN: the views
    do not show it); goal_free [n] whether the goal is not needed yet.
    """

    rgb: Tensor
    depth: Tensor
    alpha: Tensor
    viewmats: Tensor
    Ks: Tensor
    features: Tensor
    proprio: Tensor
    goal: Tensor
    labels: Tensor
    valid: Tensor
    task_rows: Tensor
    keypose: Tensor
    goal_free: Tensor

    SHAPES = shapes(task_rows="*b")


@torch.no_grad()
def samples_from_demonstration(
    demonstration: Demonstration,
    builder: ObservationBuilder | CameraObservationBuilder,
    *,
    head: ActionHeadConfig,
    num_camera_offsets: int = 0,
    seed: int = 0,
) -> PolicySamples:
    """Run a demonstration through the memory and keep what a head would observe at every frame.

    Args:
        builder: of observations, as the robot will use at run time; it is reset.
        head: whose chunk, task table and feature width count.
        num_camera_offsets: extra samples of every frame, if the builder has a scene memory. seed: of their draw.
    """
    builder.reset()
    generator = torch.Generator().manual_seed(seed)
    labels, rows = _labels(demonstration, head), []
    for t in range(len(demonstration.actions)):
        builder.observe(demonstration.frames[t], proprio=demonstration.proprio[t], time=float(demonstration.times[t]))
        now = {name: values[t] for name, values in labels.items()}
        rows.append({**_observed(builder.views(), head=head), **now})
        if isinstance(builder, ObservationBuilder):
            for _ in range(num_camera_offsets):
                offset = random_camera_offset(generator)
                rows.append({**_observed(builder.views(camera_offset=offset), head=head), **_turned(now, offset)})
        builder.acted(demonstration.actions[t])
    return PolicySamples(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def _observed(observation: tuple[Frames, Tensor | None], *, head: ActionHeadConfig) -> dict[str, Tensor]:
    """The part of a sample that the observation builder gives: views and latent features."""
    views, features = observation
    used = features if features is not None and head.feature_dim else views.rgb.new_zeros(0, 1)
    if len(used) and used.shape[-1] != head.feature_dim:
        problem, field = "is not the width of the world model's tokens and their places", "policy.model.feature_dim"
        raise ConfigError(problem, field=field, found=head.feature_dim, expected=used.shape[-1])
    return {
        "rgb": (views.rgb * 255).round().to(torch.uint8),
        "depth": views.known_depth.half(),
        "alpha": (views.known_alpha.clamp(0, 1) * 255).round().to(torch.uint8),
        "viewmats": views.cameras.viewmats.float(),
        "Ks": views.cameras.Ks.float(),
        "features": used.half(),
    }


def _labels(demonstration: Demonstration, head: ActionHeadConfig) -> dict[str, Tensor]:
    """The rest of the samples [t]: state, goal, and labels."""
    length, row = len(demonstration.actions), task_row(demonstration.task, num_tasks=head.num_tasks)
    keypose, goal_free = keyposes_ahead(demonstration.labels, hand=demonstration.proprio[:, :3])
    ahead = torch.arange(length)[:, None] + torch.arange(head.chunk)  # [t h]
    # No view shows where an object in the hand is to be brought.
    unseen = demonstration.goal.isfinite().all() & ~goal_free
    return {
        "proprio": demonstration.proprio,
        "goal": demonstration.goal.expand(length, 3),
        "labels": demonstration.labels[ahead.clamp_max(length - 1)],
        "valid": ahead < length,
        "task_rows": torch.full((length,), row),
        "keypose": keypose.masked_fill(unseen[:, None], torch.nan),
        "goal_free": goal_free,
    }


def _turned(labels: dict[str, Tensor], camera_offset: CameraOffset) -> dict[str, Tensor]:
    """The labels in a scene that is turned about the hand."""
    hand = labels["proprio"][:3]
    places = {name: hand + camera_offset.turned(labels[name] - hand) for name in ("goal", "keypose")}
    return {**labels, **places, "labels": camera_offset.turned(labels["labels"])}


def train_policy_samples(
    config: PolicyDataConfig,
    *,
    make_builder: Callable[[str], ObservationBuilder | CameraObservationBuilder],
    head: ActionHeadConfig,
    jobs: Sequence[tuple[str, int, float]] | None = None,
    progress: Callable[[int, int, Mapping[str, Any]], None] | None = None,
) -> tuple[PolicySamples, list[bool]]:
    """Record demonstrations and turn them into samples.

    To share the work among processes, give each some of `demonstration_jobs(config)` and join with `PolicySamples.cat`.
    Before training, `set_head_statistics(head, samples)`.

    Args:
        make_builder: task name -> the observation builder that the robot will use for it.
        head: whose chunk, task table and feature width count.
        jobs: some of `demonstration_jobs(config)`; all by default.
        progress: called with (done, all, {success}) after each demonstration.
    Returns:
        The samples, and for each demonstration whether it succeeded.
    """
    jobs = demonstration_jobs(config) if jobs is None else jobs
    parts, wins = [], []
    for task, seed, noise in jobs:
        demonstration = successful_demonstration(task, seed=seed, noise=noise, config=config)
        wins.append(demonstration.success)
        num, builder = config.num_camera_offsets, make_builder(task)
        part = samples_from_demonstration(demonstration, builder, head=head, num_camera_offsets=num, seed=seed)
        parts.append(part)
        if progress is not None:
            progress(len(parts), len(jobs), {"success": sum(wins) / len(wins)})
    return PolicySamples.cat(parts), wins


def save_samples(path: str | Path, samples: PolicySamples, *, success: bool) -> Path:
    """Write the samples of a demonstration, and whether it succeeded, to a safetensors file."""
    return save_tensors(
        path,
        {name: getattr(samples, name) for name in PolicySamples.__dataclass_fields__},
        state={"kind": "policy samples", "success": success},
    )


def load_samples(path: str | Path) -> tuple[PolicySamples, bool]:
    """Read what `save_samples` wrote: the samples, and whether their demonstration succeeded.

    Raises:
        CheckpointError: the file is missing, truncated or holds something else.
    """
    (tensors, state), expected = load_tensors(path), "policy samples"
    kind = state.get("kind")
    if kind != expected:
        raise CheckpointError("does not hold policy samples", file=path, field="kind", found=kind, expected=expected)
    if "success" not in state:
        fix = f"remove {Path(path).parent}: they are made anew"
        raise CheckpointError("was written by an earlier version", file=path, field="success", fix=fix)
    if "aim" in tensors:
        tensors["keypose"] = tensors.pop("aim")  # its former name
    return PolicySamples(**tensors), bool(state["success"])


def join_samples(paths: Sequence[str | Path]) -> tuple[PolicySamples, int]:
    """The samples of all files, and how many of their demonstrations succeeded.

    Raises:
        CheckpointError: as `load_samples`.
    """
    loaded = [load_samples(path) for path in paths]
    parts = [dict(vars(samples)) for samples, _ in loaded]
    wins = sum(success for _, success in loaded)
    del loaded
    # Field by field, so that no more than one of them is ever there twice.
    return PolicySamples(**{name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}), wins
