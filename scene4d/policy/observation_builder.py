"""What the action head observes: the same code while demonstrations are prepared and while a robot runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from scene4d.errors import ConfigError, ShapeError
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.virtual_cameras import NO_OFFSET, CameraOffset, render_views
from scene4d.robot.actions import resting_action
from scene4d.robot.slots import hand_position
from scene4d.robot.spec import RobotSpec
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Frames, Gaussians, Task
from scene4d.world.capabilities import Decodes, Embeds, sampled
from scene4d.world.observation import Observation


class Stream(Protocol):
    """A scene memory that grows frame by frame (what `lift` offers)."""

    def update(self, frames: Frames, *, time: float) -> None:
        """Add the newest frames [v]."""
        ...

    def gaussians(self) -> Gaussians:
        """The memory as it stands now."""
        ...

    def scene(self) -> Scene4D:
        """The memory with its motion so far."""
        ...


@runtime_checkable
class HeadWorldModel(Decodes, Embeds, Protocol):
    """What a head asks of a world model: a predicted scene, and latent features of now."""


class ObservationBuilder:
    """The scene memory of one episode, and the views and features an action head gets from it.

    The forecast assumes that the last action is repeated: that needs no plan, so it is the same in training and at run
    time.

    Args:
        make_stream: makes an empty scene memory.
        robot, task: for the world model; the task may be changed between views.
        world_model: forecasts; None = views of now only. horizon: steps ahead of the forecast.
        view_size: pixels a side. num_past: past actions that the world model gets.
    """

    def __init__(
        self,
        make_stream: Callable[[], Stream],
        *,
        robot: RobotSpec,
        task: str = "",
        world_model: HeadWorldModel | None = None,
        view_size: int = 64,
        horizon: int = 8,
        num_past: int = 8,
    ) -> None:
        self.robot, self.task, self.world_model = robot, task, world_model
        self.view_size, self.horizon, self.num_past = view_size, horizon, num_past
        self._make_stream = make_stream
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.stream = self._make_stream()
        self.actions: list[Tensor] = []
        self.proprio: list[Tensor] = []
        self.cameras: dict[str, Cameras] = {}
        self._seen: tuple[list[Gaussians], Tensor | None] | None = None

    def observe(self, frames: Frames, *, proprio: Tensor, time: float) -> None:
        """Take the newest frames [v], and the robot's state [p]."""
        self.stream.update(frames, time=time)
        self._seen = None
        self.cameras = {str(i): frames.cameras[i] for i in range(len(frames.rgb))}
        self.proprio = [*self.proprio, proprio.detach().float()][-self.num_past - 1 :]

    def acted(self, actions: Tensor) -> None:
        """Note what was carried out since the newest frames: actions [n a], or one [a].

        Of several, the last one alone did not cause what was seen since: the world model gets none of them as a past
        step, nor any step before them; it only assumes that the last is repeated.
        """
        done, self._seen = actions.detach().float().reshape(-1, actions.shape[-1]), None
        if len(done) > 1:
            self.proprio.clear()
        self.actions = [*self.actions, done[-1]][-self.num_past :]

    @torch.no_grad()
    def views(self, *, camera_offset: CameraOffset = NO_OFFSET) -> tuple[Frames, Tensor | None]:
        """The head's input.

        Args:
            camera_offset: how the scene is turned and seen in training.
        Returns:
            Views [v], or [2v] with those of the forecast's last step behind; latent features [l f], or None.
        """
        if self._seen is None:
            self._seen = self._observe_instants()
        instants, features = self._seen
        hand = hand_position(self.proprio[-1], self.robot)
        seen = lambda instant: render_views(instant, hand=hand, size=self.view_size, camera_offset=camera_offset)
        return Frames.cat([seen(instant) for instant in instants]), features

    def _observe_instants(self) -> tuple[list[Gaussians], Tensor | None]:
        """The instants whose views the head gets, and latent features of now."""
        memory = self.stream.gaussians()
        if self.world_model is None:
            return [memory], None
        # Before the first action the robot rests, which is an action too.
        known = Observation(
            actions=torch.stack(self.actions or [resting_action(self.proprio[-1], self.robot)]),
            proprio=torch.stack(self.proprio),
            robot=self.robot,
            scene=self.stream.scene(),
            memory=memory,
            cameras=self.cameras,
            task=Task(self.task),
        )
        future, features = predicted_instant(known, world_model=self.world_model, horizon=self.horizon)
        return [memory, future], features


class CameraObservationBuilder:
    """What a head without a scene observes: the newest images of the real cameras, `view_size` pixels a side."""

    def __init__(self, *, task: str = "", view_size: int = 64) -> None:
        self.task, self.view_size = task, view_size
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._frames: Frames | None = None
        self.proprio: list[Tensor] = []

    def observe(self, frames: Frames, *, proprio: Tensor, time: float) -> None:
        """Take the newest frames [v] and the robot's state [p].

        Raises:
            ShapeError: images of another size.
        """
        size, found = (self.view_size, self.view_size), (frames.cameras.width, frames.cameras.height)
        if found != size:
            problem = "images have another size than the head learned at"
            raise ShapeError(problem, field="frames", found=found, expected=size)
        self._frames, self.proprio = frames, [proprio.detach().float()]

    def acted(self, actions: Tensor) -> None:
        """Nothing: such a head keeps no past actions."""

    def views(self) -> tuple[Frames, None]:
        """The newest frames [v], fully covered.

        Raises:
            ConfigError: nothing was observed yet.
        """
        frames = self._frames
        if frames is None:
            raise ConfigError("nothing was observed yet", field="frames", fix="call observe first")
        depth = torch.zeros_like(frames.rgb[..., 0]) if frames.depth is None else frames.depth
        return frames.replace(depth=depth, alpha=torch.ones_like(depth), extras={}), None


def observation_builder_for(
    head: ActionHeadConfig,
    make_stream: Callable[[], Stream],
    *,
    robot: RobotSpec,
    task: str = "",
    world_model: HeadWorldModel | None = None,
    horizon: int = 8,
) -> ObservationBuilder | CameraObservationBuilder:
    """What a head of this modality observes, while demonstrations are prepared and while a robot runs."""
    if not head.sees_scene:
        return CameraObservationBuilder(task=task, view_size=head.view_size)
    return ObservationBuilder(
        make_stream, robot=robot, task=task, world_model=world_model, view_size=head.view_size, horizon=horizon
    )


@torch.no_grad()
def predicted_instant(known: Observation, *, world_model: HeadWorldModel, horizon: int = 8) -> tuple[Gaussians, Tensor]:
    """The last instant of a forecast [n] that repeats the last known action, and latent features of now [l c+3].

    The last three channels of a feature are its place relative to the hand, m.

    Args:
        known: with at least one action, the newest last.
    """
    state = world_model.observe(known)
    prediction = sampled(world_model, 1).predict(state, actions=known.actions[-1].expand(horizon, -1))
    future = world_model.scene(state, prediction)
    tokens, places = world_model.embed(state)
    features = torch.cat([tokens, places - hand_position(known.proprio[-1], state.robot)], -1)
    return future.at(float(future.times[-1])), features
