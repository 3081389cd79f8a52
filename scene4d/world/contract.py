"""The verbs: what a world model can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from scene4d.check import check
from scene4d.scene import Motion, Scene4D
from scene4d.tensor_struct import TensorStruct
from scene4d.types import Gaussians
from scene4d.world.latent import Latent


@dataclass(frozen=True)
class State(TensorStruct):
    """What a world model knows at one moment.

    memory: Gaussians [*b n] in the world now; skin: Motion that hangs them on the anchors (t = past steps, last = now);
    past: Latent [*b p l], oldest first; past_actions [*b p a]; proprio [*b q]; time [*b] s;
    context: task, action_spec, proprio_spec, cameras, robot, step_seconds; past_proprio [*b p q], before proprio, and
    past_valid [*b p] bool, False before anything is known.
    """

    memory: Gaussians
    skin: Motion
    past: Latent
    past_actions: Tensor
    proprio: Tensor
    time: Tensor
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.time.shape)

    def expand(self, num_copies: int) -> State:
        """The same state `num_copies` times along a new leading axis (views, no copy)."""
        return self.map(lambda x: x.expand(num_copies, *x.shape))


@dataclass(frozen=True)
class Forecast(TensorStruct):
    """What a world model predicts for the next h steps.

    latent: Latent [*b h l c]; world_from_now [*b h l 7] rigid motion of each anchor's matter since now;
    log_var [*b h l 6]; actions [*b h a];
    heads {reward, success, done: [*b h], proprio [*b h q]}: success at the step and success by the step (done) as
    probabilities; a model may lack any.
    """

    latent: Latent
    world_from_now: Tensor
    log_var: Tensor | None
    actions: Tensor
    heads: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(
            tokens=(self.latent.tokens, "*b h l c"),
            world_from_now=(self.world_from_now, "*b h l 7"),
            log_var=(self.log_var, "*b h l 6"),
            actions=(self.actions, "*b h a"),
        )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.actions.shape[:-2])


class WorldModel(Protocol):
    """Forecasts how a scene evolves under actions."""

    @property
    def horizon(self) -> int:
        """Most steps of one forecast."""
        ...

    def observe(
        self,
        scene: Scene4D,
        *,
        actions: Tensor,
        proprio: Tensor,
        context: Mapping[str, Any],
        state: State | None = None,
        memory: Gaussians | None = None,
    ) -> State:
        """Start from, or correct with, what has been seen up to now; `memory`: its Gaussians, if they are at hand."""
        ...

    def predict(
        self,
        state: State,
        *,
        actions: Tensor | None = None,
        future: Tensor | None = None,
        steps: int = 4,
        seeds: Sequence[int] = (0,),
    ) -> Forecast:
        """The next h steps; one sample a seed; `steps` of the sampler.

        Given `actions` [*b h a]: what they do. Given `future` [*b h l 7], the motion of the anchors since now: the
        actions that bring it about. Given neither: actions of the model's own choice, and what they do.
        """
        ...

    def advance(self, state: State, forecast: Forecast, *, num_steps: int) -> State:
        """The state after `num_steps` of the forecast came true."""
        ...

    def scene(self, state: State, forecast: Forecast) -> Scene4D:
        """Decode to Gaussians over time: now and the h predicted steps."""
        ...
