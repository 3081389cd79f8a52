"""Options of the verbs that make, look at and mend recordings: record, check, convert, repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from scene4d.apps.terminal.arguments import FILE, OUTPUT, POSITIONAL
from scene4d.apps.terminal.option_checks import check_at_least
from scene4d.errors import ConfigError
from scene4d.eval.metrics.seeds import LARGEST_SEED
from scene4d.sim import rig
from scene4d.sim.rig import FAILURES, kinds_for


@dataclass(frozen=True)
class RecordOptions:
    """Record scripted experts with noise on their actions."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d record --tasks door-open-v3 --episodes 3 -o episodes",
        "scene4d record --tasks door-open-v3 drawer-open-v3 --frames 120 --size 128 --first-seed 100",
        "scene4d record --tasks door-open-v3 --viewpoints 2 2",
        "scene4d record --tasks tabletop/suction/put-red-block-on-blue-plate --frames 80",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what happens": (
            "tasks",
            "episodes",
            "first_seed",
            "noise",
            "fail",
            "frames",
        ),
        "how it is seen": (
            "cameras",
            "viewpoints",
            "size",
        ),
        "what is written": ("output",),
    }

    output: Annotated[Path, OUTPUT] = Path("episodes")
    """Folder of the new data set; must not exist or be empty."""
    tasks: tuple[str, ...] = ("door-open-v3",)
    """Tasks of Meta-World, or of the table: "tabletop/", which robots ("gripper", "suction", "pusher", or two of them
    joined by +, and "+lamp" for one that swings by itself), and what is to be done. Recordings have it in words."""
    episodes: int = 3
    """Episodes of each task."""
    first_seed: int = 0
    """Environment seed of the first episode; the next ones count up. Keep 2000-2099 for tests."""
    noise: tuple[float, ...] = rig.NOISE
    """Deviation of the Gaussian noise on the expert's actions, taken in turn; the stronger, the more episodes fail."""
    fail: tuple[str, ...] = ()
    """What goes wrong on purpose, taken in turn, in tasks that it fits: stops, wrong_place, drops, never_closes,
    pushes_past. None: only noise makes episodes fail."""
    frames: int = 60
    """Frames of an episode, 0.025 s apart (at most 250)."""
    size: int = 64
    """Pixels a side of the images."""
    cameras: tuple[str, ...] = ("left", "right", "front", "top")
    """Cameras: left, right, front, top, gripper (the rig), corner (a spare one), and those that no training ever sees:
    unseen_0 to unseen_7 and beyond."""
    viewpoints: tuple[int, int] = (0, 0)
    """Inputs and targets among cameras drawn anew round the workspace for each episode, by its seed, such as 2 2: then
    they are used instead of --cameras. Inputs see it from clearly different sides."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("episodes", 1, None),
            ("frames", 1, 250),
            ("size", 8, 2048),
            ("first_seed", 0, LARGEST_SEED - self.episodes + 1),
        ):
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                raise ConfigError("is out of range", field=name, found=value, expected=f"{least}..{most or ''}")
        check_at_least(0, noise=min(self.noise, default=0))
        if self.fail:
            _check_failures(self.fail, tasks=self.tasks)
        check_at_least(0, viewpoints=min(self.viewpoints))
        for name in ("tasks", "noise", "cameras"):
            if not getattr(self, name):
                raise ConfigError("names nothing", field=name)


def _check_failures(kinds: tuple[str, ...], *, tasks: tuple[str, ...]) -> None:
    """Refuse a failure that there is not, and a task that none of them fits."""
    for task in tasks:
        if not set(kinds) <= set(FAILURES) or not set(kinds) & set(kinds_for(task)):
            problem, expected = f"are no failures of {task}", f"some of {', '.join(kinds_for(task)) or 'none'}"
            raise ConfigError(problem, field="fail", found=" ".join(kinds), expected=expected)


@dataclass(frozen=True)
class CheckOptions:
    """Look at a recording, or at a folder of recordings; nothing is written."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d check my_recording",
        "scene4d check my_recording --calibration",
        "scene4d check lerobot_set --deep --samples 10",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is tested": (
            "calibration",
            "deep",
            "samples",
        ),
        "what the source lacks": ("cameras",),
    }

    source: Annotated[Path, POSITIONAL]
    """Folder or file."""
    calibration: bool = False
    """Test calibration: carry views into each other, and try the mistakes that are commonly made."""
    deep: bool = False
    """Decode every picture of every recording."""
    cameras: Annotated[Path | None, FILE] = None
    """A cameras.json that lies elsewhere."""
    fov: float = 0.0
    """Horizontal field of view in degrees to take where there is no calibration; 0 = not known."""
    samples: int = 3
    """Recordings to look into, spread over all that there are; metadata is read of every one. 0 = only that."""

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ConfigError("is out of range", field="samples", found=self.samples, expected=">= 0")
        _check_fov(self.fov)


