"""From expert demonstrations to training samples: record, look through the virtual cameras, make batches.

Demonstrations are driven by the expert plus noise, but labelled with what the expert itself would have done, so that
the head sees states off the expert's path together with the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import CheckpointError, ConfigError
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.head import ActionHead, head_loss, task_row
from scene4d.policy.percept import CameraPercept, Percept
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.train.checkpoint import load_tensors, save_tensors
from scene4d.types import Cameras, Frames, TensorStruct

NUM_HOLES, HOLE = 3, 0.4
"""How many rectangles are taken out of a view in training, and the longest side of one as a share of the view's."""
SLIP_FRAMES = (4, 12)
"""Least and most frames of a slip, the last excluded."""
SHIFT = 4
"""Pixels that a view is moved by in training, at most."""
KEEP_GOAL = 0.9
"""Share of the samples that are told the goal they have, so that the head can do without."""


@dataclass(frozen=True)
class PolicyDataConfig:
    """Which demonstrations a head learns from."""

    tasks: tuple[str, ...] = ("button-press-v3",)
    """Names of the tasks."""
    num_demonstrations: int = 25
    """Demonstrations of each task."""
    first_seed: int = 0
    """Environment seed of the first demonstration; the next ones count up."""
    noise: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Deviation of the action noise, taken in turn."""
    slips: float = 0.0
    """Chance, at each frame, that for some frames something else is done than the expert wants, the hand's grip too: so
    that the head sees how a thing that was missed or lost is gone back for."""
    num_frames: int = 80
    """Longest demonstration, in frames; one ends a few frames after success."""
    frames_after_success: int = 3
    """Frames kept after the first success."""
    image_size: int = 64
    """Pixels a side of the recorded pictures."""
    input_cameras: tuple[str, ...] = ("left", "right")
    """Cameras of the rig that the scene memory sees."""

    def __post_init__(self) -> None:
        if not self.tasks or self.num_demonstrations < 1 or not self.noise:
            raise ConfigError(
                "nothing to learn from", field="tasks, num_demonstrations, noise", expected="at least one of each"
            )


class Shaker:
    """An expert's actions [a] with noise, and slips: a few frames of one action drawn at random."""

    def __init__(self, *, noise: float, slips: float, seed: int) -> None:
        """
        Args:
            noise: deviation. slips: chance of one at each frame. seed: of both.
        """
        self.noise, self.slips, self._left = noise, slips, 0
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, wish: Tensor) -> Tensor:
        """What is done where the expert wants `wish`, in [-1, 1]."""
        draw = torch.randn(wish.shape, generator=self._generator)
        if self._left == 0 and self.slips and float(torch.rand((), generator=self._generator)) < self.slips:
            self._slip = torch.rand(wish.shape, generator=self._generator) * 2 - 1
            self._slip[-1] = self._slip[-1].sign()
            self._left = int(torch.randint(*SLIP_FRAMES, (), generator=self._generator))
        slipping, self._left = self._left > 0, max(0, self._left - 1)
        return self._slip if slipping else (wish + self.noise * draw).clamp(-1, 1)


@dataclass(frozen=True)
class Demonstration(TensorStruct):
    """One drive of the expert.

    frames [t v]; times [t] s; proprio [t p]; actions [t a] as carried out; labels [t a] what the expert wanted there;
    goal [3] m that nothing in the pictures shows, or NaN.
    """

    frames: Frames
    times: Tensor
    proprio: Tensor
    actions: Tensor
    labels: Tensor
    goal: Tensor
    task: str
    success: bool

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.times.shape)


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


def record_demonstration(task: str, *, seed: int, noise: float, config: PolicyDataConfig) -> Demonstration:
    """Let the expert, shaken by noise, do a task once, and note what it wanted in every state.

    Raises:
        EnvError: the simulator is not installed or cannot render.
    """
    shaker = Shaker(noise=noise, slips=config.slips, seed=seed * 7919 + 17)
    size = (config.image_size, config.image_size)
    rows: list[tuple[Frames, float, Tensor, Tensor, Tensor]] = []
    first_success = None
    with MetaWorldSim(task, seed=seed, size=size, cameras=config.input_cameras, segments=False) as sim:
        goal = sim.goal
        for t in range(config.num_frames):
            views, label = sim.observe(), sim.expert_action()
            action = shaker(label)
            pictures = Frames.stack([views[name] for name in config.input_cameras])
            rows.append((pictures, sim.time, sim.proprio(), action, label))
            if first_success is not None and t >= first_success + config.frames_after_success:
                break
            _, success = sim.step(action)
            if success and first_success is None:
                first_success = t
    frames, times, proprio, actions, labels = zip(*rows, strict=True)
    return Demonstration(
        frames=Frames.stack(frames),
        times=torch.tensor(times, dtype=torch.float64),
        proprio=torch.stack(proprio),
        actions=torch.stack(actions),
        labels=torch.stack(labels),
        goal=torch.full((3,), torch.nan) if goal is None else goal,
        task=task,
        success=first_success is not None,
    )


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


def demonstration_jobs(config: PolicyDataConfig) -> list[tuple[str, int, float]]:
    """(task, seed, noise) of every demonstration; each can be made on its own, in any process."""
    return [
        (task, config.first_seed + i, config.noise[i % len(config.noise)])
        for task in config.tasks
        for i in range(config.num_demonstrations)
    ]


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


