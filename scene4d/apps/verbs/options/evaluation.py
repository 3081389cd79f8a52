"""Options of the verbs that measure: eval reconstruct, eval forecast, eval policy, eval plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from scene4d.apps.terminal.arguments import POSITIONAL
from scene4d.apps.terminal.option_checks import check_at_least, check_within
from scene4d.errors import ConfigError
from scene4d.eval.metrics.seeds import seed_range
from scene4d.sim import rig


@dataclass(frozen=True)
class EvalReconstructOptions:
    """Reconstruct recordings, and Meta-World episodes recorded on the fly, from a part of their views; score the rest.

    Without any source, the six tasks of the rig are recorded.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d eval reconstruct --tasks door-open-v3 --seeds 2000 2000",
        "scene4d eval reconstruct my_recordings --holdout 8 --max-frames 40",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is reconstructed": (
            "episodes",
            "max_frames",
            "stride",
            "width",
            "tasks",
            "seeds",
            "frames",
            "size",
            "inputs",
        ),
        "what is scored": (
            "holdout",
            "novel",
            "view_every",
        ),
        "how": (
            "fit",
            "tsdf",
            "instants",
        ),
    }

    sources: Annotated[tuple[Path, ...], POSITIONAL] = ()
    """Folders of recordings (what `scene4d reconstruct` reads); a folder of several gives its first ones. Without any,
    and without --tasks, the six tasks of the rig are recorded (minutes)."""
    holdout: tuple[str, ...] = ("4", "overhead")
    """For folders: a camera held out where there is one of that name, else every N-th instant by the number."""
    episodes: int = 1
    """Most recordings of each folder."""
    max_frames: int = 0
    """Most frames of each recording; 0 = all."""
    stride: int = 1
    """Read every how many-th frame."""
    width: int = 0
    """Width in px to resize images of folders to; 0 = as recorded."""
    tasks: tuple[str, ...] = ()
    """Meta-World tasks to record and score with exact motion; by default the six of the rig where no folder is named,
    else none."""
    seeds: tuple[int, int] = (2000, 2000)
    """First and last episode seed; test seeds are 2000 to 2099."""
    frames: int = 48
    """Frames of a recorded episode, 0.025 s apart."""
    size: int = 128
    """Pixels a side of recorded images."""
    inputs: tuple[str, ...] = rig.INPUT_CAMERAS
    """Rig cameras that are given."""
    novel: tuple[str, ...] = ("front", "top")
    """Rig cameras that are held out."""
    view_every: int = 4
    """Score every how many-th held-out view of sources with several cameras."""
    fit: bool = False
    """Refine the scenes by rendering (minutes each)."""
    tsdf: bool = True
    """Also ray-cast a TSDF, where Open3D is installed."""
    instants: bool = True
    """Also reconstruct single instants alone, where there are several cameras."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("stride", 1), ("view_every", 1), ("frames", 2), ("size", 16)):
            if getattr(self, name) < least:
                raise ConfigError("is out of range", field=name, found=getattr(self, name), expected=f">= {least}")
        seed_range(self.seeds)
        if set(self.inputs) & set(self.novel):
            raise ConfigError("is given and held out", field="novel", found=sorted(set(self.inputs) & set(self.novel)))


@dataclass(frozen=True)
class EvalForecastOptions:
    """Forecast recorded-on-the-fly episodes; score them against copying, constant velocity, exact motion, 2D video."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d eval forecast --seeds 2000 2001",
        "scene4d eval forecast --seeds 2000 2001 --also tiny rssm",
        "scene4d eval forecast --seeds 2000 2011 --seconds 0.1 0.25 0.5 1 2 3",
        "scene4d eval forecast --episodes my_recordings --inputs left right --novel front",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is forecast": (
            "tasks",
            "seeds",
            "episodes",
            "inputs",
            "size",
            "windows",
            "horizons",
            "seconds",
        ),
        "what is compared": (
            "weights",
            "sampler_steps",
            "pixels_weights",
            "also",
            "robot",
        ),
        "what is scored": (
            "novel",
            "deep",
        ),
    }

    tasks: tuple[str, ...] = ("button-press-v3", "door-open-v3", "drawer-open-v3")
    """Meta-World tasks."""
    seeds: tuple[int, int] = (2000, 2005)
    """First and last episode seed; test seeds are 2000 to 2099, validation 1000 to 1099."""
    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default small."""
    sampler_steps: int = 4
    """Steps of the diffusion sampler."""
    windows: int = 4
    """Moments of each episode that are forecast from, spread over its frames 8 to 32."""
    horizons: tuple[int, ...] = (1, 4, 8, 12)
    """Frames ahead that are scored."""
    seconds: tuple[float, ...] = ()
    """Seconds ahead that are scored, such as 0.1 0.25 0.5 1 2 3, instead of --horizons."""
    size: int = 64
    """Width and height of the pictures in px; flow figures need 128."""
    inputs: tuple[str, ...] = ("left", "right")
    """Cameras that the forecasters see, such as left gripper; front and top never are."""
    episodes: tuple[Path, ...] = ()
    """Recordings to forecast instead of simulated episodes; --tasks and --seeds then do nothing, and what needs exact
    motion is left out."""
    novel: tuple[str, ...] = ("front", "top")
    """Cameras that are scored and never an input; training may have used their pictures as targets."""
    pixels_weights: Path | None = None
    """Weights of the 2D baseline (scene4d train CONFIG --pixels): adds its row."""
    also: tuple[Path, ...] = ()
    """More weights, of any family whose predictions are scenes: each adds a row under the name of its family."""
    robot: bool = False
    """Add the row of the model whose robot moves as its kinematic model says (simulated episodes only)."""
    deep: bool = False
    """Check the model itself too: 4 sampling steps against 32, intervals, the autoencoder alone, several futures, a
    rollout of 150 steps."""

    def __post_init__(self) -> None:
        if (self.deep or self.robot) and self.episodes:
            raise ConfigError("need the simulator", field="deep, robot", fix="leave --episodes out")
        check_at_least(1, windows=self.windows, sampler_steps=self.sampler_steps)
        check_at_least(1, horizons=min(self.horizons, default=0))
        if self.seconds and min(self.seconds) <= 0:
            raise ConfigError("are not ahead", field="seconds", found=list(self.seconds), expected="> 0")
        check_at_least(16, size=self.size)
        seed_range(self.seeds)
        if set(self.inputs) & set(self.novel):
            expected = f"none of {' '.join(self.novel)}"
            raise ConfigError("is scored and never seen", field="inputs", found=list(self.inputs), expected=expected)


@dataclass(frozen=True)
class EvalPolicyOptions:
    """Run the action head in closed loop in Meta-World."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d eval policy --tasks door-open-v3 --seeds 2000 2004",
        "scene4d eval policy --paired --processes 2",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is tried": (
            "tasks",
            "seeds",
            "turned",
            "max_frames",
        ),
        "who acts": (
            "weights",
            "forecast",
            "paired",
        ),
        "how it runs": (
            "processes",
            "videos",
        ),
    }

    tasks: tuple[str, ...] = ()
    """Meta-World tasks; by default those that the action head was trained on."""
    seeds: tuple[int, int] = (2000, 2019)
    """First and last environment seed; test seeds are 2000 to 2099, validation 1000 to 1099."""
    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default small."""
    forecast: bool = True
    """Show the head the predicted future too (slower)."""
    paired: bool = False
    """Run every rollout without the forecast as well, and report the difference that the forecast makes."""
    turned: float = 0.0
    """Degrees that the cameras are turned about the workspace, away from where they stood in training."""
    max_frames: int = 250
    """Steps after which a rollout counts as failed. Meta-World's usual 500 are half as long."""
    processes: int = 1
    """Rollouts that run at once, one thread each."""
    videos: Path | None = None
    """Folder for one video a rollout."""

    def __post_init__(self) -> None:
        check_at_least(1, processes=self.processes)
        check_within(-180, 180, turned=self.turned)
        seed_range(self.seeds)
        if self.paired and not self.forecast:
            raise ConfigError("needs the forecast", field="paired", fix="leave --no-forecast out")


