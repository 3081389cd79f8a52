"""Rigid motion of point sets over time: fitted by least squares, and how far points are from following it."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_ROWS = 3
"""Points from which a rotation follows."""


def rigid_fit(start: Tensor, stop: Tensor, *, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The rotations [*b 3 3] and shifts [*b 3] that best take points `start` [*b r 3] to `stop` by weights [*b r] >= 0.

    Where fewer than three points count there is no turn; where none does, no motion.

    Source: Kabsch, A solution for the best rotation to relate two sets of vectors, 1976.
    """
    total = weights.sum(-1)
    share = weights / total.clamp_min(1e-12)[..., None]
    a, b = (share[..., None] * start).sum(-2), (share[..., None] * stop).sum(-2)  # [*b 3]
    spread = (share[..., None] * (start - a[..., None, :])).mT @ (stop - b[..., None, :])  # [*b 3 3]
    u, _, vt = torch.linalg.svd(spread)
    flip = torch.ones_like(a)
    flip[..., 2] = torch.linalg.det(u @ vt).sign()
    rotation = vt.mT @ (flip[..., None] * u.mT)
    few = (weights > 0).sum(-1) < LEAST_ROWS
    rotation = torch.where(few[..., None, None], torch.eye(3).to(rotation), rotation)
    shift = b - (rotation @ a[..., None])[..., 0]
    return rotation, torch.where((total > 0)[..., None], shift, 0.0)


def fit_motion(positions: Tensor, valid: Tensor, *, rounds: int = 2) -> tuple[Tensor, Tensor]:
    """The rigid motion of points [*b t r 3], valid [*b t r], as one body: world-from-body at each time.

    Found step by step from the points valid at both ends, then `rounds` times all at once: the shape is the mean of
    what the poses undo, the poses are those that lay the shape best onto each time. The body's axes are the world's at
    the first time.

    Returns:
        Rotations [*b t 3 3] and shifts [*b t 3].
    """
    both = (valid[..., 1:, :] & valid[..., :-1, :]).to(positions)
    step_turn, step_shift = rigid_fit(positions[..., :-1, :, :], positions[..., 1:, :, :], weights=both)
    turns = [torch.eye(3).to(positions).expand(*valid.shape[:-2], 3, 3)]
    shifts = [positions.new_zeros(*valid.shape[:-2], 3)]
    for t in range(step_turn.shape[-3]):
        turns.append(step_turn[..., t, :, :] @ turns[-1])
        shifts.append((step_turn[..., t, :, :] @ shifts[-1][..., None])[..., 0] + step_shift[..., t, :])
    turn, shift = torch.stack(turns, -3), torch.stack(shifts, -2)
    known = valid.sum(-1) >= LEAST_ROWS
    for _ in range(rounds):
        shape, _ = body_shape(positions, valid, turn=turn, shift=shift)
        better = rigid_fit(shape[..., None, :, :].expand_as(positions), positions, weights=valid.to(positions))
        turn = torch.where(known[..., None, None], better[0], turn)
        shift = torch.where(known[..., None], better[1], shift)
    return turn, shift


def body_shape(positions: Tensor, valid: Tensor, *, turn: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Points [*b t r 3] in the axes of a body that moves by turn [*b t 3 3], shift [*b t 3].

    Returns:
        Their mean place [*b r 3] there, over the times [*b t r] that are valid, and by how much they leave it: root
        mean square [*b r] in m. What follows the body does not leave it.
    """
    local = (positions - shift[..., None, :]) @ turn  # R^T (x - t)
    weight = valid.to(positions)[..., None]
    count = weight.sum(-3).clamp_min(1)
    mean = (weight * local).sum(-3) / count
    square = (weight * (local - mean[..., None, :, :]).square()).sum(-3) / count
    return mean, square.sum(-1).sqrt()
