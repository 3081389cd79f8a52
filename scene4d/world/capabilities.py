"""Powers that a world model may have beside its contract: a caller names in its signature the one that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.scene import Scene4D
from scene4d.world.carry import AnchoredGaussians, AnchorMotion
from scene4d.world.contract import WorldModel


@runtime_checkable
class Decodes(WorldModel, Protocol):
    """Turns predictions into Gaussians over time."""

    def scene(self, state: Any, prediction: Any) -> Scene4D:
        """The scene [*b] at now (observed) and the h predicted steps."""
        ...


@runtime_checkable
class MovesAnchors(WorldModel, Protocol):
    """Predicts by carrying known Gaussians on anchors; with it come points, spread and pictures (`world/carry.py`)."""

    def anchored(self, state: Any) -> AnchoredGaussians:
        """The Gaussians [*b n] of a state and the anchors that they follow."""
        ...

    def anchor_motion(self, prediction: Any) -> AnchorMotion:
        """The predicted motion [*b h m 7] of these anchors since now."""
        ...


@runtime_checkable
class ImaginesUnseen(MovesAnchors, Protocol):
    """Adds Gaussians where no camera has looked."""

    def unseen(self, state: Any) -> AnchoredGaussians:
        """These Gaussians [*b r] and the anchors of the state that they follow."""
        ...


@runtime_checkable
class Renders(WorldModel, Protocol):
    """Predicts pictures themselves, of the cameras that it learned with."""

    cameras: tuple[str, ...]

    def images(self, state: Any, prediction: Any) -> Mapping[str, Tensor]:
        """{camera: predicted colours [h y x 3] in [0, 1]} of a state []."""
        ...


@runtime_checkable
class Inverts(WorldModel, Protocol):
    """Finds the actions that bring a future about, of which all or a part is known."""

    def actions_for(
        self,
        state: Any,
        future: Tensor,
        *,
        known: Tensor | None = None,
        ahead: Sequence[int] | None = None,
        seeds: Sequence[int] = (0,),
    ) -> Any:
        """The Prediction [*b n] whose actions bring about `future` [*b h m 7], the motion of the anchors since now.

        Args:
            known: [*b h m] where it is known, by default everywhere. ahead: frames since now of the h steps, by default
                1, 2, ...
        """
        ...


@runtime_checkable
class FillsIn(WorldModel, Protocol):
    """Completes a future of which a part is known, with actions or without."""

    def motion_given(
        self,
        state: Any,
        future: Tensor,
        *,
        known: Tensor,
        ahead: Sequence[int] | None = None,
        actions: Tensor | None = None,
        seeds: Sequence[int] = (0,),
    ) -> AnchorMotion:
        """The motion [*b n m 7] of the anchors, which is that of `future` [*b h m 7] where this is `known` [*b h m].

        Args:
            ahead: frames since now of the h steps, by default 1, 2, ... actions: [*b n a], or None: they are not known.
        """
        ...


@runtime_checkable
class Proposes(WorldModel, Protocol):
    """Has actions of its own: what the robot of the demonstrations would do."""

    def propose(self, state: Any, *, seeds: Sequence[int] = (0,)) -> Any:
        """The Prediction [*b h] under actions of the model's own choice."""
        ...


@runtime_checkable
class Embeds(WorldModel, Protocol):
    """Has latent features of a state with places, for heads that look at them."""

    def embed(self, state: Any) -> tuple[Tensor, Tensor]:
        """Features [*b l c] and the places [*b l 3] in m that they speak of."""
        ...


@runtime_checkable
class Samples(WorldModel, Protocol):
    """Draws predictions by a sampler whose steps can be chosen."""

    def with_sampler(self, num_steps: int) -> Self:
        """The same model, its weights shared, with another number of sampler steps."""
        ...


@runtime_checkable
class TakesLongSteps(WorldModel, Protocol):
    """Can take steps of several frames, so that a chunk reaches farther."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames that a step may be."""
        ...

    def with_stride(self, stride: int) -> Self:
        """The same model, its weights shared, with steps of so many frames."""
        ...


Power = TypeVar("Power")


def require(model: Any, power: type[Power], *, what: str) -> Power:
    """The model, if it has a power.

    Args:
        what: what is asked for, in words.
    Raises:
        ConfigError: one line that names the family, the power and the caller.
    """
    if isinstance(model, power):
        return model
    raise ConfigError(
        f"cannot be used for {what}", field="world model", found=type(model).__name__,
        expected=f"a family that has the power {power.__name__}",
    )  # fmt: skip


def reaching(model: Any, num_frames: int) -> Any:
    """The model with the shortest steps of which one chunk reaches so many frames ahead, or with its longest."""
    if not isinstance(model, TakesLongSteps):
        return model
    made = [model.with_stride(stride) for stride in sorted(model.strides)]
    return next((each for each in made if each.spec.horizon >= num_frames), made[-1])


def sampled(model: Any, num_steps: int) -> Any:
    """The model with this many sampler steps where it samples; as it is where it does not."""
    return model.with_sampler(num_steps) if isinstance(model, Samples) else model
