"""Which body every row belongs to: by motion, and where motion leaves it open, by place in the body and by colour."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.neighbours import nearest
from scene4d.objects.rigid_bodies import Body, RigidConfig, parts_of
from scene4d.objects.rigid_motion import body_shape
from scene4d.objects.tracks import Tracks, colour_feature

MOST_OFF, MOST_FAR = 16.0, 25.0
"""Caps of the two terms of the cost, so that one bad number does not decide alone."""
MOST_COST = 12.0
"""Cost beyond which a row belongs to none of the bodies."""


def body_of_rows(tracks: Tracks, bodies: list[Body], *, moved: Tensor, tolerance: float, config: RigidConfig) -> Tensor:
    """[n] the body of each row: 0 what rests, 1.. the `bodies`, then further ones: moved rows that fit none.

    The cost of a body is how far the row is from following it, in tolerances, and how far from the body's nearest row
    of like colour, in reaches; both squared and capped. Rows that were at rest from the first instant on are not asked.
    """
    rest, asked = ~moved & _witnesses(tracks, moved), _asked(tracks, moved)
    label = torch.zeros(tracks.num_rows, dtype=torch.int64)
    if not bodies or len(asked) == 0:
        return label
    some = tracks.rows(asked)
    still = Body(
        torch.eye(3).double().expand(len(tracks.times), 3, 3),
        torch.zeros(len(tracks.times), 3).double(),
        rest.nonzero()[:, 0],
    )
    costs = [_cost(tracks, some, asked=asked, body=still, tolerance=tolerance, config=config)]
    costs += [_cost(tracks, some, asked=asked, body=body, tolerance=tolerance, config=config) for body in bodies]
    cost = torch.stack(costs)  # [g s]
    best, chosen = cost.min(0)
    label[asked] = chosen
    for number, body in enumerate(bodies, 1):
        label[body.rows] = number
    left = asked[(best > MOST_COST) & moved[asked]]
    left = left[~torch.isin(left, torch.cat([body.rows for body in bodies]))]
    place = torch.cat(
        [tracks.rows(left).last, colour_feature(tracks.colours[left]) * (config.reach / config.colour)], -1
    )
    part = parts_of(place, reach=config.reach)
    number = len(bodies)
    for name in part.unique():
        inside = part == name
        if int(inside.sum()) >= config.min_rows:
            number += 1
            label[left[inside]] = number
    return label


def _asked(tracks: Tracks, moved: Tensor) -> Tensor:
    """Rows [s] that moved, or that came later than the first instant and so may lie on what had moved before."""
    late = tracks.valid.any(0) & ~tracks.valid[0]
    return (moved | late).nonzero()[:, 0]


def _witnesses(tracks: Tracks, moved: Tensor) -> Tensor:
    """[n] rows that were there for half of all the motion: who rested then was at rest, who came later may only be."""
    places, there = tracks.positions[:, moved], tracks.valid[:, moved]
    step = places.diff(dim=0).norm(dim=-1) * (there[1:] & there[:-1])
    amount = step.sum(1)  # [t - 1] m that all rows together went
    both = (tracks.valid[1:] & tracks.valid[:-1]).double()
    return (amount[:, None] * both).sum(0) >= 0.5 * amount.sum()


def _cost(tracks: Tracks, some: Tracks, *, asked: Tensor, body: Body, tolerance: float, config: RigidConfig) -> Tensor:
    """[s] what it costs to call the rows `some`, which are the rows `asked` of the tracks, a part of the body."""
    place, off = body_shape(some.positions, some.valid, turn=body.turn, shift=body.shift)
    members = body.rows
    if len(members) == 0:
        return torch.full((len(asked),), MOST_OFF + MOST_FAR, dtype=torch.float64)
    own = tracks.rows(members)
    home, _ = body_shape(own.positions, own.valid, turn=body.turn, shift=body.shift)
    feature = lambda x, colours: torch.cat([x / config.reach, colour_feature(colours) / config.colour], -1)
    count = min(2, len(members))
    distance, index = nearest(feature(home, own.colours), feature(place, some.colours), num=count)
    itself = members[index] == asked[:, None]
    far = torch.where(itself, torch.inf, distance).amin(1)
    return (off / tolerance).square().clamp_max(MOST_OFF) + far.square().clamp_max(MOST_FAR)


def voted(tracks: Tracks, label: Tensor, *, config: RigidConfig, rounds: int = 2) -> Tensor:
    """Labels [n] in which rows take that of most of their nearest rows of like colour, where those are of one mind."""
    rows = tracks.valid.any(0).nonzero()[:, 0]
    if len(rows) < 9 or not bool(label.any()):
        return label
    some = tracks.rows(rows)
    # Rows that were last seen at different times are not near one another.
    steps = torch.arange(len(tracks.times))[:, None]
    late = torch.where(some.valid, steps, -1).amax(0).double()[:, None]
    feature = torch.cat([some.last / config.reach, some.colours / config.colour, late], -1)
    _, near = nearest(feature, feature, num=9)
    label = label.clone()
    for _ in range(rounds):
        around = label[rows][near[:, 1:]]  # [r 8]
        most = around.mode(1).values
        agree = (around == most[:, None]).sum(1) >= 6
        label[rows] = torch.where(agree, most, label[rows])
    return label