def set_head_statistics(head: ActionHead, samples: PolicySamples) -> None:
    """Normalise a head by its training samples; call before the first step."""
    head.set_statistics(actions=samples.labels[samples.valid], proprio=samples.proprio)


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


def policy_batches(
    samples: PolicySamples,
    *,
    num_views: int,
    batch_size: int = 48,
    seed: int = 0,
    keep_future: float = 0.5,
    holes: bool = False,
) -> Callable[[int], dict[str, Any]]:
    """Batches for the training loop: step -> batch, a function of (seed, step) alone.

    Every epoch is a new order of all samples. Colours and the proprioception are shaken a little; the
    forecast's views are left out of a batch with probability 1 - `keep_future`, so that the head can do without. With
    `holes`, parts of rendered views are taken out: what real cameras cover changes with where they stand.
    """
    count = len(samples.task_rows)
    per_epoch = max(1, count // batch_size)

    def batch(step: int) -> dict[str, Any]:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step + 1)
        picked = samples[order[place * batch_size : (place + 1) * batch_size]]
        if torch.rand((), generator=generator) >= keep_future:
            picked = _without_future(picked, num_views=num_views)
        # What the head knows of its own arm is blurred, the place that views are seen from is not.
        noise = 0.02 * torch.randn(picked.proprio.shape, generator=generator)
        if holes:
            picked = _shifted(_with_holes(picked, generator=generator), num_views=num_views, generator=generator)
        shaken = batch_from_samples(_recoloured(picked, generator=generator))
        untold = torch.rand(len(noise), 1, generator=generator) >= KEEP_GOAL
        goal = picked.goal.masked_fill(untold, torch.nan)
        return shaken | {"proprio": picked.proprio + noise, "hand": picked.proprio[:, :3], "goal": goal}

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
    }


def policy_loss(head: ActionHead) -> Callable[[dict], tuple[Tensor, Mapping[str, Tensor]]]:
    """The loss that the training loop minimises: batch -> (scalar, metrics)."""
    return lambda batch: head_loss(head, batch)


def _without_future(samples: PolicySamples, *, num_views: int) -> PolicySamples:
    return samples.replace(
        **{k: getattr(samples, k)[:, :num_views] for k in ("rgb", "depth", "alpha", "viewmats", "Ks")}
    )


def _with_holes(samples: PolicySamples, *, generator: torch.Generator) -> PolicySamples:
    """A few rectangles of each view, of up to HOLE of its side, hold nothing."""
    lead, (height, width) = samples.depth.shape[:2], samples.depth.shape[-2:]
    whole = torch.ones(*lead, height, width, dtype=torch.bool)
    for _ in range(NUM_HOLES):
        start, size = torch.rand(2, *lead, 2, generator=generator)  # [b w 2] shares of the side
        size = size * HOLE
        start = start * (1 + size) - size  # over the edges too
        inside = []
        for axis, length in enumerate((height, width)):
            at = (torch.arange(length) + 0.5) / length
            low = start[..., axis, None]
            inside.append((at >= low) & (at < low + size[..., axis, None]))
        whole &= ~(inside[0][..., :, None] & inside[1][..., None, :])
    return samples.replace(rgb=samples.rgb * whole[..., None], depth=samples.depth * whole, alpha=samples.alpha * whole)


def _shifted(samples: PolicySamples, *, num_views: int, generator: torch.Generator) -> PolicySamples:
    """Each view moved by up to SHIFT px each way, its camera with it, so that every pixel still says where it is.

    A view of the forecast moves as that of now. What comes in at a side holds nothing.
    """
    count, (height, width) = len(samples.task_rows), samples.depth.shape[-2:]
    by = torch.randint(-SHIFT, SHIFT + 1, (count, num_views, 2), generator=generator)
    by = by.repeat(1, samples.depth.shape[1] // num_views, 1)  # [b w 2] px down, right
    down, right = torch.arange(height) - by[..., :1], torch.arange(width) - by[..., 1:]  # [b w h], [b w w]
    inside = ((down >= 0) & (down < height))[..., :, None] & ((right >= 0) & (right < width))[..., None, :]
    lead = torch.arange(count)[:, None, None, None], torch.arange(by.shape[1])[:, None, None]
    at = (*lead, down.clamp(0, height - 1)[..., :, None], right.clamp(0, width - 1)[..., None, :])
    Ks = samples.Ks.clone()
    Ks[..., :2, 2] += by.flip(-1)
    rgb, depth, alpha = samples.rgb[at] * inside[..., None], samples.depth[at] * inside, samples.alpha[at] * inside
    return samples.replace(rgb=rgb, depth=depth, alpha=alpha, Ks=Ks)


def _recoloured(samples: PolicySamples, *, generator: torch.Generator) -> PolicySamples:
    count = len(samples.task_rows)
    gain = 1 + 0.15 * torch.randn(count, 1, 1, 1, 3, generator=generator)
    shift = 0.05 * torch.randn(count, 1, 1, 1, 3, generator=generator)
    rgb = (samples.rgb.float() / 255 * gain + shift).clamp(0, 1)
    return samples.replace(rgb=rgb)
