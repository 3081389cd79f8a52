"""Observation: what is known at one moment, built in one place for every caller of a world model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scene4d.errors import ConfigError, DataFormatError
from scene4d.gaussians.s4d.s4d import S4DFile
from scene4d.robot.spec import RobotSpec
from scene4d.scene import Scene4D
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.types import Cameras, Episode, Frames, Gaussians, Task


@dataclass(frozen=True)
class Observation(TensorStruct):
    """What is known at one moment, "now": the one noun that every caller hands to a world model.

    scene: up to now, or None for models of pictures alone. frames {camera name: Frames [t]} of the last instants, now
    last, or None. proprio [k+1 q], now last; actions [p a], the last one led to now: both may reach back less far than
    the scene. cameras {name: Cameras []} that saw the scene. memory: the Gaussians now as measured last, where there is
    something sharper than `scene.at(now)`; the same ids.
    A robot that has another number of numbers than its vectors is a ConfigError.
    """

    actions: Tensor
    proprio: Tensor
    robot: RobotSpec
    scene: Scene4D | None = None
    memory: Gaussians | None = None
    frames: Mapping[str, Frames] | None = None
    cameras: Mapping[str, Cameras] = field(default_factory=dict)
    task: Task = field(default_factory=Task)

    SHAPES = shapes(actions="p a", proprio="k q")

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, spec, values in (
            ("action_spec", self.robot.action, self.actions),
            ("proprio_spec", self.robot.proprio, self.proprio),
        ):
            if spec.width not in (0, values.shape[-1]):
                found = f"{values.shape[-1]} numbers"
                raise ConfigError("is of another vector", field=key, found=found, expected=spec.width)

    @property
    def known_scene(self) -> Scene4D:
        """The scene up to now.

        Raises:
            ConfigError: the observation is of pictures alone.
        """
        if self.scene is None:
            raise ConfigError("holds no scene", field="Observation.scene", fix="reconstruct the recording first")
        return self.scene

    @property
    def step_seconds(self) -> float | None:
        """Seconds between the last two times of the scene; the robot's step where it has a single time."""
        if self.scene is None or self.scene.times.shape[-1] < 2:
            return self.robot.step_seconds
        return float(self.scene.times[-1] - self.scene.times[-2])

    def check_robot(self, robot: RobotSpec) -> None:
        """Refuse what is known of another robot than `robot`: what its spec declares, and how many numbers there are.

        Raises:
            ConfigError: one line that says what differs.
        """
        robot.check_same(self.robot)
        for name, values in (("action", self.actions), ("proprio", self.proprio)):
            spec = getattr(robot, name)
            if spec.width not in (0, values.shape[-1]):
                raise ConfigError(
                    "is of another robot", field=f"observation.{name}", found=f"{values.shape[-1]} numbers",
                    expected=str(spec), fix="take weights that were trained for this robot",
                )  # fmt: skip

    @classmethod
    def from_episode(
        cls,
        past: Episode,
        *,
        scene: Scene4D | None,
        memory: Gaussians | None = None,
        inputs: Sequence[str] = (),
        frames: Mapping[str, Frames] | None = None,
    ) -> Observation:
        """What is known at the last time of a past [t]; the action that leads out of it is not looked at.

        Args:
            scene, memory: what a stream made of the past. inputs: cameras that saw it. frames: pictures to go along.
        Raises:
            ConfigError: the past's specs are no specs.
        """
        robot = RobotSpec.from_info(
            past.info,
            num_actions=past.actions.shape[-1],
            num_proprio=past.proprio.shape[-1],
            step_seconds=step_of(past.times),
        )
        return cls(
            actions=past.actions[:-1],
            proprio=past.proprio,
            robot=robot,
            scene=scene,
            memory=memory,
            frames=frames,
            cameras={name: past.views[name].cameras[-1] for name in inputs},
            task=Task(str(past.info.get("task", ""))),
        )

    @classmethod
    def from_s4d(cls, file: S4DFile, *, scene: Scene4D, start: int) -> Observation:
        """What was known at frame `start` of a .s4d with actions and robot states; `scene` is that of the file.

        Raises:
            DataFormatError: the file holds no actions, or no robot state up to `start`. ConfigError: its specs are no
            specs.
        """
        actions, proprio = actions_of_s4d(file), file.info.get("proprio")
        if proprio is None or len(proprio) <= start:
            fix = "reconstruct it from a recording that has the robot's state"
            raise DataFormatError("holds no proprio", file=file.path, field="info.proprio", fix=fix)
        proprio = torch.tensor(proprio, dtype=torch.float32)[: start + 1]
        return cls(
            actions=actions[:start].float(),
            proprio=proprio,
            robot=robot_of_s4d(file, num_proprio=proprio.shape[-1], step_seconds=step_of(scene.times)),
            scene=known_at(scene, start),
            cameras=file.input_cameras(start),
            task=Task(str(file.info.get("task", ""))),
        )


def actions_of_s4d(file: S4DFile) -> Tensor:
    """The recorded actions [t-1 a] or [t a] of a .s4d.

    Raises:
        DataFormatError: the file holds none.
    """
    if file.actions is None:
        fix = "reconstruct, without --holdout, a recording with actions (lerobot, rlbench or `scene4d record`)"
        raise DataFormatError("holds no actions", file=file.path, field="actions", fix=fix)
    return file.actions


def robot_of_s4d(file: S4DFile, *, num_proprio: int | None = None, step_seconds: float | None = None) -> RobotSpec:
    """The robot of a .s4d, as far as it tells.

    Raises:
        ConfigError: a spec is no spec, or of another number of numbers.
    """
    return RobotSpec.from_info(
        {**file.info, "action_spec": file.action_spec},
        num_actions=None if file.actions is None else file.actions.shape[-1],
        num_proprio=num_proprio,
        step_seconds=step_seconds,
        file=file.path,
    )


def known_at(scene: Scene4D, last: int) -> Scene4D:
    """The scene [] as it was known at frame `last`: later frames and rows gone, later ends of rows not yet known."""
    now = float(scene.times[last])
    present = scene.alive[:, 0] <= now + 1e-6
    alive = scene.alive[present].clone()
    alive[:, 1] = torch.where(alive[:, 1] >= now, torch.full_like(alive[:, 1], float("inf")), alive[:, 1])
    motion = scene.motion
    return scene.replace(
        base=scene.base.pick(present),
        motion=motion.replace(
            world_from_rest=motion.world_from_rest[: last + 1],
            log_var=None if motion.log_var is None else motion.log_var[: last + 1],
            skin_index=motion.skin_index[present],
            skin_weights=motion.skin_weights[present],
        ),
        alive=alive,
        times=scene.times[: last + 1],
        observed=scene.observed[: last + 1],
        residual={k: v[: last + 1, present] for k, v in scene.residual.items()} if scene.residual else None,
    )


def step_of(times: Tensor) -> float | None:
    """Usual seconds between times [t]; None where there is one. Clocks of real cameras jitter."""
    return float(times.diff().median()) if len(times) > 1 else None
