"""Options of the verbs that run the world model and its action head: demo, forecast, act, serve; and of doctor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from scene4d.apps.terminal.arguments import OUTPUT, POSITIONAL
from scene4d.apps.terminal.option_checks import check_at_least, check_positive, check_within
from scene4d.errors import ConfigError


@dataclass(frozen=True)
class DemoOptions:
    """Run the main job on a recorded episode."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d demo",
        "scene4d demo -o out/demo --num-steps 24 --seed 1",
    )

    output: Annotated[Path, OUTPUT] = Path("out/demo")
    """Folder for the results."""
    episode: Path | None = None
    """A recording with cameras left, right and front, as `scene4d record` makes them; by default the built-in one."""
    weights: Path | None = None
    """Weights of world model and action head: a file, or the name of shipped ones (small, tiny); by default small."""
    now: int = 6
    """Frame from which on everything is forecast; the frames before it are the observed past."""
    num_steps: int = 16
    """Steps to forecast under the recorded actions."""
    seed: int = 0
    """Seed of the forecast."""


@dataclass(frozen=True)
class ForecastOptions:
    """Predict how a scene evolves."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d forecast out/demo/scene.s4d",
        "scene4d forecast scene.s4d --seconds 1 -o future.s4d",
        "scene4d forecast out/demo/scene.s4d --actions plan.csv --steps 12 --samples 3 -o future.s4d",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is forecast": (
            "actions",
            "start",
            "steps",
            "seconds",
        ),
        "how": (
            "weights",
            "samples",
            "seed",
            "sampler_steps",
        ),
        "what is written": ("output",),
    }

    scene: Annotated[Path, POSITIONAL]
    """A .s4d file with the past, as `scene4d reconstruct` writes it."""
    actions: str = "recorded"
    """`recorded` (those stored in the scene), or a .json, .npy or .csv file of [h a] numbers."""
    output: Annotated[Path, OUTPUT] = Path("future.s4d")
    """Where the future goes; flow (.npz) and points (folder) go beside it."""
    start: int | None = None
    """Frame that is "now"; by default the last one with enough recorded actions after it."""
    steps: int = 8
    """Frames to predict; fewer if there are fewer actions."""
    seconds: float | None = None
    """How far to predict, instead of --steps."""
    samples: int = 1
    """Futures to draw; sample i goes to NAME.i.s4d beside the first."""
    seed: int = 0
    """Seed of the first sample; later ones count up."""
    sampler_steps: int = 4
    """Steps of the sampler."""
    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default small."""

    def __post_init__(self) -> None:
        check_at_least(1, samples=self.samples, steps=self.steps, sampler_steps=self.sampler_steps)
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ConfigError("is no time ahead", field="seconds", found=self.seconds, expected="> 0")


@dataclass(frozen=True)
class ActOptions:
    """The next actions for a task, from a scene."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'scene4d act out/demo/scene.s4d --task "open the door"',
        'scene4d act scene.s4d --task "open the door" --proprio 0.05 0.6 0.2 1.0 --no-forecast',
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is to be done": (
            "task",
            "proprio",
            "goal",
        ),
        "how": (
            "weights",
            "forecast",
            "seed",
        ),
    }

    scene: Annotated[Path, POSITIONAL]
    """A .s4d file; the actions start at its last observed instant."""
    task: str
    """What is to be done: the name of a task the head was trained on, or its words ("open the door")."""
    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default small."""
    seed: int = 0
    """Seed of the sampled chunk."""
    forecast: bool = True
    """Whether the head also looks at the forecast."""
    proprio: tuple[float, ...] | None = None
    """The robot's state at that instant (hand x y z in m, gripper opening in m), where the scene does not hold it."""
    goal: tuple[float, float, float] | None = None
    """Where what the task is about should come to be (x y z in m, world), where the scene does not show it."""


@dataclass(frozen=True)
class ServeOptions:
    """Answer observations with actions, for robots and simulators in other processes."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d serve",
        "scene4d serve --port 8790 --cameras left right --size 64 64",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "where it listens": (
            "host",
            "port",
            "allow_remote",
        ),
        "what it is shown": (
            "cameras",
            "size",
            "fps",
        ),
        "how it acts": (
            "weights",
            "forecast",
            "replan_every",
        ),
        "what it costs": (
            "threads",
            "episodes",
        ),
    }

    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default small."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8790
    """Port; 0 = any free one."""
    cameras: tuple[str, ...] | None = None
    """Names of the cameras that the memory looks through; every observation must hold them. By default those that the
    weights learned with (left right for shipped ones)."""
    size: tuple[int, int] | None = None
    """Width and height in px that pictures are brought to first; by default what the weights learned at (64 64)."""
    forecast: bool = True
    """Show the head the predicted future too (slower)."""
    replan_every: int = 2
    """Actions carried out of each chunk before the next is planned."""
    fps: float | None = None
    """Observations a second of robot time; by default as the weights learned (40)."""
    threads: int = 1
    """Threads to compute with; at 64 px there is too little work to share, and one is the fastest."""
    episodes: int = 4
    """Episodes kept at a time; the one not asked for longest is forgotten when another begins."""
    allow_remote: bool = False
    """Let other machines in at a --host that they reach; they need the token that is printed."""

    def __post_init__(self) -> None:
        check_at_least(1, episodes=self.episodes, replan_every=self.replan_every, threads=self.threads)
        check_at_least(8, size=None if self.size is None else min(self.size))
        check_positive(fps=self.fps)
        check_within(0, 65535, port=self.port)
        if self.cameras is not None and not self.cameras:
            fix = "leave it out, or name the cameras of the observations"
            raise ConfigError("names none", field="cameras", fix=fix)


@dataclass(frozen=True)
class DoctorOptions:
    """Without options: look at this machine and this installation."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("scene4d doctor", "scene4d doctor --clean . --dry-run")

    clean: Path | None = None
    """Remove from this folder, and those below it, what killed runs left: half-written files, locks, and what an
    unfinished `convert` would go on from. What a living run holds stays, as does all that scene4d did not make."""
    dry_run: bool = False
    """With --clean: list it with its size, and remove nothing."""

    def __post_init__(self) -> None:
        if self.clean is None and self.dry_run:
            raise ConfigError("needs --clean FOLDER", field="--dry-run", fix="name the folder to look into")
        if self.clean is not None and not self.clean.is_dir():
            raise ConfigError("is no folder", file=self.clean, field="--clean")
