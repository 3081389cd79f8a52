"""Demonstrations: the scripted expert with noise, labelled with the actions it would have taken itself.

Expert plus noise is carried out, but the labels are the expert's own actions, so that the head sees states off the
expert's path together with the actions that lead back.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Frames


@dataclass(frozen=True)
class PolicyDataConfig:
    """Which demonstrations a head learns from."""

    tasks: tuple[str, ...] = ("button-press-v3",)
    """Names of the tasks."""
    num_demonstrations: int = 25
    """Demonstrations of each task."""
    first_seed: int = 0
    """Environment seed of the first demonstration; the next ones count up."""
    tries: int = 4
    """Environments that a demonstration may take: where the expert fails, it starts anew in another one."""
    noise: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Deviation of the action noise, taken in turn."""
    num_camera_offsets: int = 1
    """Extra samples of each frame, the scene turned about the hand; for heads that see a scene memory."""
    num_frames: int = 80
    """Longest demonstration, in frames; one ends a few frames after success."""
    frames_after_success: int = 3
    """Frames kept after the first success."""
    image_size: int = 64
    """Pixels a side of the recorded images."""
    input_cameras: tuple[str, ...] = ("left", "right")
    """Cameras of the rig that the scene memory sees."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"asides": "num_camera_offsets"}

    def __post_init__(self) -> None:
        if not self.tasks or min(self.num_demonstrations, self.tries) < 1 or not self.noise:
            field = "tasks, num_demonstrations, tries, noise"
            raise ConfigError("nothing to learn from", field=field, expected="at least one of each")

    @property
    def num_seeds(self) -> int:
        """Environments from `first_seed` on that demonstrations may take."""
        return self.num_demonstrations * self.tries


def with_open_gripper(action: Tensor) -> Tensor:
    """An expert's action [a], which opens the gripper where the expert leaves it alone.

    The grip is a speed: at 0 a hand stays as noise or a missed grasp has left it, and cannot grasp again.
    """
    return torch.cat([action[:-1], torch.where(action[-1:] == 0, -1.0, action[-1:])])


@dataclass(frozen=True)
class Demonstration(TensorStruct):
    """One episode of the expert.

    frames [t v]; times [t] s; proprio [t p]; actions [t a] as carried out; labels [t a] the expert's own there;
    goal [3] m that nothing in the images shows, or NaN.
    """

    frames: Frames
    times: Tensor
    proprio: Tensor
    actions: Tensor
    labels: Tensor
    goal: Tensor
    task: str
    success: bool

    SHAPES = shapes(times="*b")


def record_demonstration(task: str, *, seed: int, noise: float, config: PolicyDataConfig) -> Demonstration:
    """Let the expert, with noise, do a task once; the labels are what it would have done in every state.

    Raises:
        EnvError: the simulator is not installed or cannot render.
    """
    generator = torch.Generator().manual_seed(seed * 7919 + 17)
    size = (config.image_size, config.image_size)
    rows: list[tuple[Frames, float, Tensor, Tensor, Tensor]] = []
    first_success = None
    with MetaWorldSim(task, seed=seed, size=size, cameras=config.input_cameras, segments=False) as sim:
        goal = sim.goal
        for t in range(config.num_frames):
            views, label = sim.observe(), with_open_gripper(sim.expert_action())
            action = (label + noise * torch.randn(label.shape, generator=generator)).clamp(-1, 1)
            images = Frames.stack([views[name] for name in config.input_cameras])
            rows.append((images, sim.time, sim.proprio(), action, label))
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


def successful_demonstration(task: str, *, seed: int, noise: float, config: PolicyDataConfig) -> Demonstration:
    """The first demonstration that succeeds, of `config.tries` environments; the last one if none does.

    A demonstration that gets stuck would teach to get stuck. The next environment is `config.num_demonstrations` seeds
    on, so that no two demonstrations share one.

    Raises:
        EnvError: as `record_demonstration`.
    """
    demonstration = record_demonstration(task, seed=seed, noise=noise, config=config)
    for number in range(1, config.tries):
        if demonstration.success:
            return demonstration
        other = seed + number * config.num_demonstrations
        demonstration = record_demonstration(task, seed=other, noise=noise, config=config)
    if config.tries > 1 and not demonstration.success:
        warnings.warn(f"{task}: the expert fails from seed {seed} on; its last try is learned from", stacklevel=2)
    return demonstration


def demonstration_jobs(config: PolicyDataConfig) -> list[tuple[str, int, float]]:
    """(task, first seed, noise) of every demonstration; each can be made on its own, in any process."""
    return [
        (task, config.first_seed + i, config.noise[i % len(config.noise)])
        for task in config.tasks
        for i in range(config.num_demonstrations)
    ]
