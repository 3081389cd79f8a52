"""The agent in closed loop: scene memory, forecast and action head behind `reset` and `step`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from scene4d.apps.agent.agent_checks import (
    Pictures,
    camera_places,
    check_place,
    check_seen,
    checked_goal,
    checked_vector,
    stacked_frames,
)
from scene4d.apps.compose.action_head import head_of, robot_of_head
from scene4d.apps.compose.models import Models
from scene4d.apps.compose.perception import new_memory
from scene4d.errors import CalibrationError, ConfigError, NumericsError
from scene4d.policy.head import ActionHead
from scene4d.policy.observation_builder import HeadWorldModel, Stream, observation_builder_for
from scene4d.robot.actions import resting_action
from scene4d.robot.bounds import within_bounds
from scene4d.robot.spec import RobotSpec
from scene4d.types import Frames
from scene4d.world.capabilities import require


@dataclass(frozen=True)
class AgentConfig:
    """How a `SceneAgent` runs; what is None, `agent_config` takes from the weights: as the head learned."""

    input_cameras: tuple[str, ...] | None = None
    """Cameras whose pictures go into the memory; None = those that the head learned with."""
    replan_every: int = 2
    """Actions carried out of each chunk before the next is planned."""
    seconds_per_frame: float | None = None
    """Time between two calls of `step`; None = that of the recordings that were learned from."""
    size: tuple[int, int] | None = None
    """Width and height in px that pictures are brought to first; None = the size that the head learned at, or as they
    come where the weights do not have it."""
    horizon: int | None = None
    """Steps ahead of the forecast; None = as far as the world model looks, which is what the head learned with."""
    seed: int = 0
    """Seed of the first plan after `reset`; later plans count up from it."""


@dataclass(frozen=True)
class FilledAgentConfig(AgentConfig):
    """An `AgentConfig` that leaves nothing open but the size, where the weights do not have it (`agent_config`)."""

    input_cameras: tuple[str, ...] = ()
    seconds_per_frame: float = 0.0
    horizon: int = 0


class SceneAgent:
    """An `Agent`: every frame enters the scene memory; every few steps a chunk of actions is planned from its views.

    `step` answers one action; `step_chunk` a whole chunk, for callers that carry out as much of it as they like. One
    agent is one episode at a time, and not to be shared by threads.

    Every frame is a moment later than the one before. Where nothing was answered to that one, and nobody says what was
    done (a plan failed, or there were two calls of `observe`), the robot rested for a step: so an episode goes on after
    a failure.
    """

    def __init__(
        self,
        head: ActionHead,
        make_stream: Callable[[], Stream],
        *,
        config: FilledAgentConfig,
        robot: RobotSpec,
        world_model: HeadWorldModel | None = None,
    ) -> None:
        """
        Args:
            head: trained action head.
            make_stream: makes an empty scene memory.
            config: how it runs (`agent_config`).
            robot: that head and world model learned from.
            world_model: forecasts for the head; None = it looks at now only.
        """
        self.head, self.config, self.robot = head, config, robot
        self.observation_builder = observation_builder_for(
            head.config, make_stream, robot=robot, world_model=world_model, horizon=config.horizon
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.observation_builder.reset()
        self.num_steps, self.num_plans = 0, 0
        self.chunk: list[Tensor] = []
        self._state: Tensor | None = None
        self._answered: Tensor | None = None

    def step(self, frames: Pictures, *, proprio: Tensor, task: str, goal: Tensor | None = None) -> Tensor:
        """The next action [a] from the newest frames {camera name: Frames []}.

        Args:
            proprio: [p] in the units of the proprio spec; the first three are the hand's place in m.
            task: its name.
            goal: [3] m in the world, where what the task is about should come to be, for tasks that the scene does not
                show it of; only a head that learned with goals heeds it.
        Raises:
            DataFormatError: a camera that the memory needs is not there, pictures or proprio are not as they should be.
            DepthError: a camera gives no depth. CalibrationError: one is not where a camera can be.
            NumericsError: the head's action is not finite. The frames are in the memory all the same; call again, with
                newer ones, the robot having rested.
        """
        goal = self._checked_goal(goal)
        self.observe(frames, proprio=proprio)
        return self.next_action(task, goal=goal)

    def step_chunk(
        self, frames: Pictures, *, proprio: Tensor, task: str, done: Tensor | None = None, goal: Tensor | None = None
    ) -> Tensor:
        """A fresh chunk of actions [h a] from the newest frames, for callers that carry out as many as they like.

        Args:
            goal: as `step`.
            done: actions [n a] that were carried out since the last call; None = the first one of its answer. Call
                after every action for the sharpest memory: what is not seen cannot be followed.
        Raises:
            as `step`.
        """
        goal = self._checked_goal(goal)
        self.observe(frames, proprio=proprio, done=done)
        return self.next_chunk(task, goal=goal)

    def observe(self, frames: Pictures, *, proprio: Tensor, done: Tensor | None = None) -> None:
        """Take the newest frames {camera name: Frames []} and the robot's state [p] into the memory.

        Args:
            done: actions [n a] carried out since the last frames; None = what was answered then, or, where nothing
                was, one step of rest.
        Raises:
            as `step`; what is wrong is refused before the memory changes, so that the next frames find it whole.
        """
        pictures, proprio, done = self.checked(frames, proprio=proprio, done=done)
        if done is not None or self._answered is None:
            self.chunk = []  # it was planned for another moment
        if self._state is not None:
            if done is None:
                done = resting_action(self._state, self.robot)[None] if self._answered is None else self._answered
            self.observation_builder.acted(done)
            self.num_steps += len(done)
        self._answered = None
        self.observation_builder.observe(pictures, proprio=proprio, time=self.num_steps * self.config.seconds_per_frame)
        self._state = proprio

    def next_action(self, task: str, *, goal: Tensor | None = None) -> Tensor:
        """The next action [a] for what was observed last, of the chunk at hand or of a fresh one: `step` behind its
        `observe`."""
        if not self.chunk:
            self.chunk = list(self.plan(task, goal=goal)[: self.config.replan_every])
        action = self.chunk.pop(0)
        self._answered = action[None]
        return action

    def next_chunk(self, task: str, *, goal: Tensor | None = None) -> Tensor:
        """A fresh chunk of actions [h a] for what was observed last: `step_chunk` behind its `observe`."""
        self.chunk = []
        actions = self.plan(task, goal=goal)
        self._answered = actions[:1]
        return actions

    def withdraw(self) -> None:
        """Take the last answer back: it never reached the robot, which rests until the next frames."""
        self.chunk, self._answered = [], None

    def checked(
        self, frames: Pictures, *, proprio: Tensor, done: Tensor | None = None
    ) -> tuple[Frames, Tensor, Tensor | None]:
        """What `observe` puts into the memory: pictures [v], proprio [p], done [n a]; here they are only checked.

        Raises:
            as `step`, but for NumericsError.
        """
        head, config = self.head.config, self.config
        if done is not None:
            done = checked_vector(done, name="actions", shape=(max([1, *done.shape[:1]]), head.action_dim))
            check_seen(done, name="actions", head=self.head)
        proprio = checked_vector(proprio, name="proprio", shape=(head.proprio_dim,))
        check_seen(proprio, name="proprio", head=self.head)
        pictures = stacked_frames(frames, names=config.input_cameras, size=config.size)
        places = camera_places(pictures.cameras)
        for name, place in zip(config.input_cameras, places, strict=True):
            check_place(place, field=f"{name}.viewmats", head=self.head, kind=CalibrationError)
        return pictures, proprio, done

    def _checked_goal(self, goal: Tensor | None) -> Tensor | None:
        goal = checked_goal(goal)
        if goal is not None:
            check_place(goal, field="goal", head=self.head)
        return goal

    def plan(self, task: str, *, goal: Tensor | None = None) -> Tensor:
        """A chunk of actions [h a], in bounds, from the memory as it stands; goal [3] m as `step`.

        Raises:
            NumericsError: it is not finite.
        """
        self.observation_builder.task = task
        views, features = self.observation_builder.views()
        seed = self.config.seed + self.num_plans
        self.num_plans += 1
        state = self.observation_builder.proprio[-1]
        actions = self.head.act(views, features=features, proprio=state, task=task, seed=seed, goal=goal)
        if not bool(actions.isfinite().all()):
            raise NumericsError("are not finite", field="actions", fix="check the weights and the observation")
        return within_bounds(actions, self.robot)


def agent_config(models: Models, config: AgentConfig | None = None) -> FilledAgentConfig:
    """The configuration with what it leaves open taken from the weights, so that an agent runs as its head learned.

    What the configuration gives stands. Where weights do not have the size that the head learned at, it stays open.
    """
    config = config if config is not None else AgentConfig()
    # Measured as a difference of times: beyond nanoseconds it is their rounding.
    seconds = round(models.world.spec.step_seconds, 9)
    size = (models.policy_size, models.policy_size) if models.info.get("policy_size") else None
    return FilledAgentConfig(
        input_cameras=models.policy_cameras if config.input_cameras is None else config.input_cameras,
        replan_every=config.replan_every,
        seconds_per_frame=seconds if config.seconds_per_frame is None else config.seconds_per_frame,
        size=size if config.size is None else config.size,
        horizon=models.world.spec.horizon if config.horizon is None else config.horizon,
        seed=config.seed,
    )


def agent_maker(
    models: Models, *, forecast: bool = True, config: AgentConfig | None = None
) -> Callable[[str], SceneAgent]:
    """Task name -> agent, from trained weights.

    Args:
        models: with an action head. forecast: whether the head also looks at the predicted future.
        config: what it leaves open is taken from the weights (`agent_config`).
    Raises:
        CheckpointError: the weights hold no action head, or its statistics cannot be divided by.
        ConfigError: the head speaks of other numbers than the action and proprio specs, or the world model does not
            look as far ahead as is asked.
    """
    head = head_of(models)
    world_model = require(models.world, HeadWorldModel, what="an action head's forecast") if forecast else None
    filled, furthest, robot = agent_config(models, config), models.world.spec.horizon, robot_of_head(models)
    if forecast and not 1 <= filled.horizon <= furthest:
        problem, fix = "is not what the world model forecasts", "leave it out: then it is what the head learned with"
        raise ConfigError(problem, field="horizon", found=filled.horizon, expected=f"1..{furthest}", fix=fix)

    def make(task: str) -> SceneAgent:
        agent = SceneAgent(head, new_memory, world_model=world_model, robot=robot, config=filled)
        agent.observation_builder.task = task
        return agent

    return make
