"""Failures that look like failures: the scripted expert goes wrong in one way that people know, in closed loop."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.sim.rig import kinds_for

STOPS_AT = (0.1, 0.4)  # shares of the frames until the expert is done, between which it stops
OFFSET_M = (0.08, 0.15)
SIDE_M = 0.22  # so far beside the goal that what is pushed past it never counts as there
TYPICAL_FRAMES = 24  # until an expert is done


class Failing:
    """What the expert does in an episode that fails: `action(sim)` instead of `sim.expert_action()`.

    stops: stands still from an instant on. wrong_place: believes object and goal to be 8 to 15 cm beside where they
    are. drops: opens the hand while it carries. never_closes: keeps the hand open. pushes_past: goes on
    beyond the goal, past its side. The seed draws instants, offsets and directions.

    Raises:
        ConfigError: no such kind, or one that does not fit the task.
    """

    def __init__(self, kind: str, *, task: str, seed: int):
        if kind not in kinds_for(task):
            expected = ", ".join(kinds_for(task)) or "none"
            found = f"{kind} of {task}"
            raise ConfigError("is no failure of this task", field="failure", found=found, expected=expected)
        self.kind = kind
        random = np.random.default_rng([seed, zlib.crc32(f"{task} {kind}".encode())])
        self._stop = int(random.uniform(*STOPS_AT) * TYPICAL_FRAMES)
        turn, length = random.uniform(0, 2 * np.pi), random.uniform(*OFFSET_M)
        self._length, self._offset = length, length * np.array([np.cos(turn), np.sin(turn), 0.0])
        self._lifted: int | None = None
        self._beyond: np.ndarray | None = None
        self._wait = int(random.uniform(0, 2))
        self._side = float(random.choice([-1.0, 1.0]))

    def action(self, sim: MetaWorldSim) -> Tensor:
        """What it does now; ask once a frame."""
        nothing, goal = np.zeros(3), sim._obs[-3:]
        seen = sim._obs[4:7]
        if self.kind == "wrong_place":
            return sim.expert_action(object_offset=self._offset, goal_offset=self._offset)
        if self.kind == "pushes_past":
            if self._beyond is None:
                way = (goal - (sim._obs[:3] if sim.task == "reach-v3" else seen)) * [1, 1, 0]
                ahead = way / max(float(np.linalg.norm(way)), 1e-6)
                side = self._side * np.array([-ahead[1], ahead[0], 0])
                self._beyond = self._length * ahead + SIDE_M * side
            return sim.expert_action(object_offset=nothing, goal_offset=self._beyond)
        action = sim.expert_action()
        if self.kind == "stops" and sim.num_frames >= self._stop:
            return torch.cat([torch.zeros(3), action[3:]])
        if self.kind == "never_closes":
            return torch.cat([action[:3], -torch.ones(1)])
        if self.kind == "drops":
            if self._lifted is None and seen[2] > 0.04:
                self._lifted = sim.num_frames
            if self._lifted is not None and sim.num_frames >= self._lifted + self._wait:
                return torch.cat([action[:3], -torch.ones(1)])
        return action
