"""What a goal scene asks for: which Gaussians of the memory have to go where, by geometry and colour alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from scene4d.geometry.neighbours import farthest_points, nearest
from scene4d.geometry.sh import rgb_from_sh
from scene4d.robot.actions import hand_action_index
from scene4d.robot.slots import hand_position
from scene4d.types import Gaussians
from scene4d.world.capabilities import MovesAnchors, sampled
from scene4d.world.contract import State


@dataclass(frozen=True)
class GoalConfig:
    """How a memory and a goal scene are compared."""

    colour: float = 0.15
    """Metres that a full colour difference is worth."""
    same: float = 0.02
    """Distance in m, colour included, up to which two Gaussians are held to be the same."""
    hand_radius: float = 0.15
    """Metres round the hand within which what follows it is the hand."""
    min_rows: int = 12
    """Rows that a moved object has at least."""
    cluster: float = 0.05
    """Gap in m that parts two objects."""
    least_shift: float = 0.03
    """Metres that an object has to move at least to count as one to be moved."""
    num_candidates: int = 256
    """Shifts that a registration begins from."""


def features_of(gaussians: Gaussians, *, config: GoalConfig) -> Tensor:
    """Rows [n 6]: place in m and colour in the metres it is worth."""
    return torch.cat([gaussians.means, config.colour * rgb_from_sh(gaussians.sh)], -1)


def unmatched(points: Tensor, others: Tensor, *, limit: float) -> Tensor:
    """[n] whether a row of points [n 6] has no row of `others` [m 6] within `limit`."""
    distance, _ = nearest(others, points, num=1)
    return distance[:, 0] > limit


@dataclass(frozen=True)
class HandResponse:
    """What six test motions of the hand show about a state's memory of n rows."""

    follows: Tensor
    """[n] whether a row moves with the hand in every direction: the robot. Objects that it pushes follow in one."""
    step_per_action: Tensor
    """[3 3] metres that the hand goes in one step under a full action along each axis of the actions."""


@torch.no_grad()
def hand_response(model: MovesAnchors, state: State, *, steps: int = 8, seed: int = 0) -> HandResponse:
    """Find the robot among the rest, and how the hand responds to actions, from what the model predicts."""
    steps = min(steps, model.spec.horizon)
    tests = state.proprio.new_zeros(6, steps, state.robot.action.width)
    for axis, dim in enumerate(hand_action_index(state.robot)):
        tests[2 * axis, :, dim], tests[2 * axis + 1, :, dim] = 1.0, -1.0
    prediction = sampled(model, 1).predict(state.expand(6), actions=tests, seeds=(seed,))
    poses = model.anchor_motion(prediction).world_from_now[:, -1:]
    moved = model.anchored(state).displacement(poses)[:, 0]  # [6 n 3]
    response = (moved[0::2] - moved[1::2]).transpose(0, 1) / 2  # [n 3 3]
    hand = hand_position(prediction.robot_states[:, -1], state.robot)
    wanted = (hand[0::2] - hand[1::2]) / 2  # [3 3]
    return HandResponse((response - wanted).flatten(1).norm(dim=-1) < 0.5 * wanted.norm(), wanted / steps)


def register(part: Tensor, goal: Tensor, *, places: Tensor, config: GoalConfig) -> tuple[Tensor, float]:
    """The shift [3] that best lays rows `part` [r 6] onto `goal` [g 6], and the share of them that then lie there.

    Begins from many shifts that put the middle of the part at one of `places` [q 3], keeps the best by truncated
    distance, and refines these by matching nearest rows within ever less distance. Translations only.
    """
    part = part[farthest_points(part[:, :3], min(96, len(part)))]
    middle = part[:, :3].mean(0)
    num = min(config.num_candidates, len(places))
    shifts = torch.cat([places.new_zeros(1, 3), places[farthest_points(places, num)] - middle])
    for num_kept, num_rounds, width in ((32, 0, 6), (32, 3, 6), (12, 4, 4), (1, 8, 2)):
        for _ in range(num_rounds):
            shifts = _matched(part, goal, shifts=shifts, limit=width * config.same)
        distance = _distance(part, goal, shifts=shifts)[0].clamp_max(width * config.same).mean(-1)
        shifts = shifts[distance.argsort()[:num_kept]]
    found = _distance(part, goal, shifts=shifts)[0][0]
    return shifts[0], float((found < 1.5 * config.same).float().mean())


