"""The agent in closed loop: scene memory, forecast and action head behind `reset` and `step`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from scene4d.apps.build.models import Models
from scene4d.apps.build.perception import new_memory, perception
from scene4d.errors import (
    CalibrationError,
    CheckpointError,
    ConfigError,
    DataFormatError,
    DepthError,
    NumericsError,
)
from scene4d.policy.head import ActionHead
from scene4d.policy.percept import Stream
from scene4d.types import Frames
from scene4d.worldmodel import WorldModel


@dataclass(frozen=True)
class AgentConfig:
    """How a `SceneAgent` runs."""

    input_cameras: tuple[str, ...] = ("left", "right")
    """Cameras whose pictures go into the memory."""
    replan_every: int = 2
    """Actions carried out of each chunk before the next is planned."""
    seconds_per_frame: float = 0.025
    """Time between two calls of `step`."""
    size: tuple[int, int] | None = None
    """Width and height in px that pictures are brought to first; None = as they come. The head learned at 64 x 64."""
    horizon: int = 8
    """Steps ahead of the forecast."""
    seed: int = 0
    """Seed of the first plan after `reset`; later plans count up from it."""


class SceneAgent:
    """An `Agent`: every frame enters the scene memory; every few steps a chunk of actions is planned from its views.

    `step` answers one action; `step_chunk` a whole chunk, for callers that carry out as much of it as they like. One
    agent is one episode at a time, and not to be shared by threads.
    """

    def __init__(
        self,
        head: ActionHead,
        make_stream: Callable[[], Stream],
        *,
        world_model: WorldModel | None = None,
        context: Mapping[str, Any] | None = None,
        config: AgentConfig | None = None,
    ) -> None:
        """
        Args:
            head: trained action head.
            make_stream: makes an empty scene memory.
            world_model: forecasts for the head; None = it looks at now only.
            context: what the world model is told of task and robot.
        """
        self.head, self.config = head, config if config is not None else AgentConfig()
        self.percept = perception(
            head.config,
            make_stream=make_stream,
            world_model=world_model,
            context=context or {},
            horizon=self.config.horizon,
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.percept.reset()
        self.num_steps, self.num_plans = 0, 0
        self.chunk: list[Tensor] = []
        self._begun = False
        self._answered: Tensor | None = None

    def step(self, frames: Mapping[str, Frames], *, proprio: Tensor, task: str, goal: Tensor | None = None) -> Tensor:
        """The next action [a] from the newest frames {camera name: Frames []}.

        Args:
            proprio: [p] in the units of the proprio spec; the first three are the hand's place in m.
            task: its name.
            goal: [3] m in the world, where what the task is about should come to be, for tasks that the scene does not
                show it of; only a head that learned with goals heeds it.
        Raises:
            DataFormatError: a camera that the memory needs is not there, pictures or proprio are not as they should be.
            DepthError: a camera gives no depth. CalibrationError: one is not where a camera can be.
            NumericsError: the head's action is not finite.
        """
        goal = checked_goal(goal)
        self.observe(frames, proprio=proprio)
        if not self.chunk:
            self.chunk = list(self.plan(task, goal=goal)[: self.config.replan_every])
        action = self.chunk.pop(0)
        self._answered = action[None]
        return action

    def step_chunk(
        self,
        frames: Mapping[str, Frames],
        *,
        proprio: Tensor,
        task: str,
        done: Tensor | None = None,
        goal: Tensor | None = None,
    ) -> Tensor:
        """A fresh chunk of actions [h a] from the newest frames, for callers that carry out as many as they like.

        Args:
            goal: as `step`.
            done: actions [n a] that were carried out since the last call; None = the first one of its answer. Call
                after every action for the sharpest memory: what is not seen cannot be followed.
        Raises:
            as `step`.
        """
        goal = checked_goal(goal)
        self.observe(frames, proprio=proprio, done=done)
        self.chunk = []
        actions = self.plan(task, goal=goal)
        self._answered = actions[:1]
        return actions

    def observe(self, frames: Mapping[str, Frames], *, proprio: Tensor, done: Tensor | None = None) -> None:
        """Take the newest frames {camera name: Frames []} and the robot's state [p] into the memory.

        Args:
            done: actions [n a] carried out since the last frames; None = what was answered then.
        Raises:
            as `step`; what is wrong is refused before anything is remembered, so that the next frames find it whole.
        """
        pictures, proprio, done = self.checked(frames, proprio=proprio, done=done)
        done = self._answered if done is None else done
        if done is not None and self._begun:
            self.percept.acted(done)
            self.num_steps += len(done)
        self._answered = None
        self.percept.observe(pictures, proprio=proprio, time=self.num_steps * self.config.seconds_per_frame)
        self._begun = True

    def checked(
        self, frames: Mapping[str, Frames], *, proprio: Tensor, done: Tensor | None = None
    ) -> tuple[Frames, Tensor, Tensor | None]:
        """What `observe` takes in of its arguments: pictures [v], proprio [p], done [n a]. Nothing is remembered.

        Raises:
            as `step`, but for NumericsError.
        """
        shape = (self.head.config.proprio_dim,)
        if done is not None:
            done = _checked_vector(done, name="actions", shape=(max(1, len(done)), self.head.config.action_dim))
        return _stacked(frames, self.config), _checked_vector(proprio, name="proprio", shape=shape), done

    def plan(self, task: str, *, goal: Tensor | None = None) -> Tensor:
        """A chunk of actions [h a] from the memory as it stands; goal [3] m as `step`.

        Raises:
            NumericsError: it is not finite.
        """
        self.percept.context["task"] = task
        views, features = self.percept.views()
        seed = self.config.seed + self.num_plans
        self.num_plans += 1
        state = self.percept.proprio[-1]
        actions = self.head.act(views, features=features, proprio=state, task=task, seed=seed, goal=goal)
        if not bool(actions.isfinite().all()):
            raise NumericsError("are not finite", field="actions", fix="check the weights and the observation")
        return actions


def agent_maker(
    models: Models, *, forecast: bool = True, config: AgentConfig | None = None
) -> Callable[[str], SceneAgent]:
    """Task name -> agent, from trained weights.

    Args:
        models: with an action head. forecast: whether the head also looks at the predicted future.
    Raises:
        CheckpointError: the weights hold no action head, or its statistics cannot be divided by.
        ConfigError: the head speaks of other numbers than the action and proprio specs.
    """
    if models.policy is None:
        raise CheckpointError("holds no action head", field="policy", fix="train with a [policy] section")
    check_head(models.policy, context=models.info.get("context", {}))
    world_model = models.dynamics if forecast else None
    config = config or AgentConfig(input_cameras=models.policy_cameras)

    def make(task: str) -> SceneAgent:
        context = {**models.info.get("context", {}), "task": task}
        return SceneAgent(models.policy, new_memory, world_model=world_model, context=context, config=config)

    return make


def check_head(head: ActionHead, *, context: Mapping[str, Any]) -> None:
    """Refuse a head whose numbers are not those of the specs, or whose normaliser is none.

    Raises:
        ConfigError: action_spec or proprio_spec of `context` has another length than the head has numbers.
        CheckpointError: a mean is not finite, or a deviation is not positive.
    """
    for name, width in (("action", head.config.action_dim), ("proprio", head.config.proprio_dim)):
        spec = context.get(f"{name}_spec")
        if spec and len(spec) != width:
            raise ConfigError(
                "differs from the head", field=f"{name}_spec", found=f"{len(spec)} numbers", expected=f"{width}",
                fix="take the weights that were trained for this robot",
            )  # fmt: skip
        mean, std = getattr(head, f"{name}_mean"), getattr(head, f"{name}_std")
        if not (bool(mean.isfinite().all()) and bool(std.isfinite().all()) and bool((std > 0).all())):
            raise CheckpointError(
                "is no normaliser", field=f"policy.{name}_std", found=std.tolist(), expected="finite, > 0",
                fix="train the head again",
            )  # fmt: skip


def checked_goal(goal: Tensor | None) -> Tensor | None:
    """A goal [3] m, or None.

    Raises:
        DataFormatError: other than three finite numbers.
    """
    return None if goal is None else _checked_vector(goal, name="goal", shape=(3,))


def _checked_vector(values: Tensor, *, name: str, shape: tuple[int, ...]) -> Tensor:
    if tuple(values.shape) != shape or not bool(values.isfinite().all()):
        raise DataFormatError(
            "is not what the head knows", field=name, expected=f"{list(shape)}, finite",
            found=f"{list(values.shape)} {values.flatten()[:8].tolist()}",
        )  # fmt: skip
    return values.detach().float()


def _stacked(frames: Mapping[str, Frames], config: AgentConfig) -> Frames:
    names = config.input_cameras
    missing = [name for name in names if name not in frames]
    if missing:
        raise DataFormatError("no such camera", field="cameras", found=list(frames), expected=list(names))
    chosen = [_checked_frames(frames[name], name=name) for name in names]
    if config.size is not None:
        chosen = [_resized(f, *config.size) for f in chosen]
    sizes = {name: (f.cameras.width, f.cameras.height) for name, f in zip(names, chosen, strict=True)}
    if len(set(sizes.values())) != 1:
        raise DataFormatError(
            "differ in size", field="cameras", found=sizes, fix="give the agent a size to bring them to"
        )
    return Frames.stack(chosen)


def _resized(frames: Frames, width: int, height: int) -> Frames:
    """Frames [] in another size: colour by area, depth and what is usable from the nearest pixel, K with them."""
    if (frames.cameras.width, frames.cameras.height) == (width, height):
        return frames
    rgb = interpolate(frames.rgb.movedim(-1, 0)[None], size=(height, width), mode="area")[0].movedim(0, -1)
    nearest = lambda x: interpolate(x[None, None], size=(height, width), mode="nearest-exact")[0, 0]
    cameras = frames.cameras.resized(width, height)
    return frames.replace(rgb=rgb, depth=nearest(frames.depth), alpha=nearest(frames.alpha), cameras=cameras)


def _checked_frames(frames: Frames, *, name: str) -> Frames:
    """Frames without extras whose depth is 0 wherever it says nothing."""
    if frames.batch_shape or not bool(frames.rgb.isfinite().all()):
        raise DataFormatError(
            "is no picture", field=f"{name}.rgb", found=list(frames.rgb.shape), expected="[h w 3], finite"
        )
    if frames.depth is None:
        raise DepthError("is missing", field=f"{name}.depth", fix="give z-depth in m, 0 where it was not measured")
    cameras = frames.cameras
    if not (bool(cameras.viewmats.isfinite().all()) and bool(cameras.Ks.isfinite().all())):
        raise CalibrationError("is not finite", field=f"{name}.viewmats, {name}.Ks")
    turn = cameras.viewmats[:3, :3].double()
    off = (turn @ turn.mT - torch.eye(3, dtype=torch.float64)).abs().max()
    if not (float(off) < 1e-3 and bool((cameras.Ks.diagonal()[:2] > 0).all())):
        raise CalibrationError(
            "is no camera", field=f"{name}.viewmats, {name}.Ks", expected="a rigid motion, focal lengths > 0"
        )
    said = frames.depth.isfinite() & (frames.depth > 0)
    alpha = torch.ones_like(frames.depth) if frames.alpha is None else frames.alpha
    return frames.replace(depth=torch.where(said, frames.depth, 0.0), alpha=alpha, extras={})
