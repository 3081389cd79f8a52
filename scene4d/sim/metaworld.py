"""Meta-World tasks seen by the fixed rig: RGB-D, exact poses and motion, scripted experts, closed-loop control."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.disk_errors import refuse_shortage
from scene4d.errors import ConfigError, EnvError
from scene4d.sim import rig
from scene4d.sim.drawing.simulator import Simulator

FRAME_SKIP = 2  # simulator steps of 0.0125 s a frame
ACTION_SPEC = (
    *({"name": name, "unit": "0.02 m", "frame": "world"} for name in ("dx", "dy", "dz")),
    {"name": "gripper", "unit": "effort, -1 opens, 1 closes", "frame": "gripper"},
)
PROPRIO_SPEC = (
    *({"name": name, "unit": "m", "frame": "world"} for name in ("hand_x", "hand_y", "hand_z")),
    {"name": "gripper_opening", "unit": "m", "frame": "gripper"},
)


class MetaWorldSim(Simulator):
    """One Meta-World task in closed loop: reset, observe, step.

    A seed fixes everything: every reset builds the environment afresh, so an episode is bit-equal whatever ran before.
    Actions are in [-1, 1]: the hand's target moves by 0.02 m times the action a frame; the last one drives the gripper.

    Args:
        task: a Meta-World name such as "door-open-v3".
        seed: of the task's object and goal positions.
        size, cameras, segments, turned_deg: as `Simulator`.
    Raises:
        ConfigError: no such task or camera.
        EnvError: metaworld is not installed.
    """

    source = "metaworld"
    robot = "sawyer"
    action_spec = ACTION_SPEC
    proprio_spec = PROPRIO_SPEC

    def __init__(
        self,
        task: str,
        *,
        seed: int = 0,
        size: tuple[int, int] = (64, 64),
        cameras: Sequence[str] | Mapping[str, rig.RigCamera] = ("left", "right", "front", "top"),
        segments: bool | Sequence[str] = True,
        turned_deg: float = 0.0,
    ):
        self._make_env, self._make_policy = _task_makers(task)
        super().__init__(task, seed=seed, size=size, cameras=cameras, segments=segments, turned_deg=turned_deg)

    def reset(self, seed: int | None = None) -> None:
        """Back to the first frame of `seed` (by default the present one)."""
        self.seed = self.seed if seed is None else int(seed)
        self._env = self._make_env(seed=self.seed)
        self._obs, _ = self._env.reset()
        self._policy = self._make_policy()
        self._number_segments(self._env.model.body_weldid)  # bodies without a joint between them move as one
        self.num_frames = 0

    @property
    def object_segments(self) -> list[int]:
        """The segments that can move and are no part of the robot."""
        model = self._env.model
        robot = model.body_rootid[model.body("hand").id]
        roots = model.body_rootid[self._body_of_segment]
        return [number for number, root in enumerate(roots) if number > 0 and root != robot]

    @property
    def goal(self) -> Tensor | None:
        """Where the object (in reach, the hand) should come to be, [3] m; None where the scene shows what to do."""
        if not self.task.startswith(rig.HIDDEN_GOALS):
            return None
        return torch.as_tensor(np.asarray(self._env._target_pos), dtype=torch.float32)

    def proprio(self) -> Tensor:
        """Hand position and gripper opening [4], m."""
        data = self._env.data
        opening = np.linalg.norm(data.body("rightclaw").xpos - data.body("leftclaw").xpos)
        return torch.tensor([*data.body("hand").xpos, opening], dtype=torch.float32)

    def expert_action(
        self, *, object_offset: np.ndarray | None = None, goal_offset: np.ndarray | None = None
    ) -> Tensor:
        """What the task's scripted expert would do now, [4] in [-1, 1]. Ask once a frame: some experts keep a state.

        Args:
            object_offset, goal_offset: [3] m by which the expert misjudges where the object and the goal are.
        """
        seen = self._obs.copy()  # they write into what they are given
        seen[4:7] += 0 if object_offset is None else object_offset
        seen[-3:] += 0 if goal_offset is None else goal_offset
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the experts ask for more than full speed and say so at every step
            action = self._policy.get_action(seen)
        return torch.from_numpy(np.clip(np.asarray(action, np.float32), -1, 1))

    def step(self, action: Tensor) -> tuple[float, bool]:
        """Hold `action` [4] (clipped to [-1, 1]) for one frame, which is two simulator steps; as `Simulator.step`."""
        values, success, reward = self._clipped(action), False, 0.0
        if self._env.curr_path_length + FRAME_SKIP > self._env.max_path_length:
            raise EnvError("the episode is over", field="step", found=f"{self.num_frames} frames", fix="call reset")
        for _ in range(FRAME_SKIP):
            self._obs, reward, _, _, info = self._env.step(values)
            success |= bool(info["success"])
        self.num_frames += 1
        return float(reward), success

    def _world(self) -> tuple[Any, Any]:
        return self._env.model, self._env.data


def _task_makers(task: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The environment's and the expert's constructors."""
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        refuse_shortage(error, file=None)
        raise EnvError("metaworld is not installed", field="metaworld", fix='pip install "scene4d[sim]"') from error
    if task not in ENV_POLICY_MAP:
        known = ", ".join(rig.TASKS) + " or another v3 task"
        raise ConfigError("no such task", field="task", found=task, expected=known)
    # The experts know where the goal is; nothing that is recorded shows it.
    return ENVIRONMENTS[f"{task}-goal-observable"], ENV_POLICY_MAP[task]
