"""Training samples of an action head: moments of demonstrations, as it will be shown them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import CheckpointError
from scene4d.policy.demonstrations import Demonstration, PolicyDataConfig, demonstration_jobs, record_demonstration
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import task_row
from scene4d.policy.percept import CameraPercept, Percept
from scene4d.train.checkpoint import load_tensors, save_tensors
from scene4d.types import TensorStruct


@dataclass(frozen=True)
class PolicySamples(TensorStruct):
    """What a head trains on: n moments, as it will see them.

    rgb [n w h w 3] and alpha [n w h w] uint8, depth [n w h w] half, w = v views of now or 2v with the forecast;
    viewmats [n w 4 4], Ks [n w 3 3]; features [n l f] half (l = 0: none); proprio [n p]; goal [n 3] (NaN: none);
    labels [n h a], valid [n h]; task_rows [n].
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

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.task_rows.shape)


@torch.no_grad()
def samples_from_demonstration(
    demonstration: Demonstration, percept: Percept | CameraPercept, *, head: ActionHeadConfig
) -> PolicySamples:
    """Run a demonstration through the memory and keep what a head would be shown at every frame.

    Args:
        percept: what the robot will use at run time; it is reset.
        head: whose chunk, task table and feature width count.
    """
    percept.reset()
    rows: list[dict[str, Tensor]] = []
    length = len(demonstration.actions)
    for t in range(length):
        percept.observe(demonstration.frames[t], proprio=demonstration.proprio[t], time=float(demonstration.times[t]))
        views, features = percept.views()
        ahead = torch.arange(t, t + head.chunk)
        rows.append(
            {
                "rgb": (views.rgb * 255).round().to(torch.uint8),
                "depth": views.depth.half(),
                "alpha": (views.alpha.clamp(0, 1) * 255).round().to(torch.uint8),
                "viewmats": views.cameras.viewmats.float(),
                "Ks": views.cameras.Ks.float(),
                "features": views.rgb.new_zeros(0, 1).half()
                if features is None or not head.feature_dim
                else features.half(),
                "proprio": demonstration.proprio[t],
                "goal": demonstration.goal,
                "labels": demonstration.labels[ahead.clamp_max(length - 1)],
                "valid": ahead < length,
                "task_rows": torch.tensor(task_row(demonstration.task, num_tasks=head.num_tasks)),
            }
        )
        percept.acted(demonstration.actions[t])
    return PolicySamples(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def train_policy_samples(
    config: PolicyDataConfig,
    *,
    make_percept: Callable[[str], Percept | CameraPercept],
    head: ActionHeadConfig,
    jobs: Sequence[tuple[str, int, float]] | None = None,
    progress: Callable[[int, int, Mapping[str, Any]], None] | None = None,
) -> tuple[PolicySamples, list[bool]]:
    """Record demonstrations and turn them into samples.

    To share the work among processes, give each some of `demonstration_jobs(config)` and join with `PolicySamples.cat`.
    Before training, `set_head_statistics(head, samples)`.

    Args:
        make_percept: task name -> the perception that the robot will use for it.
        head: whose chunk, task table and feature width count.
        jobs: some of `demonstration_jobs(config)`; all by default.
        progress: called with (done, all, {success}) after each demonstration.
    Returns:
        The samples, and for each demonstration whether it succeeded.
    """
    jobs = demonstration_jobs(config) if jobs is None else jobs
    parts, wins = [], []
    for task, seed, noise in jobs:
        demonstration = record_demonstration(task, seed=seed, noise=noise, config=config)
        wins.append(demonstration.success)
        parts.append(samples_from_demonstration(demonstration, make_percept(task), head=head))
        if progress is not None:
            progress(len(parts), len(jobs), {"success": sum(wins) / len(wins)})
    return PolicySamples.cat(parts), wins


def save_samples(path: str | Path, samples: PolicySamples) -> Path:
    """Write samples to a safetensors file."""
    return save_tensors(
        path,
        {name: getattr(samples, name) for name in PolicySamples.__dataclass_fields__},
        state={"kind": "policy samples"},
    )


def load_samples(path: str | Path) -> PolicySamples:
    """Read what `save_samples` wrote.

    Raises:
        CheckpointError: the file is missing, truncated or holds something else.
    """
    tensors, state = load_tensors(path)
    if state.get("kind") != "policy samples":
        raise CheckpointError(
            "does not hold policy samples", file=path, field="kind", found=state.get("kind"), expected="policy samples"
        )
    return PolicySamples(**tensors)
