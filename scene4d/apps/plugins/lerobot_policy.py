"""The agent behind the methods of a LeRobot policy: `reset`, `select_action`, `predict_action_chunk`.

Batches have LeRobot's keys. A policy that sees in 3D needs two inputs that LeRobot has no key for: depth comes as
`observation.depth.NAME` (as our own writer names it), calibration is given once, at construction; a camera that moves
sends `observation.extrinsic.NAME` with every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scene4d.apps.agent.agent import AgentConfig, SceneAgent, agent_config, agent_maker
from scene4d.apps.agent.agent_checks import checked_goal
from scene4d.apps.agent.task_names import task_from_text
from scene4d.apps.compose.models import Models
from scene4d.errors import CalibrationError, DataFormatError, DepthError
from scene4d.types import Cameras, Frames

STATE, GOAL, TASK = "observation.state", "observation.goal", "task"
IMAGES, DEPTH, EXTRINSIC = "observation.images", "observation.depth", "observation.extrinsic"


@dataclass(frozen=True)
class _Given:
    """One robot's part of a batch."""

    frames: Mapping[str, Frames]
    proprio: Tensor
    done: Tensor | None
    task: str
    goal: Tensor | None


class LeRobotPolicy:
    """Actions for observation dictionaries as LeRobot's rollout and robot loops make them.

    Every element of a batch is a robot of its own, with its own memory; the first call after `reset` decides how many.
    Keys of a batch of b (b may be left out of every one):

    - `observation.images.NAME` [b 3 h w]: colour, float in [0, 1] or uint8
    - `observation.depth.NAME` [b h w] or [b 1 h w]: z-depth, float in m or integer in `depth_unit`; 0 = not measured
    - `observation.state` [b p]: proprio in the units of the proprio spec
    - `task`: one text, or a list of b of them
    - `observation.goal` [b 3]: where what the task is about should come to be, m, for tasks that need it
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
            config: of the agents; what it leaves open is taken from the weights, but for the input cameras: those are
                all of `cameras`, in the order that the head learned where it learned with these.
        Raises:
            CheckpointError: the weights hold no action head. CalibrationError: no camera, or a whole batch of one.
        """
        self.depth_unit = depth_unit
        self.config = agent_config(models, _with_cameras(config, models=models, cameras=cameras))
        missing = [name for name in self.config.input_cameras if name not in cameras]
        bad = [name for name, camera in cameras.items() if camera.batch_shape]
        if not cameras or bad or missing:
            problem = "one camera a name is needed"
            raise CalibrationError(problem, field="cameras", found=bad or list(cameras), expected=missing or None)
        self.cameras = {name: cameras[name] for name in self.config.input_cameras}
        self.tasks = models.tasks
        self._models, self._forecast = models, forecast
        agent_maker(models, forecast=forecast, config=self.config)  # refuses unfit weights here and not at first use
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        self._agents: list[SceneAgent] = []

    def select_action(self, batch: Mapping[str, Any]) -> Tensor:
        """The next action [b a] (or [a] where the batch has no batch axis).

        Where a plan fails, no robot of the batch is answered: all of them have the batch in memory, and the next one is
        a step of rest later.

        Raises:
            DataFormatError: a key is missing or does not fit; DepthError, CalibrationError: depth or cameras do not.
            ConfigError: nothing was trained for the task. NumericsError: an action is not finite.
        """
        return self._each(batch, SceneAgent.next_action, done=None)

    def predict_action_chunk(self, batch: Mapping[str, Any], *, done: Tensor | None = None) -> Tensor:
        """A fresh chunk of actions [b h a] (or [h a]) from this batch; the queue of `select_action` is left behind.

        Args:
            done: the actions [b n a] (or [n a]) carried out since the last call; None = the first of its answer.
        Raises:
            as `select_action`.
        """
        return self._each(batch, SceneAgent.next_chunk, done=done)

    def _each(self, batch: Mapping[str, Any], answer: Callable[..., Tensor], *, done: Tensor | None) -> Tensor:
        given, single = self._observations(batch, done=done)
        agents = self._agents or [self._agent(number) for number in range(len(given))]
        if len(given) != len(agents):
            problem, fix = "another number of robots than before", "call reset() when the batch changes"
            raise DataFormatError(problem, field=STATE, found=len(given), expected=len(agents), fix=fix)
        # All are checked before any memory changes, and all have seen the batch before any plans: whatever fails,
        # none is ahead of the others. Where some cannot begin (no depth anywhere), none has begun.
        for agent, one in zip(agents, given, strict=True):
            agent.checked(one.frames, proprio=one.proprio, done=one.done)
        for agent, one in zip(agents, given, strict=True):
            agent.observe(one.frames, proprio=one.proprio, done=one.done)
        self._agents = agents
        try:
            actions = [answer(agent, one.task, goal=one.goal) for agent, one in zip(agents, given, strict=True)]
        except BaseException:  # an interrupt too: what some were to do reaches none of them
            for agent in agents:
                agent.withdraw()
            raise
        return actions[0] if single else torch.stack(actions)

    def _agent(self, number: int) -> SceneAgent:
        config = replace(self.config, seed=self.config.seed + 1_000_003 * number)  # robots do not draw alike
        return agent_maker(self._models, forecast=self._forecast, config=config)("")

    def _observations(self, batch: Mapping[str, Any], *, done: Tensor | None) -> tuple[list[_Given], bool]:
        """What each robot is given, and whether the batch has no batch axis."""
        state = _tensor(batch, STATE)
        num = None if state.ndim == 1 else len(state)
        if num == 0:
            raise DataFormatError("holds no robot", field=STATE, found=list(state.shape), expected="[b >= 1, p] or [p]")
        parts = {key: _parts(_tensor(batch, key), num=num, key=key) for key in self._keys(batch)}
        tasks = self._tasks_of(batch, num=num)
        did = [None] * len(tasks) if done is None else _parts(done, num=num, key="done")
        given = []
        for i, task in enumerate(tasks):
            one = {key: values[i] for key, values in parts.items()}
            frames = {name: self._frames(one, name) for name in self.cameras}
            goal = checked_goal(one.get(GOAL))
            given.append(_Given(frames, proprio=one[STATE].float(), done=did[i], task=task, goal=goal))
        return given, num is None

    def _keys(self, batch: Mapping[str, Any]) -> list[str]:
        """The keys of tensors that count."""
        for name in self.cameras:
            if batch.get(f"{DEPTH}.{name}") is None:
                raise DepthError("is missing", field=f"{DEPTH}.{name}", fix="add z-depth in m to the batch")
        needed = [f"{kind}.{name}" for kind in (IMAGES, DEPTH) for name in self.cameras]
        free = [GOAL, *(f"{EXTRINSIC}.{name}" for name in self.cameras)]
        return [STATE, *needed, *(key for key in free if batch.get(key) is not None)]

    def _tasks_of(self, batch: Mapping[str, Any], *, num: int | None) -> list[str]:
        """The trained name of every robot's task."""
        given, count = batch.get(TASK), 1 if num is None else num
        texts: list[Any] = [given] * count
        if isinstance(given, Iterable) and not isinstance(given, str):
            texts = list(given)
        if len(texts) != count:
            fix = "give one text, or a list as long as observation.state"
            raise DataFormatError("is not one for each robot", field=TASK, found=len(texts), expected=count, fix=fix)
        missing = [text for text in texts if not (isinstance(text, str) and text)]
        if missing:
            expected = ", ".join(self.tasks) or "what is to be done"
            raise DataFormatError("is missing", field=TASK, found=repr(missing[0])[:80], expected=expected)
        return [task_from_text(text, self.tasks) if self.tasks else text for text in texts]

    def _frames(self, one: Mapping[str, Tensor], name: str) -> Frames:
        image, depth, camera = one[f"{IMAGES}.{name}"], one[f"{DEPTH}.{name}"], self.cameras[name]
        if tuple(image.shape) != (3, camera.height, camera.width):
            raise DataFormatError(
                "is not of the size that was calibrated", field=f"{IMAGES}.{name}", found=list(image.shape),
                expected=[3, camera.height, camera.width], fix="give cameras.resized(width, height) for such pictures",
            )  # fmt: skip
        size = list(image.shape[1:])
        if list(depth.shape) not in (size, [1, *size]):
            raise DepthError(
                "is not registered to the picture", field=f"{DEPTH}.{name}", found=list(depth.shape),
                expected=f"{size} or {[1, *size]}", fix="give one z-depth for every pixel of the picture",
            )  # fmt: skip
        depth = depth.reshape(size)
        if f"{EXTRINSIC}.{name}" in one:
            camera = camera.replace(viewmats=one[f"{EXTRINSIC}.{name}"].to(camera.viewmats))
        # Unsigned 16 bits cannot be compared or multiplied in torch.
        metres = depth.float() if depth.is_floating_point() else depth.to(torch.int64).float() * self.depth_unit
        rgb = image.float() if image.is_floating_point() else image.float() / 255
        return Frames(rgb=rgb.movedim(0, -1), depth=metres, alpha=None, cameras=camera)


def _with_cameras(config: AgentConfig | None, *, models: Models, cameras: Mapping[str, Cameras]) -> AgentConfig:
    """The configuration with the cameras that are there, where it names none."""
    config, learnt = config if config is not None else AgentConfig(), models.policy_cameras
    if config.input_cameras is not None:
        return config
    return replace(config, input_cameras=learnt if set(learnt) == set(cameras) else tuple(cameras))


def _tensor(batch: Mapping[str, Any], key: str) -> Tensor:
    value = batch.get(key)
    if value is None:
        raise DataFormatError("is missing", field=key, found=sorted(map(str, batch))[:12])
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataFormatError("is no tensor", field=key, found=str(error)[:80], expected="numbers") from error
    if value.ndim == 0:
        raise DataFormatError("is a single number", field=key)
    return value.detach().cpu()


def _parts(values: Tensor, *, num: int | None, key: str) -> list[Tensor]:
    """The part of each of `num` robots; of a batch without a batch axis (num None) the whole is the one part."""
    if num is None:
        return [values]
    if list(values.shape[:1]) != [num]:
        found, expected = list(values.shape), f"[{num}, ...]"
        raise DataFormatError("is not as long as observation.state", field=key, found=found, expected=expected)
    return list(values)
