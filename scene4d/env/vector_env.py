"""WorldVectorEnv: many learned simulators that share every forecast and every render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene4d.env.batched_sim import WorldConfig
from scene4d.env.spaces import gymnasium, info_of, observation, start_info
from scene4d.env.termination import checked_actions
from scene4d.env.world_env import Simulation, Starts
from scene4d.errors import ConfigError, EnvError
from scene4d.types import Cameras, Frames
from scene4d.world.capabilities import MovesAnchors


class WorldVectorEnv(Simulation, gymnasium.vector.VectorEnv):
    """`num_envs` rollouts as one gymnasium.vector.VectorEnv: one `predict` and one `render` a step for all of them.

    Autoreset mode is NEXT_STEP: the step after an episode's last ignores its action, begins its next episode
    and returns its first observation with reward 0. Observations, rewards and infos are those of `WorldEnv`, stacked.
    An episode depends on its own seed and actions, not on its neighbours.

    Args:
        model, starts, cameras, config, record_to: as `WorldEnv`. num_envs: episodes side by side.
    """

    def __init__(
        self,
        model: MovesAnchors,
        starts: Starts,
        *,
        num_envs: int,
        cameras: Mapping[str, Cameras],
        config: WorldConfig | None = None,
        record_to: str | Path | None = None,
    ) -> None:
        spaces = self._begin_with(model, starts, cameras=cameras, config=config, record_to=record_to, num=num_envs)
        self.single_action_space, self.single_observation_space = spaces
        self.action_space, self.observation_space = (gymnasium.vector.utils.batch_space(s, num_envs) for s in spaces)
        self.metadata["autoreset_mode"] = gymnasium.vector.AutoresetMode.NEXT_STEP
        self.num_envs, self._over = num_envs, np.zeros(num_envs, dtype=bool)
        self._generators: list[np.random.Generator] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin all episodes. `seed`: one each, or a first one to count up from.

        Raises:
            ConfigError: another number of seeds than of episodes, or a start of another robot than the spaces are of.
        """
        seeds = [None] * self.num_envs if seed is None else seed
        seeds = [seeds + i for i in range(self.num_envs)] if isinstance(seeds, int | np.integer) else list(seeds)
        if len(seeds) != self.num_envs:
            raise ConfigError("one for each episode", field="seed", found=len(seeds), expected=self.num_envs)
        kept = self._generators or [np.random.default_rng() for _ in seeds]
        make = lambda s: gymnasium.utils.seeding.np_random(s)[0]
        self._generators = [kept[i] if s is None else make(s) for i, s in enumerate(seeds)]
        self._write(range(self.num_envs))
        frames = self._begin(range(self.num_envs))
        self._over[:] = False
        infos: dict[str, Any] = {}
        for i in range(self.num_envs):
            infos = self._add_info(infos, start_info(), i)
        return observation(frames, self.sim.proprio, names=self.names), infos

    def step(self, actions: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step under `actions` [num_envs a]; episodes that were over begin anew.

        Raises:
            EnvError: an action has the wrong shape, is not finite or out of range; or `reset` was never called.
            ConfigError: an episode begins anew at a start of another robot.
        """
        low, high = self.bounds
        actions = checked_actions(actions, low=low, high=high, num=self.num_envs)
        if not self._generators:
            raise EnvError("no episode is running", field="step", fix="call reset")
        again = np.nonzero(self._over)[0].tolist()
        if again:
            self._begin(again)
        outcome = self.sim.step(actions, running=torch.from_numpy(~self._over))
        terminated, truncated = outcome.terminated.numpy(), outcome.truncated.numpy()
        infos: dict[str, Any] = {}
        for i in range(self.num_envs):
            infos = self._add_info(infos, start_info() if self._over[i] else info_of(outcome, i), i)
        self._over = terminated | truncated
        self._write(np.nonzero(self._over)[0].tolist())
        seen = observation(outcome.frames, outcome.proprio, names=self.names)
        return seen, outcome.reward.double().cpu().numpy(), terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...]:
        """One image an episode: the cameras side by side, uint8 [h v*w 3]."""
        return self._pictures()

    def close_extras(self, **kwargs: Any) -> None:
        """Write the running episodes if episodes are recorded."""
        self._write(range(self.num_envs))

    def _begin(self, which: Sequence[int]) -> Frames:
        return self.sim.start({i: self._drawn(self._generators[i]) for i in which})
