"""WorldEnv: the learned simulator as a gymnasium.Env."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene4d.env.batched_sim import BatchedSim, WorldConfig
from scene4d.env.episode_log import STEP_SECONDS
from scene4d.env.spaces import (
    action_space_of,
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


class Simulation:
    """What `WorldEnv` and `WorldVectorEnv` share: rollouts side by side, what an action is, where episodes are kept."""

    def _begin_with(
        self,
        model: MovesAnchors,
        starts: Starts,
        *,
        cameras: Mapping[str, Cameras],
        config: WorldConfig | None,
        record_to: str | Path | None,
        num: int = 1,
    ) -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Dict]:
        """Take what the constructor is given; the spaces of one action and of one observation.

        Raises:
            ConfigError: there is no start, or they are not of one robot.
        """
        self.config, self.starts, self.names = config or WorldConfig(), starts, tuple(cameras)
        self.record_to, self._num_written = None if record_to is None else Path(record_to), 0
        known = [starts(np.random.default_rng(0))] if callable(starts) else list(starts)
        if not known:
            raise ConfigError("there is nothing to start from", field="starts", found=0, expected="at least 1")
        for index, start in enumerate(known):
            known[0].robot.check_same(start.robot, frame=index)
        self.sim = BatchedSim(model, cameras, num=num, config=self.config, robot=known[0].robot)
        fps = round(1 / (known[0].step_seconds or STEP_SECONDS), 3)
        self.metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": fps}
        space, width = action_space_of(known), known[0].proprio.shape[-1]
        self.bounds = torch.from_numpy(space.low), torch.from_numpy(space.high)
        return space, observation_space_of(self.names, size=self.config.size, proprio_width=width)

    def _drawn(self, generator: np.random.Generator, *, start: Observation | None = None) -> tuple[Observation, int]:
        """One of the starts (of a function, what it draws) unless `start` is given, and the seed of an episode."""
        if start is None:
            starts = self.starts
            start = starts(generator) if callable(starts) else starts[int(generator.integers(len(starts)))]
        return start, int(generator.integers(2**31))

    def _pictures(self) -> tuple[np.ndarray, ...]:
        """One image an episode: the cameras side by side, uint8 [h v*w 3]."""
        pixels = observation(self.sim.frames(), self.sim.proprio, names=self.names)["pixels"]
        return tuple(np.concatenate([pixels[name][i] for name in self.names], 1) for i in range(self.sim.num))

    def _write(self, which: Iterable[int] = (0,)) -> None:
        """Write those of the episodes that have news as record_to/episode_NNNN.s4d.

        NNNN is the first free number from the last one on: what others wrote there stays.
        """
        for i in which:
            log = self.sim.logs[i] if self.sim.logs else None
            if self.record_to is not None and log is not None and log.num_written < len(log.poses):
                self._num_written = log.write(self.record_to, number=self._num_written) + 1


class WorldEnv(Simulation, gymnasium.Env):
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
        spaces = self._begin_with(model, starts, cameras=cameras, config=config, record_to=record_to)
        self.action_space, self.observation_space = spaces
        self.render_mode, self._running = render_mode, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; options["start"] is an Observation to begin from instead of a drawn one.

        Raises:
            ConfigError: the start is of another robot than those that the spaces were made for.
        """
        super().reset(seed=seed)
        self._write()
        frames = self.sim.start({0: self._drawn(self.np_random, start=(options or {}).get("start"))})
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
        return None if self.render_mode is None else self._pictures()[0]

    def scene(self) -> Scene4D:
        """The episode so far."""
        return self.sim.scene(0)

    def close(self) -> None:
        """Write the running episode if episodes are recorded."""
        self._write()
        self._running = False
