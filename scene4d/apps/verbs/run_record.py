"""`scene4d record`: Meta-World episodes seen by the fixed RGB-D rig, with exact motion, as a LeRobot data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scene4d.apps.terminal.options import check_at_least
from scene4d.data.formats.lerobot import write_lerobot
from scene4d.errors import ConfigError, ResourceError
from scene4d.eval.metrics.seeds import LARGEST_SEED
from scene4d.sim import rig
from scene4d.sim.metaworld import MetaWorldSim, record_episode
from scene4d.types import Episode


@dataclass(frozen=True)
class RecordOptions:
    """Record scripted experts with noise on their actions."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("episodes")
    """Folder of the new data set; must not exist or be empty."""
    tasks: tuple[str, ...] = ("door-open-v3",)
    """Meta-World tasks."""
    episodes: int = 3
    """Episodes of each task."""
    first_seed: int = 0
    """Environment seed of the first episode; the next ones count up. Keep 2000-2099 for tests."""
    noise: tuple[float, ...] = rig.NOISE
    """Deviation of the Gaussian noise on the expert's actions, taken in turn; the stronger, the more episodes fail."""
    frames: int = 60
    """Frames of an episode, 0.025 s apart (at most 250)."""
    size: int = 64
    """Pixels a side of the images."""
    cameras: tuple[str, ...] = ("left", "right", "front", "top")
    """Cameras: left, right, front, top, gripper (the rig), and corner (a spare one)."""

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
        for name in ("tasks", "noise", "cameras"):
            if not getattr(self, name):
                raise ConfigError("names nothing", field=name)


def run_record(options: RecordOptions) -> dict[str, Any]:
    """Record and write; returns {output, episodes, frames, bytes, success_rate, success, seconds, ms_per_frame}.

    success: {task: share of its episodes that succeeded}; ms_per_frame: all cameras, with writing.
    """
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise ResourceError("exists already", file=options.output, fix="name a new folder with -o")
    wins: dict[str, list[bool]] = {task: [] for task in options.tasks}
    start = time.perf_counter()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("frames"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("record", total=len(options.tasks) * options.episodes * options.frames)
        episodes = _episodes(
            options,
            wins=wins,
            advance=lambda task, seed: bars.update(bar, advance=1, description=f"{task} seed {seed}"),
        )
        written = write_lerobot(options.output, _announced(episodes, console=console), fps=MetaWorldSim.fps)
    seconds = time.perf_counter() - start
    outcomes = [win for task_wins in wins.values() for win in task_wins]
    return {
        "output": str(options.output),
        "episodes": written["episodes"],
        "frames": written["frames"],
        "bytes": written["bytes"],
        "success_rate": round(sum(outcomes) / len(outcomes), 3),
        "success": {task: round(sum(task_wins) / len(task_wins), 3) for task, task_wins in wins.items()},
        "seconds": round(seconds, 2),
        "ms_per_frame": round(1000 * seconds / written["frames"], 1),
    }


def _episodes(
    options: RecordOptions, *, wins: dict[str, list[bool]], advance: Callable[[str, int], None]
) -> Iterator[Episode]:
    """One episode at a time; the simulator of a task is kept, since its OpenGL context takes long to make."""
    size = (options.size, options.size)
    for task in wins:
        with MetaWorldSim(task, seed=options.first_seed, size=size, cameras=options.cameras) as sim:
            for index in range(options.episodes):
                seed, noise = options.first_seed + index, options.noise[index % len(options.noise)]
                episode = record_episode(
                    task,
                    seed=seed,
                    noise=noise,
                    num_frames=options.frames,
                    sim=sim,
                    progress=lambda _, task=task, seed=seed: advance(task, seed),
                )
                wins[task].append(bool(episode.success.any()))
                yield episode


def _announced(episodes: Iterator[Episode], *, console: Console) -> Iterator[Episode]:
    """A plain line an episode where there is no terminal for a bar."""
    for episode in episodes:
        if not console.is_terminal:
            info, done = episode.info, "success" if bool(episode.success.any()) else "failure"
            console.print(f"recorded {info['task']} seed {info['seed']} noise {info['noise']}: {done}", highlight=False)
        yield episode
