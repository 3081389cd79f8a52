"""Which bodies are the robot: the one that carries the hand, and what hangs on it and has moved ever since it did."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.geometry.neighbours import nearest
from scene4d.objects.rigid_bodies import Body
from scene4d.objects.tracks import Tracks, colour_feature


@dataclass(frozen=True)
class RobotConfig:
    """How the robot is told from what it carries."""

    hand_radius: float = 0.1
    """Distance in m from the hand within which its own surface is found."""
    follow: float = 0.02
    """Distance in m, root mean square, by which the hand may leave a place in its own body."""
    reach: float = 0.04
    """Gap in m across which parts hang together."""
    first_path: float = 0.04
    """Metres of the hand's path in which all of the robot begins to move; what it carries rests until it is reached."""
    least_start: float = 0.002
    """Metres that a part has moved by then."""
    colour: float = 0.15
    """Difference of colour up to which a part that came into view later is of the robot's colours."""
    num_alike: int = 16
    """Rows of the robot that have that colour at least."""


def robot_bodies(tracks: Tracks, bodies: list[Body], *, hand: Tensor, config: RobotConfig) -> list[bool]:
    """Which of the bodies, with all their rows, are the robot, given the hand's place [t 3] m at the tracks' times."""
    started = _started(hand, path=config.first_path)
    carries = [_carries_hand(tracks, body, hand=hand, config=config) for body in bodies]
    # What is gripped carries the hand as well, but the robot's own surface moved from the start on.
    early = [_moved_at_start(tracks, body, started=started, config=config) for body in bodies]
    first = [mark and moved is True for mark, moved in zip(carries, early, strict=True)]
    robot = first if any(first) else carries
    while any(robot):
        own = torch.cat([body.rows for body, is_robot in zip(bodies, robot, strict=True) if is_robot])
        added = [
            not is_robot
            and _touches(tracks, body.rows, other=own, reach=config.reach)
            and _moves_from_start(tracks, body, own=own, started=started, config=config)
            for body, is_robot in zip(bodies, robot, strict=True)
        ]
        if not any(added):
            break
        robot = [a or b for a, b in zip(robot, added, strict=True)]
    return robot


def _started(hand: Tensor, *, path: float) -> int:
    """The instant at which the hand has gone `path` m; the last one if it never does."""
    gone = (hand.diff(dim=0).norm(dim=-1).cumsum(0) >= path).nonzero()[:, 0]
    return int(gone[0]) + 1 if len(gone) else len(hand) - 1


def _carries_hand(tracks: Tracks, body: Body, *, hand: Tensor, config: RobotConfig) -> bool:
    """Whether the hand stays where it is in a body that it is near to, from the start on."""
    near, there = [], []
    for t in range(len(tracks.times)):
        rows = body.rows[tracks.valid[t, body.rows]]
        there.append(len(rows) >= 3)
        near.append(
            len(rows) > 0 and float((tracks.positions[t, rows] - hand[t]).norm(dim=-1).min()) < config.hand_radius
        )
    known = torch.tensor(there)
    if sum(near) < 0.5 * max(1, sum(there)) or int(known.sum()) < 0.5 * len(tracks.times):
        return False
    local = ((hand - body.shift)[:, None] @ body.turn)[known, 0]
    return float((local - local.mean(0)).square().sum(-1).mean().sqrt()) < config.follow


def _touches(tracks: Tracks, rows: Tensor, *, other: Tensor, reach: float) -> bool:
    """Whether rows hang together with others in most of the instants at which there are both."""
    touching = []
    for t in range(len(tracks.times)):
        a, b = rows[tracks.valid[t, rows]], other[tracks.valid[t, other]]
        if len(a) and len(b):
            distance, _ = nearest(tracks.positions[t, b], tracks.positions[t, a], num=1)
            touching.append(float(distance.min()) < reach)
    return bool(touching) and sum(touching) > 0.5 * len(touching)


def _moved_at_start(tracks: Tracks, body: Body, *, started: int, config: RobotConfig) -> bool | None:
    """Whether a body moved as soon as the hand did; None where it was not in view then."""
    early = body.rows[tracks.valid[0, body.rows] & tracks.valid[started, body.rows]]
    if len(early) < 3:
        return None
    gone = (tracks.positions[started, early] - tracks.positions[0, early]).norm(dim=-1)
    return float(gone.median()) > config.least_start


def _moves_from_start(tracks: Tracks, body: Body, *, own: Tensor, started: int, config: RobotConfig) -> bool:
    """Whether a body moved as soon as the hand did; where it was not in view, whether it has the robot's colours."""
    moved = _moved_at_start(tracks, body, started=started, config=config)
    if moved is not None:
        return moved
    # A few rows of what is carried may count as robot already: several of its rows have to be alike.
    num = max(1, min(config.num_alike, len(own) // 10))
    distance, _ = nearest(colour_feature(tracks.colours[own]), colour_feature(tracks.colours[body.rows]), num=num)
    return float((distance[:, -1] < config.colour).double().mean()) > 0.6
