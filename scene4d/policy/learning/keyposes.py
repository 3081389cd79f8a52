"""The keyposes of a demonstration: where its hand grips, lets go or turns next, read off the finished recording.

Source: keyposes (James and Davison, Q-attention, 2022), with corners of the path in place of standstills: the experts
of simulators never stand still.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRIP_CHANGE = 0.4
"""How much the wanted grip, in [-1, 1], differs where a hand opens or closes."""
CORNER_M = 0.04
"""How far a hand may stray from the straight line between two corners of its path."""


def keyposes_ahead(labels: Tensor, *, hand: Tensor) -> tuple[Tensor, Tensor]:
    """Where the grip changes next; where no change comes, the next corner of the hand's path.

    Args:
        labels: [t a] wanted actions, the last number of which is the grip. hand: [t 3] m, its place.
    Returns:
        That place at every time [t 3] m; and [t] whether the goal is not needed yet, because something is to be
        grasped first.
    """
    grip, times = labels[:, -1], torch.arange(len(labels))
    differs = (grip[None] - grip[:, None]).abs() > GRIP_CHANGE  # [t t]
    later = differs & (times > times[:, None])
    changes = later.any(1)
    change = later.long().argmax(1)
    turns = torch.tensor(corners(hand, tolerance=CORNER_M))
    turn = turns[torch.searchsorted(turns, times, right=True).clamp_max(len(turns) - 1)]
    return hand[torch.where(changes, change, turn)], changes & (grip[change] > grip)


def corners(path: Tensor, *, tolerance: float) -> list[int]:
    """Numbers of the points of a path [t 3], its ends among them, that it bends at.

    Straight lines through them stray from the path by `tolerance` (in its unit) at most.

    Source: Douglas and Peucker (1973).
    """
    kept, open_ends = {0, len(path) - 1}, [(0, len(path) - 1)]
    while open_ends:
        first, last = open_ends.pop()
        if last - first < 2:
            continue
        line, points = path[last] - path[first], path[first + 1 : last] - path[first]
        along = (points @ line / line.square().sum().clamp_min(1e-12)).clamp(0, 1)
        stray = (points - along[:, None] * line).norm(dim=-1)
        middle = first + 1 + int(stray.argmax())
        if stray.max() > tolerance:
            kept.add(middle)
            open_ends += [(first, middle), (middle, last)]
    return sorted(kept)