def _distance(part: Tensor, goal: Tensor, *, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [s r] and index [s r] of the goal row nearest to each row of the part after each shift."""
    placed = part + pad(shifts, (0, 3))[:, None]  # [s r 6]
    distance, index = nearest(goal, placed.flatten(0, 1), num=1)
    return distance.view(len(shifts), -1), index.view(len(shifts), -1)


def tracked(part: Tensor, goal: Tensor, *, shifts: Tensor, limit: float, rounds: int = 6) -> Tensor:
    """The shift [3] that lays rows [r 6] best onto nearby goal rows [g 6], of those [s 3] that tracking begins from."""
    for _ in range(rounds):
        shifts = _matched(part, goal, shifts=shifts, limit=limit)
    return shifts[_distance(part, goal, shifts=shifts)[0].clamp_max(limit).mean(-1).argmin()]


def _matched(part: Tensor, goal: Tensor, *, shifts: Tensor, limit: float) -> Tensor:
    distance, index = _distance(part, goal, shifts=shifts)
    weight = (distance < limit).to(part)[..., None]
    gap = goal[index][..., :3] - part[:, :3] - shifts[:, None]
    return shifts + (weight * gap).sum(1) / weight.sum(1).clamp_min(1)


@dataclass(frozen=True)
class GoalParts:
    """What has to move, found once at the start: rows [r 6] of hand and object, and their whole shifts [3]."""

    hand: Tensor | None
    hand_shift: Tensor
    moved_object: Tensor | None
    object_shift: Tensor
    step_per_action: Tensor
    """[3 3] metres that the hand goes in one step under a full action along each axis of the actions."""


@torch.no_grad()
def compare_goal(model: MovesAnchors, state: State, *, goal: Gaussians, config: GoalConfig = GoalConfig()) -> GoalParts:
    """Which Gaussians of a state's memory [] have to go where for the memory to look as `goal` [m].

    What left its place is found by place and colour; what of it follows the hand is the robot, the largest cluster of
    the rest that is found again elsewhere in the goal is the object to be moved.
    """
    memory = model.anchored(state).gaussians
    solid = goal.replace(extras={}).pick((goal.opacities > 0.3) & (goal.ids >= 0))
    now, then = features_of(memory, config=config), features_of(solid, config=config)
    response, hand_at = hand_response(model, state), hand_position(state.proprio, state.robot)
    robot = response.follows
    near = (memory.means - hand_at).norm(dim=-1) < config.hand_radius
    left = unmatched(now, then, limit=config.same) & (memory.opacities > 0.3)
    came = then[unmatched(then, now, limit=config.same)]
    zero = hand_at.new_zeros(3)
    hand, hand_shift = now[robot & near], zero
    if len(hand) and len(came):
        hand_shift, _ = register(hand, then, places=came[:, :3], config=config)
        came = came[unmatched(came, now[robot] + pad(hand_shift, (0, 3)), limit=config.same)]
    moved_object, object_shift = None, zero
    arm = memory.means[:, 2] > hand_at[2] + 0.1  # higher than the hand by more than a hand
    for cluster in clusters(memory.means, left & ~robot & ~arm, config=config):
        if not len(came):
            break
        shift, share = register(now[cluster], came, places=came[:, :3], config=config)
        if share > 0.4 and float(shift.norm()) > config.least_shift:
            moved_object, object_shift = now[cluster], shift
            break
    return GoalParts(hand if len(hand) else None, hand_shift, moved_object, object_shift, response.step_per_action)


def clusters(points: Tensor, chosen: Tensor, *, config: GoalConfig) -> list[Tensor]:
    """Rows [r] of each cluster of the chosen points [n 3] with enough of them, the largest first."""
    left, found = chosen.nonzero()[:, 0], []
    while len(left) >= config.min_rows:
        grown = torch.zeros_like(left, dtype=torch.bool)
        grown[0] = True
        while True:
            gap = torch.cdist(points[left], points[left[grown]]).amin(1)
            wider = gap < config.cluster
            if int(wider.sum()) == int(grown.sum()):
                break
            grown = wider
        if int(grown.sum()) >= config.min_rows:
            found.append(left[grown])
        left = left[~grown]
    return sorted(found, key=len, reverse=True)
