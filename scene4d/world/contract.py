"""What a world model is: observe a past, predict the next steps under actions, advance to where a prediction ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.robot.several_robots import fitting_robot, only_robot
from scene4d.robot.spec import RobotSpec
from scene4d.tensor_struct import TensorStruct, shapes
from scene4d.world.observation import Observation


@dataclass(frozen=True)
class WorldModelSpec:
    """What a caller has to know of any world model.

    horizon: most steps of one prediction. step_seconds: length of a step where an observation does not say.
    robots: whose actions it learned from, one or several; nothing is compared where their specs are open.
    """

    horizon: int
    step_seconds: float
    robots: tuple[RobotSpec, ...]

    @property
    def robot(self) -> RobotSpec:
        """The one robot that it learned from.

        Raises:
            ConfigError: there are several: ask `robot_of` or `robot_like`.
        """
        return only_robot(self.robots)

    def robot_of(self, observation: Observation) -> RobotSpec:
        """The robot of an observation: what it leaves open is taken from this spec, and its step is the observation's.

        Raises:
            ConfigError: it is another robot, or may be several.
        """
        own = fitting_robot(self.robots, observation.check_robot)
        seconds = observation.step_seconds or self.step_seconds
        return replace(observation.robot.filled_from(own), step_seconds=seconds)

    def robot_like(self, found: RobotSpec, *, file: str | Path | None = None) -> RobotSpec:
        """Which of its robots a recording, scene or start is of, that `file` holds.

        Raises:
            ConfigError: of none, or it may be several.
        """
        return fitting_robot(self.robots, lambda robot: robot.check_same(found, file=file))


@dataclass(frozen=True)
class State(TensorStruct):
    """What a world model knows at one moment; all beside these belongs to the family that made it.

    time [*b] s; proprio [*b q]; robot.
    """

    time: Tensor
    proprio: Tensor
    robot: RobotSpec

    SHAPES = shapes(time="*b")

    def expand(self, num_copies: int) -> Self:
        """The same state `num_copies` times along a new leading axis (views, no copy)."""
        return self.map(lambda x: x.expand(num_copies, *x.shape))

    def put(self, rows: Tensor, new: Any) -> Self:
        """A state [b] with the elements that `rows` [r] names replaced by `new` [r]."""
        return put(self, rows, new=new)

    def pick(self, rows: Tensor) -> Self:
        """The elements [r] that `rows` names of a state [b]."""
        return self.map(lambda x: x[rows])


@dataclass(frozen=True, kw_only=True)
class Prediction(TensorStruct):
    """What a world model predicts for the next h steps.

    actions [*b h a], those given or of its own choice; proprio [*b h q]; reward [*b h]; success [*b h] and done [*b h]:
    probability of success at the step and by the step; value [*b h]. None where a model does not predict it.
    """

    actions: Tensor
    proprio: Tensor | None = None
    reward: Tensor | None = None
    success: Tensor | None = None
    done: Tensor | None = None
    value: Tensor | None = None

    SHAPES = shapes(actions="*b h a", proprio="*b h q", reward="*b h", success="*b h", done="*b h", value="*b h")

    @property
    def robot_states(self) -> Tensor:
        """The predicted states [*b h q] of the robot.

        Raises:
            ConfigError: the model predicts none.
        """
        if self.proprio is None:
            raise ConfigError(
                "predicts no states of the robot",
                field=type(self).__name__,
                fix="take a world model that predicts them",
            )
        return self.proprio

    @property
    def num_steps(self) -> int:
        """h."""
        return self.actions.shape[-2]

    def followed_by(self, later: Self) -> Self:
        """One prediction of h + h' steps: `later` begins in the state where this one ends."""
        axis = len(self.batch_shape)
        join = lambda name: _joined(getattr(self, name), getattr(later, name), axis=axis)
        return type(self)(**{f.name: join(f.name) for f in fields(self)})

    def up_to(self, num_steps: int) -> Self:
        """Its first `num_steps` steps."""
        axis = len(self.batch_shape)
        return self.map(lambda x: x.narrow(axis, 0, num_steps))


class WorldModel(Protocol):
    """Predicts how a scene evolves under actions."""

    @property
    def spec(self) -> WorldModelSpec:
        """Horizon, step and robots."""
        ...

    def observe(self, observation: Observation, *, state: Any = None) -> Any:
        """Start from what is known now; `state`: correct it instead, where the family can.

        Returns:
            A State [] of the family.
        Raises:
            ConfigError: the observation is of another robot than the model learned from.
        """
        ...

    def predict(self, state: Any, *, actions: Tensor, seeds: Sequence[int] = (0,)) -> Any:
        """The next h <= horizon steps of states [*b] under actions [*b h a].

        Causal: no prediction up to and including step s depends on actions after s. One sample a seed: a seed for each
        batch element, or one for all; a sample depends on its own seed alone.

        Returns:
            A Prediction [*b h] of the family.
        """
        ...

    def advance(self, state: Any, prediction: Any, *, num_steps: int) -> Any:
        """The state after `num_steps` of the prediction came true."""
        ...


def put(old: Any, rows: Tensor, *, new: Any) -> Any:
    """`old` [b], a tensor, noun or mapping of them, with the elements that `rows` [r] names replaced by `new` [r]."""
    if isinstance(old, Tensor):
        return old.index_copy(0, rows, new.to(old.dtype))
    if isinstance(old, TensorStruct):
        return old.replace(**{f.name: put(getattr(old, f.name), rows, new=getattr(new, f.name)) for f in fields(old)})
    if isinstance(old, Mapping) and any(isinstance(v, Tensor | TensorStruct) for v in old.values()):
        return {key: put(value, rows, new=new[key]) for key, value in old.items()}
    return old


def _joined(first: Any, later: Any, *, axis: int) -> Any:
    if first is None or later is None:
        return None
    return torch.cat([first, later], axis) if isinstance(first, Tensor) else first.followed_by(later)
