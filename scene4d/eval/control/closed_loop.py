"""How often does a policy succeed in closed loop? Rollouts in Meta-World on listed seeds, with Wilson intervals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import ConfigError, NumericsError
from scene4d.eval.metrics.rates import mcnemar_p, paired_interval, wilson_interval
from scene4d.geometry.rotation import apply_pose
from scene4d.sim.recorder import open_sim
from scene4d.types import Frames
from scene4d.world.evaluated import Agent

MAX_FRAMES = 250
"""Frames after which the simulator ends an episode: as long as Meta-World's usual 500 steps, two of which are one."""
TOUCHED_M = 0.01
"""Displacement from which an object counts as moved."""
ARMS = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]])
"""Points of an object whose displacements count, in m: a door that turns about its hinge has moved."""
STILL_M = 0.02
"""Displacement of the hand below which it counts as standing still."""


@dataclass(frozen=True)
class RolloutConfig:
    """How a rollout is run."""

    max_frames: int = MAX_FRAMES
    """Steps after which a rollout counts as failed."""
    size: tuple[int, int] = (64, 64)
    """Width and height of the agent's images, px."""
    cameras: tuple[str, ...] = ("left", "right")
    """Cameras of the rig that the agent gets."""
    turned_deg: float = 0.0
    """How far the fixed cameras are turned about the workspace, away from where they stood in training."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_frames <= MAX_FRAMES:
            most, found = f"1 to {MAX_FRAMES}", self.max_frames
            raise ConfigError("is no length of an episode", field="max_frames", found=found, expected=most)


@dataclass(frozen=True)
class Rollout:
    """What happened in one rollout."""

    task: str
    seed: int
    success: bool
    num_steps: int
    """Steps until success, or all of them."""
    seconds: float
    """Time the agent took for them."""
    actions: Tensor
    """[t a] as carried out."""
    proprio: Tensor
    """[t p] before each action."""
    touched_m: float = 0.0
    """The farthest that anything but the robot was moved, m."""
    gave_up: bool = False
    """Whether the agent had no finite action to answer."""
    video: list[Frames] = field(default_factory=list)
    """Images of the filming camera, if one was asked for."""


def roll_out(
    agent: Agent, task: str, *, seed: int, config: RolloutConfig | None = None, film: str | None = None
) -> Rollout:
    """Let an agent act until the task succeeds or time is up.

    Args:
        agent: reset here; one that has no finite action to answer (NumericsError) has failed.
        task: name of a task; the agent gets its text, which for Meta-World is its name.
        seed: environment seed.
        film: a camera of the rig whose images are kept (the agent does not get them).
    Raises:
        EnvError: the simulator is not installed or cannot render.
    """
    config = config or RolloutConfig()
    cameras = tuple(dict.fromkeys((*config.cameras, film))) if film is not None else config.cameras
    size, turned_deg = config.size, config.turned_deg
    actions, proprios, video, seconds, touched, success, gave_up = [], [], [], 0.0, 0.0, False, False
    agent.reset()
    with open_sim(task, seed=seed, size=size, cameras=cameras, segments=False, turned_deg=turned_deg) as sim:
        objects = sim.object_segments
        places = lambda: apply_pose(sim.segment_poses()[objects, None], ARMS.expand(len(objects), -1, -1))  # [o 4 3]
        rest = places()
        while len(actions) < config.max_frames and not success:
            frames, proprio = sim.observe(), sim.proprio()
            if film is not None:
                video.append(frames[film])
            start, seen = time.perf_counter(), {name: frames[name] for name in config.cameras}
            proprios.append(proprio)
            try:
                action = agent.step(seen, proprio=proprio, task=sim.text, goal=sim.goal)
            except NumericsError:
                gave_up = True
                break
            seconds += time.perf_counter() - start
            actions.append(action)
            _, success = sim.step(action)
            touched = max([touched, *(places() - rest).norm(dim=-1).flatten().tolist()])
    return Rollout(
        task=task,
        seed=seed,
        success=bool(success),
        num_steps=len(actions),
        seconds=seconds,
        actions=torch.stack(actions) if actions else torch.zeros(0),
        proprio=torch.stack(proprios),
        touched_m=touched,
        gave_up=gave_up,
        video=video,
    )


def report(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Success of a policy over tasks and seeds.

    Returns:
        JSON-ready: success and interval (Wilson, 95 %) over everything, num_rollouts, mean_steps (of successes; None
        without one), agent_hz, and tasks {name: {success, interval, mean_steps, num_rollouts, failures {kind: seeds}}}.
    """
    names = dict.fromkeys(r.task for r in rollouts)
    tasks = {name: summarise([r for r in rollouts if r.task == name]) for name in names}
    overall = {name: value for name, value in summarise(rollouts).items() if name != "failures"}  # seeds mean a task's
    seconds, steps = sum(r.seconds for r in rollouts), sum(r.num_steps for r in rollouts)
    return {**overall, "agent_hz": round(steps / seconds, 2) if seconds > 0 else None, "tasks": tasks}


def paired_success(ours: Sequence[Rollout], other: Sequence[Rollout]) -> dict[str, Any]:
    """How much more often the first of two policies succeeds, both on the same tasks and seeds, in the same order.

    Returns:
        JSON-ready: mean difference of success, its 95 % interval (`paired_interval`), num_pairs, how many pairs only
        one of both solved (only_ours, only_other), and p: how likely so uneven a split of those is by chance.
    Raises:
        ConfigError: they are not pairs, or there is none.
    """
    if not ours or [(r.task, r.seed) for r in ours] != [(r.task, r.seed) for r in other]:
        raise ConfigError("are not the same of both", field="rollouts", expected="the same tasks and seeds, in order")
    pairs = Counter((a.success, b.success) for a, b in zip(ours, other, strict=True))
    both, only_ours, only_other = pairs[True, True], pairs[True, False], pairs[False, True]
    low, high = paired_interval(only_ours, only_other, both=both, neither=pairs[False, False])
    return {
        "mean": round((only_ours - only_other) / len(ours), 4),
        "interval": [round(low, 4), round(high, 4)],
        "num_pairs": len(ours),
        "only_ours": only_ours,
        "only_other": only_other,
        "p": round(mcnemar_p(only_ours, only_other), 4),
    }


def failure_kind(rollout: Rollout) -> str | None:
    """Why a rollout failed; None for a success.

    gave up: the agent had no finite action; stuck: the hand stood still over the last third and nothing had been moved;
    missed: nothing was ever moved; unfinished: something was moved, but not to where it belongs.
    """
    if rollout.success:
        return None
    if rollout.gave_up:
        return "gave up"
    if rollout.touched_m > TOUCHED_M:
        return "unfinished"
    late = rollout.proprio[2 * len(rollout.proprio) // 3 :, :3]
    return "stuck" if float((late - late[:1]).norm(dim=-1).max()) < STILL_M else "missed"


def summarise(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Success, interval, mean steps of successes and failures {kind: seeds} of some rollouts, JSON-ready."""
    failures: dict[str, list[int]] = {}
    for rollout in rollouts:
        if kind := failure_kind(rollout):
            failures.setdefault(kind, []).append(rollout.seed)
    wins = [r for r in rollouts if r.success]
    low, high = wilson_interval(len(wins), len(rollouts))
    return {
        "success": round(len(wins) / len(rollouts), 4) if rollouts else None,
        "interval": [round(low, 4), round(high, 4)],
        "num_rollouts": len(rollouts),
        "mean_steps": round(sum(r.num_steps for r in wins) / len(wins), 2) if wins else None,
        "failures": failures,
    }
