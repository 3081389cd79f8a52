"""Family: one kind of world model, as one row of `models/families.py`: how it is built, stored and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from scene4d.data.load.scene_window import Window
from scene4d.robot.spec import RobotSpec
from scene4d.tensor_struct import TensorStruct
from scene4d.train.device import Device
from scene4d.train.stage import Stage
from scene4d.types import Frames

S = TypeVar("S", bound=TensorStruct)


class Windows(Protocol):
    """The windows of a run's episodes, with the scene memory at each: what a family trains on."""

    @property
    def tasks(self) -> Sequence[str]:
        """The texts that `Window.task` counts in."""
        ...

    @property
    def cameras(self) -> Sequence[str]:
        """Names, inputs first."""
        ...

    @property
    def num_inputs(self) -> int:
        """How many of the cameras are inputs."""
        ...

    @property
    def num_past_actions(self) -> int:
        """Actions before now."""
        ...

    @property
    def horizon(self) -> int:
        """Steps after now."""
        ...

    @property
    def robots(self) -> tuple[RobotSpec, ...]:
        """The robots of the episodes."""
        ...

    def robot_of(self, number: int) -> RobotSpec:
        """The robot of a window."""
        ...

    def __len__(self) -> int: ...

    def window(self, number: int, *, futures: bool = True) -> Window:
        """One window without batch axes; without `futures` the target pictures are left out."""
        ...

    def moment(self, number: int) -> tuple[Any, int]:
        """The recorded episode of a window, and the frame of it that is now."""
        ...

    def frames(self, number: int, *, horizon: int = 0) -> Frames:
        """The pictures [1 + h v] of all cameras at a window's moment and after it."""
        ...

    def split(self, *, every: int) -> tuple[list[int], list[int]]:
        """Window numbers to train on, and to judge by: those of every `every`-th episode of each task."""
        ...


class Make(Protocol[S]):
    """Makes of the windows of one episode what a family trains on; `first` is the number of the first of them."""

    def __call__(self, run: TrainingRun, windows: Windows, *, first: int) -> list[S]: ...


class Build(Protocol):
    """Makes a fresh model of the configurations of its parts, the robots, and the info of the weights."""

    def __call__(
        self, configs: Mapping[str, Any], *, robots: tuple[RobotSpec, ...], info: Mapping[str, Any]
    ) -> Any: ...


class TrainingRun(Protocol):
    """What the trainer gives a family: where the run lies, its windows and its settings."""

    @property
    def settings(self) -> Any:
        """The family's settings, as its `Family.settings` class."""
        ...

    @property
    def start(self) -> str:
        """Weights to go on from, or nothing: an empty text."""
        ...

    @property
    def start_digest(self) -> str:
        """A hash of these weights."""
        ...

    @property
    def device(self) -> Device:
        """Where it trains."""
        ...

    @property
    def threads(self) -> int:
        """Threads of torch."""
        ...

    def folder(self, stage: str) -> Path:
        """The folder of a stage."""
        ...

    def windows(self) -> Windows:
        """The windows of all episodes."""
        ...

    def prepared(self, kind: type[S], make: Make[S], *, folder: Path) -> S:
        """What `make` gives for every episode, as one [w].

        Done once, in several processes, and kept in `folder`; `make` is a function of a module.
        """
        ...

    def fresh(self, *, seed: int) -> Any:
        """A new model of the family for the run's robots; its first weights depend on `seed` alone."""
        ...

    def start_from(self, model: Any, *parts: str) -> None:
        """Give parts of a model the weights that the run goes on from; nothing where it starts from nothing."""
        ...


@dataclass(frozen=True)
class Family:
    """How world models of one family are built, stored and trained.

    configs: {part: its configuration class}; the parts of a weights file, in order of their making.
    build: ({part: configuration}, robots, info of the weights) -> a fresh model, an nn.Module and a `WorldModel`.
    parts: model -> {part: the module whose tensors are stored under that name}, each with a `config`.
    settings: configuration class of its training. part_configs: (settings, the windows of a
    run, which some sizes follow) -> {part: configuration}.
    stages: run -> the stages to train, each named after the part whose weights it leaves as NAME.safetensors.
    """

    name: str
    configs: Mapping[str, type]
    build: Build
    parts: Callable[[Any], Mapping[str, nn.Module]]
    settings: type
    part_configs: Callable[[Any, Windows], Mapping[str, Any]]
    stages: Callable[[TrainingRun], list[Stage]]

    def fresh(
        self, configs: Mapping[str, Any], *, robots: tuple[RobotSpec, ...], info: Mapping[str, Any], seed: int = 0
    ) -> Any:
        """A new model whose first weights depend on `seed` alone; torch's generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(configs, robots=robots, info=info)
