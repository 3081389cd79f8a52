"""What a plan is judged by: predicted points against where they belong, predicted images against a goal, success."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.render.render import render
from scene4d.robot.angles import unwrapped
from scene4d.robot.slots import beside_hand_index, hand_position
from scene4d.types import Frames
from scene4d.world.capabilities import MovesAnchors
from scene4d.world.contract import Prediction, State


@dataclass(frozen=True)
class MovingObject:
    """Rows [r] of a memory that move as one, and by how much they still have to: shift [3] m.

    model: predicts how they move.
    """

    model: MovesAnchors
    rows: Tensor
    shift: Tensor

    def displacement(self, state: State, prediction: Prediction) -> Tensor:
        """Predicted displacement [n h r 3] of the rows since a state [], in n futures."""
        poses = self.model.anchor_motion(prediction).world_from_now
        return self.model.anchored(state).displacement(poses, rows=self.rows)


@dataclass(frozen=True)
class Approach:
    """How a hand comes to a point of contact: from above."""

    clearance: float = 0.12
    """Metres above the contact point while the hand is beside it."""
    slope: float = 15.0
    """Metres of height a metre of sideways distance asks for, up to the clearance."""
    radius: float = 0.006
    """Metres sideways within which the hand may go down all the way."""
    behind: float = 0.01
    """Metres behind the contact point, along the object's path, to which the hand comes: at the point it touches."""
    at_place: float = 0.012
    """Metres from there within which the hand has come."""
    lost: float = 0.04
    """Metres from its place on the object at which a hand that had come has to come anew."""


@dataclass(frozen=True)
class PointCost:
    """Distance in m of the hand and the object from where a goal scene has them.

    The object is to be where the goal has it. The hand is to be, in the frame of the object, where the goal has it: as
    long as the object has to move, the hand's place is at the object as it stands now, then it goes along. A model
    readily predicts that objects follow a hand that passes by or leaves them, so their motion is believed only in
    steps in which the hand is at its place on them. Without an object only the hand's own place counts. The mean over
    the steps counts beside the last step, so that of two plans the quicker one wins.
    """

    hand: Tensor | None
    """How far the hand still has to go [3], m; where it will be is the model's prediction of the robot's state."""
    moving: MovingObject | None = None
    """What the hand has to move; None = nothing."""
    approach: Approach | None = None
    """How the hand comes to the object; None = straight."""
    grip: Tensor | None = None
    """The robot's state behind the hand's place [q-3] (opening of the gripper, m) that is to be kept."""
    hand_weight: float = 1.0
    """Weight of the hand's distance."""
    object_weight: float = 3.0
    """Weight of the object's distance."""
    grip_weight: float = 0.3
    """Weight of a change of the grip."""
    touch: float = 0.01
    """Metres beside its place on the object at which the hand makes a step of the object believed by 60 %."""
    lag: float = 0.03
    """The same for metres ahead of its place or behind it, along the object's path."""

    def __call__(self, state: State, prediction: Prediction) -> Tensor:
        """Costs [n] of n futures of a state []."""
        num, steps = prediction.actions.shape[:2]
        cost, left = prediction.actions.new_zeros(num, steps), prediction.actions.new_zeros(3)
        hand = None  # [n h 3] how far beyond its place in the goal
        if self.hand is not None:
            moved = hand_position(prediction.robot_states, state.robot) - hand_position(state.proprio, state.robot)
            hand = moved - self.hand
        if self.moving is not None:
            moved = self.moving.displacement(state, prediction).mean(-2)  # [n h 3]
            believed = moved if hand is None else self._believed(moved, hand, object_shift=self.moving.shift)
            left = self.moving.shift - believed  # [n h 3]
            # Bad news is always believed: an object that is pushed away, or too far.
            apart = torch.maximum(left.norm(dim=-1), (self.moving.shift - moved).norm(dim=-1))
            cost = cost + self.object_weight * apart
        if hand is not None:
            # Axis by axis: a centimetre beside the place counts in full even while the hand is still far above it.
            cost = cost + self.hand_weight * self._path_length(hand + left + self._behind(like=left))
        if self.grip is not None:
            cost = cost + self.grip_weight * self._grip_change(state, prediction, grip=self.grip).norm(dim=-1)
        return 0.5 * cost.mean(-1) + 0.5 * cost[:, -1]

    def _grip_change(self, state: State, prediction: Prediction, *, grip: Tensor) -> Tensor:
        """How far [n h q-3] the robot's state behind the hand's place is from `grip`; an angle that wraps is near."""
        beside, kept = beside_hand_index(state.robot), state.proprio.clone()
        kept[beside] = grip
        start = kept.expand(len(prediction.actions), -1)
        return unwrapped(prediction.robot_states, state.robot.proprio, start=start)[..., beside] - grip

    def next_hand_shift(self) -> Tensor:
        """How the hand moves next [3]: to its place on the object as it is now, or above that while it is beside it.

        Raises:
            ConfigError: the hand has no place to go to.
        """
        if self.hand is None:
            raise ConfigError("has no place for the hand", field="hand")
        left = self.hand.new_zeros(3) if self.moving is None else self.moving.shift
        away = left - self.hand + self._behind(like=self.hand)
        return -torch.stack([away[0], away[1], away[2] - self._lift(away)])

    def _believed(self, moved: Tensor, hand: Tensor, *, object_shift: Tensor) -> Tensor:
        """The part [n h 3] of the object's predicted motion [n h 3] in which the hand [n h 3] is at its place on it."""
        away = hand + object_shift - moved
        along = _direction(object_shift)
        ahead = (away @ along)[..., None] * along
        misfit = (ahead / self.lag).square() + ((away - ahead) / self.touch).square()
        touching = torch.exp(-0.5 * misfit.sum(-1, keepdim=True))
        return (touching * moved.diff(dim=1, prepend=torch.zeros_like(moved[:, :1]))).cumsum(1)

    def _behind(self, *, like: Tensor) -> Tensor:
        """How far [3] behind its place on the object a hand that still comes stops."""
        if self.approach is None or self.moving is None:
            return like.new_zeros(3)
        return self.approach.behind * _direction(self.moving.shift)

    def _path_length(self, away: Tensor) -> Tensor:
        """Length [*b] of the path to a place from `away` [*b 3] of it: across to above it, then down."""
        lift = self._lift(away)
        return away[..., :2].abs().sum(-1) + (away[..., 2] - lift).abs() + lift

    def _lift(self, away: Tensor) -> Tensor:
        """Metres above a place at which the hand is to be while it is `away` [*b 3] of it: [*b]."""
        approach = self.approach
        if approach is None:
            return torch.zeros_like(away[..., 0])
        beside = away[..., :2].norm(dim=-1)
        return (approach.slope * (beside - approach.radius)).clamp(0, approach.clearance)


