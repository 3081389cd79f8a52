"""Towards a goal scene in closed loop: what still has to move is found anew in the memory at every plan."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from scene4d.errors import ConfigError
from scene4d.geometry.neighbours import nearest
from scene4d.plan.cost import Approach, MovingObject, PointCost
from scene4d.plan.goal import GoalConfig, GoalParts, compare_goal, features_of, tracked
from scene4d.plan.search import SearchConfig
from scene4d.robot.actions import hand_action_index
from scene4d.robot.slots import beside_hand_index, hand_position
from scene4d.types import Gaussians
from scene4d.world.capabilities import MovesAnchors
from scene4d.world.contract import State


class GoalTracker:
    """Gives each new state the cost that leads to a goal scene.

    The goal is compared once, with the first state. From then on the hand is where the robot reports it, and the object
    is tracked by registering its Gaussians to the memory from where it was last.

    Args:
        model: predicts which Gaussians follow the hand. goal: Gaussians [m] of the whole scene as it shall be.
        approach: how the hand comes to an object.
    """

    def __init__(
        self,
        model: MovesAnchors,
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
        hand_at = hand_position(state.proprio, state.robot)
        if self.parts is None:
            self.parts = compare_goal(self.model, state, goal=self.goal, config=self.config)
            self.hand_start, self.object_moved = hand_at, hand_at.new_zeros(3)
            self.grip, self.touching = state.proprio[beside_hand_index(state.robot)], False
            self.robot = state.robot
        parts, now = self.parts, features_of(self.model.anchored(state).gaussians, config=self.config)
        hand = moving = None
        if parts.hand is not None:
            hand = parts.hand_shift - (hand_at - self.hand_start)
        if parts.moved_object is not None:
            self.object_moved = self._track_object(parts.moved_object, now, shift=parts.object_shift)
            rows = self._rows(now, parts.moved_object + pad(self.object_moved, (0, 3)))
            moving = MovingObject(self.model, rows, parts.object_shift - self.object_moved)
        if moving is None:
            return PointCost(hand=hand)
        coming = PointCost(hand=hand, moving=moving, approach=self.approach, grip=self.grip)
        here = replace(coming, approach=None)
        if float(moving.shift.norm()) < self.config.least_shift or hand is None:
            return here  # nothing is left to take hold of
        held, limit = (here, self.approach.lost) if self.touching else (coming, self.approach.at_place)
        self.touching = float(held.next_hand_shift().norm()) < limit
        return here if self.touching else coming

    def heuristic_proposals(self, cost: PointCost, *, config: SearchConfig) -> Tensor:
        """Knots [p k a] of the trajectories that geometry suggests, for `cost` of the same state, at several speeds.

        Straight to the hand's place; with an object to move, first to the place on it and from there along with it. The
        world model judges them like all other sequences.

        Raises:
            ConfigError: there was no state yet to compare with the goal.
        """
        if self.parts is None:
            raise ConfigError("is not compared with a state yet", field="goal", fix="call cost first")
        if cost.hand is None:
            return self.grip.new_zeros(0, config.num_knots, self.robot.action.width)
        # Not an inverse: a hand that does not respond along some axis is not sent along it.
        actions_per_metre = torch.linalg.pinv(self.parts.step_per_action.T, rtol=1e-3)
        leg = functools.partial(self._leg, actions_per_metre=actions_per_metre, config=config)
        first, then = cost.next_hand_shift(), cost.hand.new_zeros(3) if cost.moving is None else cost.moving.shift
        turns, speeds = range(config.num_knots + 1), (1.0, 0.5, 0.25, 0.0)  # turn: the knot where the second leg begins
        legs = [(leg(first, turn), speed * leg(then, config.num_knots - turn)) for turn in turns for speed in speeds]
        return torch.stack([torch.cat(pair) for pair in legs])

    def _leg(self, shift: Tensor, num_knots: int, *, actions_per_metre: Tensor, config: SearchConfig) -> Tensor:
        """Knots [num_knots a] that move the hand by `shift` [3] m within their time, as far as it can go."""
        steps = max(1, num_knots * config.horizon // config.num_knots)
        actions = actions_per_metre @ (shift / steps)
        actions = actions / actions.abs().max().clamp_min(1)
        knot = actions.new_zeros(self.robot.action.width)
        knot[hand_action_index(self.robot)] = actions
        return knot.expand(num_knots, -1)

    def _track_object(self, moved_object: Tensor, now: Tensor, *, shift: Tensor) -> Tensor:
        """How far [3] the object has come in a memory of rows now [n 6], from where it was last on towards `shift`."""
        left = shift - self.object_moved
        steps = torch.arange(-2, 5).to(now)[:, None] * self.config.same  # a stride of the hand between two plans
        shifts = self.object_moved + steps * left / left.norm().clamp_min(1e-6)
        return tracked(moved_object, now, shifts=shifts, limit=2 * self.config.same)

    def _rows(self, now: Tensor, wanted: Tensor) -> Tensor:
        """Rows [r] of the memory that look like `wanted` [w 6] and lie there; the nearest ones if none does."""
        distance, index = nearest(now, wanted, num=1)
        found = distance[:, 0] < self.config.same
        return (index[found, 0] if bool(found.any()) else index[:, 0]).unique()
