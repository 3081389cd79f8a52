"""The agent in closed loop: scene memory, forecast and action head behind `reset` and `step`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scene4d.apps.build.models import Models
from scene4d.errors import CheckpointError, DataFormatError
from scene4d.lift.stream import SceneStream
from scene4d.policy.head import ActionHead
from scene4d.policy.percept import Percept, Stream
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
    horizon: int = 8
    """Steps ahead of the forecast."""
    seed: int = 0
    """Seed of the first plan after `reset`; later plans count up from it."""


class SceneAgent:
    """An `Agent`: every frame enters the scene memory; every few steps a chunk of actions is planned from its views."""

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
        self.percept = Percept(
            make_stream,
            world_model=world_model,
            context=context,
            view_size=head.config.view_size,
            horizon=self.config.horizon,
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.percept.reset()
        self.num_steps, self.num_plans = 0, 0
        self.chunk: list[Tensor] = []

    def step(self, frames: Mapping[str, Frames], *, proprio: Tensor, task: str) -> Tensor:
        """The next action [a] from the newest frames {camera name: Frames []}.

        Args:
            proprio: [p]; task: its name.
        Raises:
            DataFormatError: a camera that the memory needs is not there.
        """
        pictures = _stacked(frames, self.config.input_cameras)
        self.percept.observe(pictures, proprio=proprio, time=self.num_steps * self.config.seconds_per_frame)
        if not self.chunk:
            self.chunk = list(self.plan(task)[: self.config.replan_every])
        action = self.chunk.pop(0)
        self.percept.acted(action)
        self.num_steps += 1
        return action

    def plan(self, task: str) -> Tensor:
        """A chunk of actions [h a] from the memory as it stands."""
        views, features = self.percept.views(action_dim=self.head.config.action_dim)
        seed = self.config.seed + self.num_plans
        self.num_plans += 1
        return self.head.act(views, features=features, proprio=self.percept.proprio[-1], task=task, seed=seed)


def agent_maker(
    models: Models, *, forecast: bool = True, config: AgentConfig | None = None
) -> Callable[[str], SceneAgent]:
    """Task name -> agent, from trained weights.

    Args:
        models: with an action head. forecast: whether the head also looks at the predicted future.
    Raises:
        CheckpointError: the weights hold no action head.
    """
    if models.policy is None:
        raise CheckpointError("holds no action head", field="policy", fix="train with a [policy] section")
    world_model = models.dynamics if forecast else None

    def make(task: str) -> SceneAgent:
        context = {**models.info.get("context", {}), "task": task}
        return SceneAgent(models.policy, SceneStream, world_model=world_model, context=context, config=config)

    return make


def _stacked(frames: Mapping[str, Frames], names: Sequence[str]) -> Frames:
    missing = [name for name in names if name not in frames]
    if missing:
        raise DataFormatError("no such camera", field="cameras", found=list(frames), expected=list(names))
    return Frames.stack([frames[name].replace(extras={}) for name in names])
