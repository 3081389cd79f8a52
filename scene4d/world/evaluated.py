"""What evaluation asks: forecasters, policies and agents, whatever they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from scene4d.scene import Scene4D
from scene4d.types import Cameras, Episode, Frames


@dataclass(frozen=True)
class ForecastQuestion:
    """What a forecaster is asked: what `cameras` will record after a past, under given actions."""

    past: Episode
    """All that may be looked at, up to and including now."""
    actions: Tensor
    """Actions [h a] from now on."""
    cameras: Mapping[str, Cameras]
    """Cameras [k] to forecast for, one a step that is asked for."""
    seed: int = 0
    """Of what a forecaster draws."""
    steps: Sequence[int] | None = None
    """Steps ahead [k] that are asked for; None = 1, 2, ..., as many as there are cameras."""

    @property
    def ahead(self) -> Sequence[int]:
        """Steps ahead [k] that are asked for."""
        if self.steps is not None:
            return self.steps
        return range(1, 1 + max((track.viewmats.shape[0] for track in self.cameras.values()), default=0))


class Forecaster(Protocol):
    """What a forecast table compares: world models and baselines."""

    @property
    def name(self) -> str:
        """Its row in the table."""
        ...

    def forecast(self, question: ForecastQuestion) -> tuple[Mapping[str, Frames], Scene4D | None]:
        """Future frames [k] of each camera that it can answer for, and the scene if there is one."""
        ...


class Policy(Protocol):
    """Turns views into a chunk of actions."""

    def act(
        self,
        views: Frames,
        *,
        features: Tensor | None,
        proprio: Tensor,
        task: str,
        seed: int,
        goal: Tensor | None = None,
    ) -> Tensor:
        """Actions [*b h a] in the units of the action spec, from views [*b v] and goals [*b 3] m, where there are."""
        ...


class Agent(Protocol):
    """A policy in closed loop; owns the scene memory."""

    def reset(self) -> None:
        """Forget everything."""
        ...

    def step(self, frames: Mapping[str, Frames], *, proprio: Tensor, task: str, goal: Tensor | None = None) -> Tensor:
        """The next action [a] from the newest frames; goal [3] m: where the object of the task should come to."""
        ...