def _direction(shift: Tensor) -> Tensor:
    return shift / shift.norm().clamp_min(1e-6)


@dataclass(frozen=True)
class ImageCost:
    """Mean difference of predicted images from a goal's, at several resolutions so that there is a slope from afar.

    model: makes the predictions. goal: Frames [v] with the cameras to render from; its depth, where it has one, counts
    too.
    """

    model: MovesAnchors
    goal: Frames
    """What the cameras shall see at the end."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour behind everything."""
    depth_weight: float = 2.0
    """Weight of a metre of difference in depth against a full difference in colour."""
    scales: tuple[int, ...] = (1, 4, 8)
    """Pixels that are averaged before images are compared."""

    def __call__(self, state: State, prediction: Prediction) -> Tensor:
        """Costs [n] of n futures of a state []."""
        num = len(prediction.actions)
        anchored = self.model.anchored(state)
        anchored = anchored.replace(gaussians=anchored.gaussians.replace(extras={}))
        poses = self.model.anchor_motion(prediction).world_from_now[:, -1]
        last = anchored.map(lambda x: x.expand(num, *x.shape)).moved(poses)
        cameras = self.goal.cameras.map(lambda x: x.expand(num, *x.shape))
        frames = render(last, cameras, background=poses.new_tensor(self.background))
        apart = (frames.rgb.clamp(0, 1) - self.goal.rgb).mean(-1)  # [n v h w], signed: averaging must not lose the sign
        total = self._difference(apart)
        if self.goal.depth is not None:
            goal, depth = self.goal.depth, frames.known_depth
            both = torch.where((goal > 0) & (depth > 0), depth - goal, 0.0)
            total = total + self._difference(self.depth_weight * both)
        return total / len(self.scales)

    def _difference(self, apart: Tensor) -> Tensor:
        pooled = [apart if s == 1 else F.avg_pool2d(apart, s, ceil_mode=True) for s in self.scales]
        return functools.reduce(operator.add, (x.abs().mean((1, 2, 3)) for x in pooled))


@dataclass(frozen=True)
class SuccessCost:
    """One minus the greatest probability of success within the horizon, as the model predicts it."""

    def __call__(self, state: State, prediction: Prediction) -> Tensor:
        """Costs [n] of n futures.

        Raises:
            ConfigError: the model does not predict success.
        """
        if prediction.success is None:
            raise ConfigError("is not predicted by this world model", field="success", fix="plan towards a goal scene")
        return 1 - prediction.success.amax(-1)
