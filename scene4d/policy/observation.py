"""What the action head observes: the same code while demonstrations are prepared and while a robot runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from scene4d.errors import ConfigError, ShapeError
from scene4d.policy.encoders import ActionHeadConfig
from scene4d.policy.virtual_cameras import NO_OFFSET, CameraOffset, concat_views, render_views
from scene4d.scene import Scene4D
from scene4d.types import Cameras, Frames, Gaussians
from scene4d.world.contract import WorldModel


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


class ObservationBuilder:
    """The scene memory of one episode, and the views and features an action head gets from it.

    The forecast assumes that the last action is repeated: that needs no plan, so it is the same in training and at run
    time.
    """

    def __init__(
        self,
        make_stream: Callable[[], Stream],
        *,
        world_model: WorldModel | None = None,
        context: Mapping[str, Any] | None = None,
        view_size: int = 64,
        resting: Callable[[Tensor], Tensor] | None = None,
        horizon: int = 8,
        num_past: int = 8,
    ) -> None:
        """
        Args:
            make_stream: makes an empty scene memory.
            world_model: forecasts; None = views of now only.
            context: of the task and the robot, for the world model.
            resting: the robot's state [p] -> the action [a] that keeps it there; a world model needs it.
            view_size: pixels a side.
            horizon: steps ahead of the forecast.
            num_past: past actions that the world model gets.
        """
        self.world_model, self.context = world_model, dict(context or {})
        self.view_size, self.horizon, self.num_past = view_size, horizon, num_past
        self._make_stream, self._resting = make_stream, resting
        if world_model is not None and resting is None:
            raise ConfigError("is needed for the past that a world model gets", field="resting")
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.stream = self._make_stream()
        self.actions: list[Tensor] = []
        self.proprio: list[Tensor] = []
        self.cameras: dict[str, Cameras] = {}
        self._seen: tuple[list[Gaussians], Tensor | None] | None = None

    def observe(self, frames: Frames, *, proprio: Tensor, time: float) -> None:
        """Take the newest frames [v], and the robot's state [p] (the first three: the hand's position in m)."""
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
        hand = self.proprio[-1][:3]
        rendered = [
            render_views(instant, hand=hand, size=self.view_size, camera_offset=camera_offset) for instant in instants
        ]
        return concat_views(rendered), features

    def _observe_instants(self) -> tuple[list[Gaussians], Tensor | None]:
        """The instants whose views the head gets, and latent features of now."""
        memory = self.stream.gaussians()
        if self.world_model is None or self._resting is None:
            return [memory], None
        # Before the first action the robot rests, which is an action too.
        past = torch.stack(self.actions or [self._resting(self.proprio[-1])])
        future, features = predicted_instant(
            self.stream.scene(),
            memory=memory,
            world_model=self.world_model,
            past_actions=past,
            proprio=torch.stack(self.proprio),
            horizon=self.horizon,
            context={**self.context, "cameras": self.cameras},
        )
        return [memory, future], features


class CameraObservationBuilder:
    """What a head without a scene observes: the newest images of the real cameras, as they are."""

    def __init__(self, *, view_size: int = 64, context: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            view_size: pixels a side that images must have.
        """
        self.view_size, self.context = view_size, dict(context or {})
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
        size = (self.view_size, self.view_size)
        if (frames.cameras.width, frames.cameras.height) != size:
            found = (frames.cameras.width, frames.cameras.height)
            raise ShapeError(
                "images have another size than the head learned at", field="frames", found=found, expected=size
            )
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
    world_model: WorldModel | None = None,
    context: Mapping[str, Any] | None = None,
    resting: Callable[[Tensor], Tensor] | None = None,
    horizon: int = 8,
) -> ObservationBuilder | CameraObservationBuilder:
    """What a head of this modality observes, while demonstrations are prepared and while a robot runs."""
    if not head.sees_scene:
        return CameraObservationBuilder(view_size=head.view_size, context=context)
    return ObservationBuilder(
        make_stream,
        world_model=world_model,
        context=context,
        resting=resting,
        view_size=head.view_size,
        horizon=horizon,
    )


@torch.no_grad()
def predicted_instant(
    scene: Scene4D,
    *,
    world_model: WorldModel,
    past_actions: Tensor,
    proprio: Tensor,
    context: Mapping[str, Any],
    memory: Gaussians | None = None,
    horizon: int = 8,
) -> tuple[Gaussians, Tensor]:
    """The last instant of a forecast [n], and latent tokens of now [l c+3].

    The last three channels of a token are the position of its anchor relative to the hand, m.

    Args:
        scene: what is known of the past. memory: its Gaussians now as measured last, if a stream holds them.
        past_actions: [p >= 1, a], newest last; the forecast repeats the last. proprio: [p+1 q], now last.
        context: of the task and the robot, for the world model.
    """
    state = world_model.observe(scene, actions=past_actions, proprio=proprio, context=context, memory=memory)
    forecast = world_model.predict(state, actions=past_actions[-1].expand(horizon, -1), steps=1)
    future = world_model.scene(state, forecast)
    features = torch.cat([state.past.tokens[-1], state.past.anchors[-1] - proprio[-1, :3]], -1)
    return future.at(float(future.times[-1])), features
