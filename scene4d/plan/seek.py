"""Towards a goal scene in closed loop: what still has to move is found anew in the memory at every plan."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.neighbours import nearest
from scene4d.plan.cost import Approach, Part, PointCost
from scene4d.plan.goal import GoalConfig, GoalParts, compare_goal, features_of, settled
from scene4d.types import Gaussians
from scene4d.worldmodel import State, WorldModel


class GoalSeeker:
    """Gives each new state the cost that leads to a goal scene.

    The goal is compared once, with the first state; from then on the hand and the thing are followed by their own
    look: the robot says where its hand is, the thing is laid onto the memory from where it was last.

    Args:
        model: foresees which matter follows the hand. goal: Gaussians [m] of the whole scene as it shall be.
        approach: how the hand comes to a thing.
    """

    def __init__(
        self,
        model: WorldModel,
        goal: Gaussians,
        *,
        config: GoalConfig | None = None,
        approach: Approach | None = None,
    ) -> None:
        self.model, self.goal = model, goal
        self.config, self.approach = config or GoalConfig(), approach or Approach()
        self.parts: GoalParts | None = None

    @torch.no_grad()
    def cost(self, state: State) -> PointCost:
        """The cost of futures of a state [] of this episode."""
        hand_at = state.proprio[:3]
        if self.parts is None:
            self.parts = compare_goal(self.model, state, self.goal, config=self.config)
            self.hand_start, self.thing_moved = hand_at, hand_at.new_zeros(3)
            self.grip = state.proprio[3:]
        parts, now = self.parts, features_of(state.memory, config=self.config)
        hand = thing = None
        if parts.hand is not None:
            hand = parts.hand_shift - (hand_at - self.hand_start)
        if parts.thing is not None:
            self.thing_moved = settled(parts.thing, now, self.thing_moved, limit=2 * self.config.same)
            rows = self._rows(now, _shifted(parts.thing, self.thing_moved))
            thing = Part(rows, parts.thing_shift - self.thing_moved)
        if thing is None:
            return PointCost(hand=hand)
        there = float(thing.shift.norm()) < self.config.least_shift  # then there is nothing left to take hold of
        return PointCost(hand=hand, thing=thing, approach=None if there else self.approach, grip=self.grip)

    def _rows(self, now: Tensor, wanted: Tensor) -> Tensor:
        """Rows [r] of the memory that look like `wanted` [w 6] and lie there; the nearest ones if none does."""
        distance, index = nearest(now, wanted, num=1)
        found = distance[:, 0] < self.config.same
        rows = index[found, 0] if bool(found.any()) else index[:, 0]
        return rows.unique()


def _shifted(rows: Tensor, shift: Tensor) -> Tensor:
    """Rows [r 6] of place and colour, moved by shift [3]."""
    return rows + torch.nn.functional.pad(shift, (0, 3))