@dataclass(frozen=True)
class ConvertOptions:
    """Convert every recording of a folder. A run that was stopped continues when it is started again."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d convert my_recording -o converted",
        "scene4d convert my_recording -o mended --fix depth_scale=0.001 opengl",
        "scene4d convert lerobot_set -o small --size 128 96 --cameras front wrist --workers 2",
    )
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is corrected": (
            "fix",
            "calibration",
            "fov",
            "fit",
            "resync",
            "fps",
        ),
        "what is kept": (
            "cameras",
            "segments",
            "size",
            "depth",
            "depth_unit",
            "skip_bad",
        ),
        "how it is written": (
            "output",
            "workers",
        ),
    }

    source: Annotated[Path, POSITIONAL]
    """Folder or file of recordings."""
    output: Annotated[Path, OUTPUT] = Path("converted")
    """Folder of the new data set; must not exist or be empty, and not lie inside the source."""
    fix: tuple[str, ...] = ()
    """Mends, as `scene4d check --calibration` proposes them, applied in order."""
    cameras: tuple[str, ...] = ()
    """Cameras to keep; by default all."""
    segments: bool = True
    """Keep segment ids, where all recordings have them."""
    size: tuple[int, int] | None = None
    """Width and height in pixels to resize all pictures to; by default as recorded."""
    skip_bad: bool = False
    """Leave out recordings that cannot be read or do not fit the first, and say so in report.json."""
    fps: float = 0.0
    """Take frames as evenly spaced at this rate; 0 = as recorded."""
    depth: Literal["png", "video"] = "png"
    """How depth is kept: png, exact to its unit; or LeRobot's own video of 12 bits, small, with steps of 1 to 4 mm."""
    depth_unit: float = 0.0
    """Metres a step of depth as png; 0 = 0.0001 where it reaches far enough, else 0.001; lerobot knows no finer one."""
    calibration: Annotated[Path | None, FILE] = None
    """A cameras.json that lies elsewhere."""
    fov: float = 0.0
    """Horizontal field of view in degrees to take where there is no calibration, cameras at the origin; 0 = not known.
    The result notes that its calibration is approximate."""
    fit: Literal["none", "scale", "crop"] = "none"
    """What to do with calibration of another picture size: refuse it, or say how the pictures were made."""
    resync: Literal["none", "nearest"] = "none"
    """Place frames on an even grid by their times, where those are uneven, doubled or out of order."""
    workers: int = 1
    """Processes."""

    def __post_init__(self) -> None:
        for name, good in (
            ("size", self.size is None or min(self.size) > 0),
            ("fps", self.fps >= 0),
            ("depth_unit", 0 <= self.depth_unit <= 1),
            ("workers", self.workers >= 1),
        ):
            if not good:
                raise ConfigError("is out of range", field=name, found=getattr(self, name))
        _check_fov(self.fov)
        if self.fps and self.resync != "none":
            fix = "leave out --fps: the grid has the rate of the recording"
            raise ConfigError("contradict each other about times", field="fps, resync", fix=fix)

    def job(self) -> dict[str, Any]:
        """What an unfinished run must agree on to be continued."""
        values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        values |= {"source": str(self.source.resolve()), "size": list(self.size) if self.size else None}
        values |= {"fix": list(self.fix), "cameras": list(self.cameras)}
        return {k: v for k, v in values.items() if k not in ("output", "skip_bad", "workers")}


@dataclass(frozen=True)
class RepairOptions:
    """Copy the longest run of whole episodes, or all messages before the cut; the input is only read."""

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "scene4d repair broken_set -o repaired",
        "scene4d repair broken.mcap -o repaired.mcap",
    )

    source: Annotated[Path, POSITIONAL]
    """Folder of the data set (the one that holds meta/, data/ and videos/), or an .mcap file."""
    output: Annotated[Path, OUTPUT]
    """New folder (must not exist or be empty), or new .mcap file."""

    def __post_init__(self) -> None:
        source, output = self.source.resolve(), self.output.resolve()
        if output.is_relative_to(source):
            fix = "name a folder elsewhere: the input is not touched"
            raise ConfigError("lies inside the data set", file=self.output, field="output", fix=fix)


def _check_fov(fov: float) -> None:
    if fov and not 1 < fov < 170:
        raise ConfigError("is no field of view", field="fov", found=fov, expected="1..170, or 0")
