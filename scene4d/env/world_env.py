"""WorldEnv: the learned simulator as a gymnasium.Env."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene4d.env.batched_sim import BatchedSim, WorldConfig
from scene4d.env.spaces import (
    action_space_of,
    frame_rate,
    gymnasium,
    info_of,
    observation,
    observation_space_of,
    one_of,
    start_info,
)
from scene4d.env.termination import checked_actions
from scene4d.errors import ConfigError, EnvError
from scene4d.scene import Scene4D
from scene4d.types import Cameras
from scene4d.world.capabilities import MovesAnchors
from scene4d.world.observation import Observation

Starts = Sequence[Observation] | Callable[[np.random.Generator], Observation]


class WorldEnv(gymnasium.Env):
    """One rollout of a world model from recorded scenes; a step is one forecast step, rendered from fixed cameras.

    Observations are {"pixels": {camera: uint8 [h w 3]}, "agent_pos": float32 [q]}. The reward is the model's own where
    it predicts one, else the gain in its probability of success. An episode terminates where the model holds it for
    solved, and is truncated where the model is not to be believed (`TerminationLimits`) or time is up; `info["ended"]`
    is the reason; `info["uncertainty"]` (m) and `info["success"]` (probability) go with every step.

    Args:
        model: predicts. starts: what is known at each start, or generator -> that. All of one robot: what an action and
            its state are, and how long a step takes, must not differ.
        cameras: {name: Cameras []} of the images. config: how it runs.
        render_mode: None or "rgb_array" (the cameras side by side).
        record_to: folder for one .s4d an episode, written when it ends; files that are there stay.
    Raises:
        ConfigError: there is no start, they differ in what an action is, or a chunk is longer than the model's horizon.
    """

    def __init__(
        self,
        model: MovesAnchors,
        starts: Starts,
        *,
        cameras: Mapping[str, Cameras],
        config: WorldConfig | None = None,
        render_mode: str | None = None,
        record_to: str | Path | None = None,
    ) -> None:
        self.config, self.starts, self.names = config or WorldConfig(), starts, tuple(cameras)
        self.render_mode = render_mode
        self.record_to = None if record_to is None else Path(record_to)
        known = known_starts(starts)
        example = known[0]
        self.sim = BatchedSim(model, cameras, config=self.config, robot=example.robot)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": frame_rate(example)}
        self.action_space = space = action_space_of(known)
        self.bounds = torch.from_numpy(space.low), torch.from_numpy(space.high)
        self.observation_space = observation_space_of(
            self.names, size=self.config.size, proprio_width=example.proprio.shape[-1]
        )
        self._running, self._num_written = False, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; options["start"] is an Observation to begin from instead of a drawn one.

        Raises:
            ConfigError: the start is of another robot than those that the spaces were made for.
        """
        super().reset(seed=seed)
        self._write()
        given = (options or {}).get("start")
        start = some_start(self.starts, self.np_random) if given is None else given
        frames = self.sim.start({0: (start, int(self.np_random.integers(2**31)))})
        self._running = True
        return one_of(observation(frames, self.sim.proprio, names=self.names)), start_info()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One step under `action` [a].

        Raises:
            EnvError: the action has the wrong shape, is not finite or out of range; or no episode is running.
        """
        low, high = self.bounds
        action = checked_actions(action, low=low, high=high)
        if not self._running:
            raise EnvError("no episode is running", field="step", fix="call reset")
        outcome = self.sim.step(action)
        terminated, truncated = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        self._running = not (terminated or truncated)
        if not self._running:
            self._write()
        seen = one_of(observation(outcome.frames, outcome.proprio, names=self.names))
        return seen, float(outcome.reward[0]), terminated, truncated, info_of(outcome, 0)

    def render(self) -> np.ndarray | None:
        """The cameras side by side, uint8 [h v*w 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        pixels = observation(self.sim.frames(), self.sim.proprio, names=self.names)["pixels"]
        return np.concatenate([pixels[name][0] for name in self.names], 1)

    def scene(self) -> Scene4D:
        """The episode so far."""
        return self.sim.scene(0)

    def close(self) -> None:
        """Write the running episode if episodes are recorded."""
        self._write()
        self._running = False

    def _write(self) -> None:
        self._num_written = write_episode(self.sim, 0, folder=self.record_to, number=self._num_written)


def known_starts(starts: Starts) -> list[Observation]:
    """All of the starts; of a function, one that it draws.

    Raises:
        ConfigError: there is none, or they are not of one robot.
    """
    known = [starts(np.random.default_rng(0))] if callable(starts) else list(starts)
    if not known:
        raise ConfigError("there is nothing to start from", field="starts", found=0, expected="at least 1")
    for index, start in enumerate(known):
        known[0].robot.check_same(start.robot, frame=index)
    return known


def some_start(starts: Starts, generator: np.random.Generator) -> Observation:
    """One of the starts, drawn; of a function, what it draws."""
    return starts(generator) if callable(starts) else starts[int(generator.integers(len(starts)))]


def write_episode(sim: BatchedSim, index: int, *, folder: Path | None, number: int) -> int:
    """Write an episode as folder/episode_NNNN.s4d, if there is news in it; returns the next number.

    NNNN is the first number from `number` on that is free: what others wrote there stays.
    """
    if folder is None or not sim.logs or sim.logs[index].num_written == len(sim.logs[index].poses):
        return number
    return sim.logs[index].write(folder, number=number) + 1
