"""Recorded scenes (.s4d) as starts of the learned simulator, and the simulator made from them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from scene4d.apps.compose.models import Models
from scene4d.apps.compose.recorded_actions import observation_and_actions
from scene4d.env.batched_sim import WorldConfig
from scene4d.env.vector_env import WorldVectorEnv
from scene4d.env.world_env import WorldEnv
from scene4d.errors import ConfigError, DataFormatError
from scene4d.gaussians.s4d.s4d import S4DFile, open_s4d
from scene4d.robot.bounds import Range, action_range
from scene4d.robot.spec import RobotSpec
from scene4d.scene import Scene4D
from scene4d.types import Cameras
from scene4d.world.capabilities import MovesAnchors, require
from scene4d.world.observation import Observation, robot_of_s4d

KEPT_SCENES = 32
"""Scenes that stay read while episodes begin in them."""


def recorded_starts(scenes: Sequence[str | Path]) -> Callable[[np.random.Generator], Observation]:
    """Generator -> what was known at a random observed instant of a random one of the .s4d files.

    The first instant is never drawn where there are others: nothing is known of what moved before it. All starts know
    the range of the actions of all files: it bounds those that have no other bounds.

    Raises:
        ConfigError: the files are of two robots. DataFormatError: one cannot be read.
    """
    files = [open_s4d(path) for path in scenes]
    recorded = _range_of(files)
    read = functools.lru_cache(maxsize=KEPT_SCENES)(lambda number: files[number].scene())

    def draw(generator: np.random.Generator) -> Observation:
        number = int(generator.integers(len(files)))
        file, scene = files[number], read(number)
        last = _last_observed(file, scene)
        start = int(generator.integers(min(1, last), last + 1))
        return start_at(file, scene, start=start, recorded=recorded)

    return draw


def start_at(file: S4DFile, scene: Scene4D, *, start: int, recorded: Range | None = None) -> Observation:
    """What was known at frame `start` of a .s4d, with its scene, that holds actions and proprio.

    Args:
        recorded: the range of actions that the start knows of; without it that of the file's own.
    Raises:
        DataFormatError: it lacks them.
    """
    known, _ = observation_and_actions(file, actions="recorded", start=start, num_steps=1, scene=scene)
    return known.replace(robot=known.robot.with_recorded(recorded or _range_of([file])))


def _range_of(files: Sequence[S4DFile]) -> Range | None:
    """The range of the actions of .s4d files of one robot; None where there are none."""
    robot: RobotSpec | None = None
    found = []
    for file in files:
        if file.actions is None:
            continue  # refused where something starts from it
        other = robot_of_s4d(file)
        robot = robot or other
        robot.check_same(other, file=file.path)
        robot = robot.filled_from(other)
        found.append(file.actions)
    return action_range(found) if found else None


def _last_observed(file: S4DFile, scene: Scene4D) -> int:
    """The last frame of a .s4d that was seen, with a recorded action after it; DataFormatError: nothing was seen."""
    seen = scene.observed.nonzero()[:, 0]
    if len(seen) == 0:
        raise DataFormatError("has no observed instant", file=file.path, fix="give a reconstructed scene")
    num_actions = 0 if file.actions is None else len(file.actions)
    return max(0, min(int(seen[-1]), num_actions - 1, file.num_frames - 2))


def make_world_env(
    models: Models,
    scenes: Sequence[str | Path],
    *,
    num_envs: int | None = None,
    config: WorldConfig | None = None,
    record_to: str | Path | None = None,
) -> WorldEnv | WorldVectorEnv:
    """The learned simulator from trained weights, beginning at instants of recorded scenes, seen by their cameras.

    Args:
        scenes: .s4d files as `scene4d reconstruct` writes them. num_envs: a vector env of so many, else a single one.
        record_to: folder for one .s4d an episode; files that are there stay.
    Raises:
        ConfigError: there is no scene, they differ in what an action is, or are of another robot than the weights.
        DataFormatError: one cannot be started from.
    """
    if not scenes:
        raise ConfigError("there is nothing to start from", field="scenes", found=0, expected="at least 1")
    world = require(models.world, MovesAnchors, what="the learned simulator")
    for path in scenes:
        world.spec.robot_like(robot_of_s4d(open_s4d(path)), file=path)
    starts = recorded_starts(scenes)
    cameras = cameras_of(open_s4d(scenes[0]))
    if num_envs is None:
        return WorldEnv(world, starts, cameras=cameras, config=config, render_mode="rgb_array", record_to=record_to)
    return WorldVectorEnv(world, starts, num_envs=num_envs, cameras=cameras, config=config, record_to=record_to)


def cameras_of(file: S4DFile) -> dict[str, Cameras]:
    """The input cameras [] of a scene (all of them where it does not tell), where they stood first.

    Raises:
        DataFormatError: it holds none.
    """
    found = file.input_cameras()
    if not found:
        raise DataFormatError("holds no cameras", file=file.path, field="cameras", fix="reconstruct it again")
    return found
