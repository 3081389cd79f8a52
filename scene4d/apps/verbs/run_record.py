"""`scene4d record`: simulated episodes seen by the RGB-D rig or by drawn cameras, as a LeRobot data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scene4d.apps.verbs.options.recordings import RecordOptions
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.video.depth_codec import DEPTH_UNIT
from scene4d.errors import ConfigError, ResourceError
from scene4d.files import sole_writer
from scene4d.sim.drawing.simulator import Simulator
from scene4d.sim.recorder import open_sim, record_parts, robot_of
from scene4d.sim.rig import kinds_for
from scene4d.sim.viewpoints import Viewpoints
from scene4d.types import Episode

FAR_UNIT = 2 * DEPTH_UNIT  # reaches 13 m: a low camera sees the far end of the floor


@sole_writer
def run_record(options: RecordOptions) -> dict[str, Any]:
    """Record and write; returns {output, episodes, frames, bytes, success_rate, success, seconds, ms_per_frame}.

    success: {task: share of its episodes that succeeded}; ms_per_frame: all cameras, with writing.
    """
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise ResourceError("exists already", file=options.output, fix="name a new folder with -o")
    if len(robots := {robot_of(task) for task in options.tasks}) > 1:
        fix = "record each robot to a data set of its own"
        raise ConfigError("have different robots", field="tasks", found=", ".join(sorted(robots)), fix=fix)
    wins: dict[str, list[bool]] = {task: [] for task in options.tasks}
    start = time.perf_counter()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("frames"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("record", total=len(options.tasks) * options.episodes * options.frames)
        advance = lambda task, seed: bars.update(bar, advance=1, description=f"{task} seed {seed}")
        episodes = _episodes(options, wins=wins, advance=advance)
        announced, unit = _announced(episodes, console=console), FAR_UNIT if any(options.viewpoints) else DEPTH_UNIT
        written = write_lerobot(options.output, announced, fps=Simulator.fps, depth_unit=unit)
    seconds = time.perf_counter() - start
    outcomes = [win for task_wins in wins.values() for win in task_wins]
    return {
        "output": str(options.output),
        **{name: written[name] for name in ("episodes", "frames", "bytes")},
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
        with open_sim(task, seed=options.first_seed, size=size, cameras=options.cameras) as sim:
            for index in range(options.episodes):
                seed, noise = options.first_seed + index, options.noise[index % len(options.noise)]
                count = lambda _, task=task, seed=seed: advance(task, seed)
                if any(options.viewpoints):
                    inputs, targets = options.viewpoints
                    drawn = Viewpoints().episode(task, seed=seed, num_inputs=inputs, num_targets=targets)
                    sim.look_from(drawn)
                kinds = [kind for kind in options.fail if kind in kinds_for(task)]
                failure = kinds[index % len(kinds)] if kinds else ""
                episode, _ = record_parts(
                    sim, seed=seed, noise=noise, num_frames=options.frames, failure=failure, progress=count
                )
                wins[task].append(_succeeded(episode))
                yield episode


def _announced(episodes: Iterator[Episode], *, console: Console) -> Iterator[Episode]:
    """A plain line an episode where there is no terminal for a bar."""
    for episode in episodes:
        if not console.is_terminal:
            info, done = episode.info, "success" if _succeeded(episode) else "failure"
            console.print(f"recorded {info['task']} seed {info['seed']} noise {info['noise']}: {done}", highlight=False)
        yield episode


def _succeeded(episode: Episode) -> bool:
    return episode.success is not None and bool(episode.success.any())
