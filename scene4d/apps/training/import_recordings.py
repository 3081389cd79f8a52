"""Recordings of any robot as training episodes: read once, resized, and kept beside the simulated ones' format."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scene4d.apps.training.processes import in_processes
from scene4d.apps.training.run_config import RecordConfig
from scene4d.data.detect import open_recordings
from scene4d.data.load.stored_episode import import_episode
from scene4d.data.load.window_set import shared_columns
from scene4d.errors import ConfigError, DataFormatError
from scene4d.robot.spec import RobotSpec
from scene4d.train.checkpoint import load_tensors
from scene4d.train.log import line_progress
from scene4d.types import Recording


def import_stage(folder: Path, config: RecordConfig, *, least: int, processes: int) -> dict[str, Any]:
    """Take in every recording of `config.sources` that is not there yet; result: episodes, frames.

    Args:
        least: frames that a recording must have.
    Raises:
        DataFormatError: a source holds no recording, one is too short, or lacks a camera; DepthError: no depth;
            ConfigError: they are of different robots, and `config.several_robots` does not allow it.
    """
    _of_process.cache_clear()
    recordings = _recordings(config.sources)
    robots = [RobotSpec.from_info(one.info, step_seconds=1 / one.fps if one.fps else None) for one in recordings]
    check_robots(robots, recordings, several=config.several_robots)
    for spec in ("action_spec", "proprio_spec"):
        shared_columns(recordings, spec, union=config.several_robots)
    for recording in recordings:
        if recording.num_frames < least:
            found, expected = f"{recording.num_frames} frames", f">= {least}"
            raise DataFormatError("is too short to learn from", file=recording.path, found=found, expected=expected)
    jobs = [{"number": number, "folder": folder, "config": config} for number in range(len(recordings))]
    frames = in_processes(import_one, jobs, num=processes, progress=line_progress("recordings"))
    return {"episodes": len(frames), "frames": sum(frames)}


def listing(config: RecordConfig) -> list[tuple[str, int]]:
    """What the sources hold now, (path, frames) of each recording: another listing is another training set."""
    return [(str(recording.path), recording.num_frames) for recording in _recordings(config.sources)]


def check_robots(robots: Sequence[RobotSpec], recordings: Sequence[Recording], *, several: bool) -> None:
    """Refuse recordings that are not to be learned from together.

    Args:
        robots: of the recordings. several: whether they may be of different robots.
    Raises:
        ConfigError: they differ and may not; or one leaves the names of its numbers open, so that it may be any.
    """
    known: list[RobotSpec] = []
    for robot, recording in zip(robots, recordings, strict=True):
        same = next((one for one in known if one.difference(robot) is None), None)
        found = known[0].difference(robot) if known and not several else None
        if found is not None:
            field, expected, theirs = found
            problem, fix = "is of another robot", "leave it out, or set record.several_robots = true"
            raise ConfigError(problem, file=recording.path, field=field, found=theirs, expected=expected, fix=fix)
        if several and same is not None and _columns(same) != _columns(robot):
            problem, fix = "may be of another robot", "name its robot, and its numbers as the others do"
            raise ConfigError(problem, file=recording.path, field="action_spec", found=str(robot.action), fix=fix)
        known += [robot] if same is None else []


def _columns(robot: RobotSpec) -> tuple[Any, ...]:
    """What decides where a robot's numbers go."""
    return robot.action.names, robot.proprio.names, robot.meaning.names_places


def imported_episodes(folder: Path) -> list[Path]:
    """The episodes of `import_stage`, in the order of their sources."""
    return sorted(folder.glob("*.safetensors"))


def import_one(number: int, *, folder: Path, config: RecordConfig) -> int:
    """Import one recording unless its file is there; returns its frames."""
    path = folder / f"{number:06d}.safetensors"
    if path.exists():
        return len(load_tensors(path)[0]["times"])
    recording = _of_process(config.sources)[number]
    import_episode(path, recording, cameras=config.cameras, size=(config.size, config.size))
    return recording.num_frames


def _recordings(sources: tuple[str, ...]) -> list[Recording]:
    return [recording for source in sources for recording in open_recordings(source)]


_of_process = functools.lru_cache(maxsize=1)(_recordings)
"""The same, opened once in each process of a stage: the index of a large data set takes a while to read."""