@dataclass(frozen=True)
class EvalPlanOptions:
    """Plan towards the scene in which a scripted expert's episode from the same start ends, its success held."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d eval plan --tasks reach-v3 --seeds 2000 2004",
        "scene4d eval plan --search policy --goal image --processes 2",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is tried": (
            "tasks",
            "seeds",
            "goal",
            "max_frames",
        ),
        "who plans": (
            "weights",
            "search",
            "samples",
            "iterations",
            "replan_every",
        ),
        "how it runs": ("processes",),
    }

    tasks: tuple[str, ...] = ("reach-v3", "drawer-open-v3")
    """Meta-World tasks."""
    seeds: tuple[int, int] = (2000, 2029)
    """First and last environment seed; test seeds are 2000 to 2099, validation 1000 to 1099."""
    weights: Path | None = None
    """A weights file, or the name of shipped ones (small, tiny); by default small."""
    search: Literal["cem", "mppi", "policy"] = "cem"
    """How plans are found: the cross-entropy method, MPPI, or the best of `samples` that the action head proposes."""
    goal: Literal["scene", "image"] = "scene"
    """What the planner is given of the goal: its Gaussians, or its pictures from the input cameras."""
    samples: int = 48
    """Action sequences that are forecast together."""
    iterations: int = 3
    """Rounds of sampling a plan."""
    replan_every: int = 4
    """Actions carried out of each plan."""
    max_frames: int = 250
    """Steps after which a rollout counts as failed. Meta-World's usual 500 are half as long."""
    processes: int = 1
    """Rollouts that run at once, one thread each."""

    def __post_init__(self) -> None:
        check_at_least(1, samples=self.samples, iterations=self.iterations)
        check_at_least(1, replan_every=self.replan_every, processes=self.processes)
        seed_range(self.seeds)
