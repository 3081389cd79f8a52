"""Cameras drawn round the workspace: new ones for each training episode, and nine that training never sees."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scene4d.errors import ConfigError
from scene4d.sim.rig import RigCamera

LEAST_HEIGHT = 0.2  # m above the table, whose top is at z = 0: higher than its rim
UNSEEN_SEED = 8  # below 2**32, which no `episode_seed` is
BEYOND_DEG = 20.0
NUM_UNSEEN = 8


@dataclass(frozen=True)
class Viewpoints:
    """A distribution of cameras: each number is drawn evenly between two ends.

    By default the workspace is seen from every side but that of the robot, whose trunk would hide it.
    """

    azimuth_deg: tuple[float, float] = (135.0, 405.0)
    """Direction of looking about the vertical, as MuJoCo counts it: 90 looks over the robot's shoulder, 270 at it."""
    elevation_deg: tuple[float, float] = (-65.0, -20.0)
    """Direction of looking, below the horizon."""
    distance: tuple[float, float] = (1.1, 1.5)
    """m from the point looked at."""
    fov_y_deg: tuple[float, float] = (38.0, 52.0)
    """Vertical field of view."""
    lookat: tuple[float, float, float] = (0.0, 0.6, 0.12)
    """Middle of the workspace, m."""
    jitter: tuple[float, float, float] = (0.06, 0.06, 0.04)
    """How far at most the point looked at is from there along each axis, m."""
    apart_deg: float = 50.0
    """Least difference between the azimuths of any two inputs."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("azimuth_deg", -math.inf, math.inf),
            ("elevation_deg", -89.0, -1.0),
            ("distance", 0.1, math.inf),
            ("fov_y_deg", 5.0, 120.0),
        ):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                expected = f"two ends between {least:g} and {most:g}"
                raise ConfigError("is no range", field=f"viewpoints.{name}", found=(low, high), expected=expected)
        flattest = math.sin(math.radians(-self.elevation_deg[1]))
        lowest = self.lookat[2] - self.jitter[2] + self.distance[0] * flattest
        if not lowest >= LEAST_HEIGHT:
            problem, expected = "come too near the table", f"cameras at least {LEAST_HEIGHT} m above it"
            raise ConfigError(problem, field="viewpoints", found=f"{lowest:.2f} m", expected=expected)

    def draw(self, num: int, *, seed: int) -> list[RigCamera]:
        """`num` cameras independent of one another; the same for the same seed."""
        return self._cameras(num, np.random.default_rng([0, seed]))

    def draw_apart(self, num: int, *, seed: int) -> list[RigCamera]:
        """`num` cameras that see the workspace from clearly different sides, in no order.

        Raises:
            ConfigError: so many do not fit.
        """
        low, high = self.azimuth_deg
        span = min(high - low, 360.0 - self.apart_deg)  # the ends of a whole circle are neighbours
        slack = span - (num - 1) * self.apart_deg
        if slack < 0:
            expected = f"at most {1 + int(span // self.apart_deg)}, {self.apart_deg:g} degrees apart"
            raise ConfigError("do not fit round the workspace", field="viewpoints", found=num, expected=expected)
        random = np.random.default_rng([1, seed])
        start = low + random.uniform(0, high - low - span)
        # Even points on what is left of the range, then pushed apart: each choice of places is equally likely.
        azimuths = start + np.sort(random.uniform(0, slack, num)) + self.apart_deg * np.arange(num)
        return self._cameras(num, random, azimuths=random.permutation(azimuths))

    def episode(self, task: str, *, seed: int, num_inputs: int, num_targets: int) -> dict[str, RigCamera]:
        """The cameras of one episode: input_0, input_1, ... from different sides, then target_0, target_1, ..."""
        own = episode_seed(task, seed=seed)
        inputs, targets = self.draw_apart(num_inputs, seed=own), self.draw(num_targets, seed=own)
        return dict(zip(drawn_names(num_inputs, num_targets), [*inputs, *targets], strict=True))

    def _cameras(self, num: int, random: np.random.Generator, *, azimuths: np.ndarray | None = None) -> list[RigCamera]:
        draw = lambda ends: random.uniform(ends[0], ends[1], num)
        turns = draw(self.azimuth_deg) if azimuths is None else azimuths
        tilts, distances, fields = draw(self.elevation_deg), draw(self.distance), draw(self.fov_y_deg)
        places = np.array(self.lookat) + random.uniform(-1, 1, (num, 3)) * np.array(self.jitter)
        rows = zip(places.tolist(), distances.tolist(), turns.tolist(), tilts.tolist(), fields.tolist(), strict=True)
        return [RigCamera((place[0], place[1], place[2]), *rest) for place, *rest in rows]


def episode_seed(task: str, *, seed: int) -> int:
    """One number for a task and an environment's seed (below 2**32): no two of them share it."""
    return (zlib.crc32(task.encode()) << 32) + seed


def drawn_names(num_inputs: int, num_targets: int) -> tuple[str, ...]:
    """Names of drawn cameras, inputs first."""
    return (*(f"input_{i}" for i in range(num_inputs)), *(f"target_{i}" for i in range(num_targets)))


@functools.cache
def unseen_cameras() -> Mapping[str, RigCamera]:
    """Nine cameras for reports, into which nothing is ever trained: unseen_0 to unseen_7 are drawn once from the
    default distribution, and `beyond` looks from 20 degrees outside it, over the robot's shoulder."""
    viewpoints = Viewpoints()
    drawn = viewpoints.draw(NUM_UNSEEN, seed=UNSEEN_SEED)
    middle = lambda ends: sum(ends) / 2
    beyond = RigCamera(
        lookat=viewpoints.lookat,
        distance=middle(viewpoints.distance),
        azimuth_deg=viewpoints.azimuth_deg[1] + BEYOND_DEG,
        elevation_deg=middle(viewpoints.elevation_deg),
        fov_y_deg=middle(viewpoints.fov_y_deg),
    )
    return {**{f"unseen_{i}": camera for i, camera in enumerate(drawn)}, "beyond": beyond}
