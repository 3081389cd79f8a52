"""Towards a goal scene in closed loop: what still has to move is found anew in the memory at every plan."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scene4d.geometry.neighbours import nearest
from scene4d.plan.cost import Approach, Part, PointCost
from scene4d.plan.goal import GoalConfig, GoalParts, compare_goal, features_of, tracked
from scene4d.plan.search import SearchConfig
from scene4d.types import Gaussians
from scene4d.world.contract import State, WorldModel


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
            self.grip, self.touching = state.proprio[3:], False
        parts, now = self.parts, features_of(state.memory, config=self.config)
        hand = thing = None
        if parts.hand is not None:
            hand = parts.hand_shift - (hand_at - self.hand_start)
        if parts.thing is not None:
            self.thing_moved = self._thing_moved(now)
            rows = self._rows(now, _shifted(parts.thing, self.thing_moved))
            thing = Part(rows, parts.thing_shift - self.thing_moved)
        if thing is None:
            return PointCost(hand=hand)
        coming = PointCost(hand=hand, thing=thing, approach=self.approach, grip=self.grip)
        here = replace(coming, approach=None)
        if float(thing.shift.norm()) < self.config.least_shift or hand is None:
            return here  # nothing is left to take hold of
        if self.touching:
            self.touching = float(here.to_place().norm()) < self.approach.lost
        else:
            self.touching = float(coming.to_place().norm()) < self.approach.at_place
        return here if self.touching else coming

    def ways(self, cost: PointCost, *, config: SearchConfig) -> Tensor:
        """Knots [p k a] of the ways that geometry suggests, for `cost` of the same state, each at several speeds.

        Straight to the hand's place; with a thing to move, first to the place on it and from there along with it. The
        world model judges them like all others.
        """
        if cost.hand is None:
            return self.grip.new_zeros(0, config.num_knots, 3 + len(self.grip))
        first, then = cost.to_place(), cost.hand.new_zeros(3) if cost.thing is None else cost.thing.shift
        found = []
        for turn in range(config.num_knots + 1):  # the knot at which the second leg begins
            for speed in (1.0, 0.5, 0.25, 0.0):
                there = self._leg(first, turn, config=config)
                found.append(torch.cat([there, speed * self._leg(then, config.num_knots - turn, config=config)]))
        return torch.stack(found)

    def _leg(self, way: Tensor, num_knots: int, *, config: SearchConfig) -> Tensor:
        """Knots [num_knots a] that lead the hand along a way [3] m within their time, as far as it can go."""
        steps = max(1, num_knots * config.horizon // config.num_knots)
        # Not an inverse: a hand that does not answer to some axis is not sent along it.
        actions = torch.linalg.pinv(self.parts.reach.T, rtol=1e-3) @ (way / steps)
        actions = actions / actions.abs().max().clamp_min(1)
        return torch.nn.functional.pad(actions, (0, len(self.grip))).expand(num_knots, -1)

    def _thing_moved(self, now: Tensor) -> Tensor:
        """How far [3] the thing has come in a memory of rows now [n 6]: from where it was, or some way on."""
        way = self.parts.thing_shift - self.thing_moved
        steps = torch.arange(-2, 5).to(now)[:, None] * self.config.same  # a stride of the hand between two plans
        shifts = self.thing_moved + steps * way / way.norm().clamp_min(1e-6)
        return tracked(self.parts.thing, now, shifts, limit=2 * self.config.same)

    def _rows(self, now: Tensor, wanted: Tensor) -> Tensor:
        """Rows [r] of the memory that look like `wanted` [w 6] and lie there; the nearest ones if none does."""
        distance, index = nearest(now, wanted, num=1)
        found = distance[:, 0] < self.config.same
        rows = index[found, 0] if bool(found.any()) else index[:, 0]
        return rows.unique()


def _shifted(rows: Tensor, shift: Tensor) -> Tensor:
    """Rows [r 6] of place and colour, moved by shift [3]."""
    return rows + torch.nn.functional.pad(shift, (0, 3))
