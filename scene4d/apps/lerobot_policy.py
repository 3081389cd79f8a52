"""The agent behind the methods of a LeRobot policy: `reset`, `select_action`, `predict_action_chunk`.

Batches have LeRobot's keys. A policy that sees in 3D needs two things that LeRobot has no key for: depth comes as
`observation.depth.NAME` (as our own writer names it), calibration is given once, at construction; a camera that moves
sends `observation.extrinsic.NAME` with every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.act import task_from_text
from scene4d.apps.agent import AgentConfig, SceneAgent, agent_maker, checked_goal
from scene4d.apps.build.models import Models
from scene4d.errors import CalibrationError, DataFormatError, DepthError
from scene4d.types import Cameras, Frames

STATE, GOAL, TASK, IMAGES, DEPTH, EXTRINSIC = (
    "observation.state",
    "observation.goal",
    "task",
    "observation.images",
    "observation.depth",
    "observation.extrinsic",
)


class LeRobotPolicy:
    """Actions for observation dictionaries as LeRobot's rollout and robot loops make them.

    Every element of a batch is a robot of its own, with its own memory; the first call after `reset` decides how many.
    Keys of a batch of b (b may be left out of every one):

    - `observation.images.NAME` [b 3 h w]: colour, float in [0, 1] or uint8
    - `observation.depth.NAME` [b h w] or [b 1 h w]: z-depth, float in m or integer in `depth_unit`; 0 = not measured
    - `observation.state` [b p]: proprio in the units of the proprio spec
    - `task`: one text, or a list of b of them
    - `observation.goal` [b 3]: where what the task is about should come to be, m, for tasks that are told it
    - `observation.extrinsic.NAME` [b 4 4]: camera-from-world (OpenCV axes, m), only where the camera moves
    """

    def __init__(
        self,
        models: Models,
        *,
        cameras: Mapping[str, Cameras],
        forecast: bool = True,
        depth_unit: float = 0.001,
        config: AgentConfig | None = None,
    ) -> None:
        """
        Args:
            models: with an action head.
            cameras: calibration [] of each camera that the memory looks through, for the pictures' own size.
            forecast: whether the head also looks at the predicted future.
            depth_unit: metres a step of integer depth.
            config: of the agents; its input_cameras are taken from `cameras`.
        Raises:
            CheckpointError: the weights hold no action head. CalibrationError: no camera, or a whole batch of one.
        """
        bad = [name for name, camera in cameras.items() if camera.batch_shape]
        if not cameras or bad:
            raise CalibrationError("one camera a name is needed", field="cameras", found=bad or list(cameras))
        self.cameras, self.depth_unit = dict(cameras), depth_unit
        self.config = replace(config or AgentConfig(size=(64, 64)), input_cameras=tuple(cameras))
        self.tasks = models.tasks
        self._models, self._forecast = models, forecast
        agent_maker(models, forecast=forecast, config=self.config)  # refuses unfit weights here and not at first use
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        self._agents: list[SceneAgent] = []

    def select_action(self, batch: Mapping[str, Any]) -> Tensor:
        """The next action [b a] (or [a] where the batch has no batch axis).

        Raises:
            DataFormatError: a key is missing or does not fit; DepthError, CalibrationError: depth or cameras do not.
            ConfigError: nothing was trained for the task.
        """
        return self._each(batch, lambda agent, given, _: agent.step(**given), done=None)

    def predict_action_chunk(self, batch: Mapping[str, Any], *, done: Tensor | None = None) -> Tensor:
        """A fresh chunk of actions [b h a] (or [h a]) from this batch; the queue of `select_action` is left behind.

        Args:
            done: the actions [b n a] (or [n a]) carried out since the last call; None = the first of its answer.
        Raises:
            as `select_action`.
        """
        return self._each(batch, lambda agent, given, done: agent.step_chunk(**given, done=done), done=done)

    def _each(
        self,
        batch: Mapping[str, Any],
        answer: Callable[[SceneAgent, dict[str, Any], Tensor | None], Tensor],
        *,
        done: Tensor | None,
    ) -> Tensor:
        state = _tensor(batch, STATE)
        single = state.ndim == 1
        given = [self._observation(batch, index=None if single else i) for i in range(1 if single else len(state))]
        if not self._agents:
            self._agents = [self._agent(number) for number in range(len(given))]
        if len(given) != len(self._agents):
            raise DataFormatError(
                "another number of robots than before", field=STATE, found=len(given), expected=len(self._agents),
                fix="call reset() when the batch changes",
            )  # fmt: skip
        each_done = [_part(done, row) for row in ([None] if single else range(len(given)))]
        robots = list(zip(self._agents, given, each_done, strict=True))
        for agent, one, did in robots:  # all of them before any moves on, or a second try would find some ahead
            agent.checked(one["frames"], proprio=one["proprio"], done=did)
        actions = [answer(*robot) for robot in robots]
        return actions[0] if single else torch.stack(actions)

    def _agent(self, number: int) -> SceneAgent:
        config = replace(self.config, seed=self.config.seed + 1_000_003 * number)  # robots do not draw alike
        return agent_maker(self._models, forecast=self._forecast, config=config)("")

    def _observation(self, batch: Mapping[str, Any], *, index: int | None) -> dict[str, Any]:
        task = batch.get(TASK)
        task = task if isinstance(task, str) or task is None else task[index or 0]
        if not task:
            raise DataFormatError("is missing", field=TASK, expected=", ".join(self.tasks) or "what is to be done")
        name = task_from_text(task, self.tasks) if self.tasks else task
        frames = {camera: self._frames(batch, camera, index=index) for camera in self.cameras}
        given = {"frames": frames, "proprio": _part(_tensor(batch, STATE), index).float(), "task": name}
        if GOAL in batch:
            given["goal"] = checked_goal(_part(_tensor(batch, GOAL), index))
        return given

    def _frames(self, batch: Mapping[str, Any], name: str, *, index: int | None) -> Frames:
        image, camera = _part(_tensor(batch, f"{IMAGES}.{name}"), index), self.cameras[name]
        if tuple(image.shape) != (3, camera.height, camera.width):
            raise DataFormatError(
                "is not of the size that was calibrated", field=f"{IMAGES}.{name}", found=list(image.shape),
                expected=[3, camera.height, camera.width], fix="give cameras.resized(width, height) for such pictures",
            )  # fmt: skip
        if f"{DEPTH}.{name}" not in batch:
            raise DepthError("is missing", field=f"{DEPTH}.{name}", fix="add z-depth in m to the batch")
        depth = _part(_tensor(batch, f"{DEPTH}.{name}"), index)
        depth = depth[0] if depth.ndim == 3 else depth
        if tuple(depth.shape) != tuple(image.shape[1:]):
            raise DepthError("is not registered to the picture", field=f"{DEPTH}.{name}", found=list(depth.shape))
        if f"{EXTRINSIC}.{name}" in batch:
            viewmat = _part(_tensor(batch, f"{EXTRINSIC}.{name}"), index)
            camera = camera.replace(viewmats=viewmat.to(camera.viewmats))
        # Unsigned 16 bits cannot be compared or multiplied in torch.
        metres = depth.float() if depth.is_floating_point() else depth.to(torch.int64).float() * self.depth_unit
        rgb = image.float() if image.is_floating_point() else image.float() / 255
        return Frames(rgb=rgb.movedim(0, -1), depth=metres, alpha=None, cameras=camera)


def _tensor(batch: Mapping[str, Any], key: str) -> Tensor:
    value = batch.get(key)
    if value is None:
        raise DataFormatError("is missing", field=key, found=sorted(map(str, batch))[:12])
    value = torch.as_tensor(value)
    if value.ndim == 0:
        raise DataFormatError("is a single number", field=key)
    return value.detach().cpu()


def _part(values: Tensor | None, index: int | None) -> Tensor | None:
    if values is None or index is None:
        return values
    if index >= len(values):
        raise DataFormatError("the batch is shorter than observation.state", found=len(values), expected=f"> {index}")
    return values[index]
