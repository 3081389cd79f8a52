"""Anchor poses and skin weights to where Gaussians and points come to be: the one place of linear blend skinning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scene4d.geometry.rotation import matrix_from_quat, multiply_quat, normalize_quat, rotate
from scene4d.geometry.sh import rotate_sh
from scene4d.types import Gaussians

DIRECTION_EXTRAS = ("normals",)
"""Extras of Gaussians that are directions in the world, and turn with them."""


def skinned_gaussians(
    rest: Gaussians, poses: Tensor, *, skin_index: Tensor, skin_weights: Tensor, turn: bool = True
) -> Gaussians:
    """Gaussians [*b n] carried by the rigid motions [*b m 7] of their anchors, world-from-rest.

    Rows whose weights are all 0 come back bit-equal; weights that sum to less than 1 keep the rest still.

    Args:
        skin_index, skin_weights: [*b n j] anchors of each row and their weights. turn: turn what has a direction too
            (quats, SH, normals); without it only the means are right.
    Returns:
        The same rows and ids. Differentiable in poses, weights and Gaussians.
    """
    num_anchors, num_skin = poses.shape[-2], skin_index.shape[-1]
    if num_anchors == 0 or num_skin == 0:
        return rest
    weights = skin_weights.reshape(-1, num_skin)
    rows = (weights != 0).any(-1).nonzero().squeeze(-1)  # moving ones, of all batch elements
    if len(rows) == 0:
        return rest
    dtype = rest.means.dtype
    poses = poses.reshape(-1, 7).to(dtype)
    element = rows.div(rest.num_gaussians, rounding_mode="floor")
    index = skin_index.reshape(-1, num_skin)[rows] + (element * num_anchors)[:, None]
    weights = weights[rows].to(dtype)
    means = rest.means.reshape(-1, 3)[rows]
    means = skinned_points(poses, means, index=index, weights=weights)
    changes: dict[str, Any] = {"means": _put(rest.means, rows, values=means)}
    if turn:
        quats = blended_quats(poses[:, :4], index=index, weights=weights)  # [r 4]
        changes["quats"] = _put(rest.quats, rows, values=multiply_quat(quats, rest.quats.reshape(-1, 4)[rows]))
        if rest.sh.shape[-2] > 1:
            sh = rest.sh.reshape(-1, *rest.sh.shape[-2:])[rows]
            changes["sh"] = _put(rest.sh, rows, values=rotate_sh(sh, quats.to(sh.dtype)))
        turned = lambda v: _put(v, rows, values=rotate(quats.to(v.dtype), v.reshape(-1, 3)[rows]))
        changes["extras"] = {k: turned(v) if k in DIRECTION_EXTRAS else v for k, v in rest.extras.items()}
    return rest.replace(**changes)


def _put(field: Tensor, rows: Tensor, *, values: Tensor) -> Tensor:
    """`field` [*b n ...] with flat rows replaced, the others bit-equal."""
    flat = field.reshape(-1, *values.shape[1:])
    return flat.index_copy(0, rows, values.to(field.dtype)).reshape(field.shape)


def skinned_points(poses: Tensor, points: Tensor, *, index: Tensor, weights: Tensor) -> Tensor:
    """Points [r 3] moved by the blend of poses [m 7] that index and weights [r j] name: x + sum w (T(x) - x)."""
    change = matrix_from_quat(poses[:, :4]) - torch.eye(3, dtype=poses.dtype, device=poses.device)
    table = torch.cat([change.transpose(1, 2).flatten(1), poses[:, 4:]], 1)  # [m 12], columns first
    blend = torch.nn.functional.embedding_bag(index, table, mode="sum", per_sample_weights=weights)  # [r 12]
    x, y, z = points.split(1, 1)
    # Summed column by column: reductions over an axis of 3 cost ten times as much.
    return points + (blend[:, 0:3] * x + blend[:, 3:6] * y + blend[:, 6:9] * z + blend[:, 9:12])


def blended_quats(quats: Tensor, *, index: Tensor, weights: Tensor) -> Tensor:
    """Normalised weighted sums [r 4] of quats [m 4], signs aligned to the heaviest; missing weight is identity."""
    quats = torch.where(quats[:, :1] < 0, -quats, quats)
    still = 1 - weights.sum(1)
    # Turns of less than a quarter all lie within one half of the quaternion sphere once w >= 0: nothing to align.
    if bool((quats[:, 0] < 0.7072).any()):
        chosen = quats.index_select(0, index.flatten()).unflatten(0, index.shape)  # [r j 4]
        slot = weights.argmax(1)[:, None, None].expand(-1, 1, 4)
        a, b = chosen.unbind(-1), chosen.gather(1, slot).unbind(-1)
        cosine = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]  # [r j]
        weights = torch.where(cosine < 0, -weights, weights)
    blended = torch.nn.functional.embedding_bag(index, quats, mode="sum", per_sample_weights=weights)
    real = blended[:, :1] + still[:, None]
    return normalize_quat(torch.cat([real, blended[:, 1:]], 1))


def gather_anchors(values: Tensor, skin_index: Tensor) -> Tensor:
    """Values [*b l c] of each row's candidates: [*b n j c]."""
    flat = skin_index.flatten(-2)[..., None].expand(*skin_index.shape[:-2], -1, values.shape[-1])
    return values.gather(-2, flat).unflatten(-2, tuple(skin_index.shape[-2:]))


def skinned_displacement(rows: Tensor, poses: Tensor, *, skin_index: Tensor, skin_weights: Tensor) -> Tensor:
    """Displacement [*b h n 3] m of rows [*b n 3] under anchor poses [*b h l 7] since now.

    The motion of a row is the weighted sum of its anchors' affine maps less the identity: one product with a dense
    weight matrix does all rows and steps.
    """
    num_steps, num_anchors = poses.shape[-3:-1]
    dense = skin_weights.new_zeros(*skin_weights.shape[:-1], num_anchors).scatter_add(-1, skin_index, skin_weights)
    turn = matrix_from_quat(poses[..., :4]) - torch.eye(3, dtype=poses.dtype, device=poses.device)
    table = torch.cat([turn.flatten(-2), poses[..., 4:]], -1).transpose(-3, -2)  # [*b l h 12]
    blend = (dense @ table.flatten(-2)).unflatten(-1, (num_steps, 12))  # [*b n h 12]
    turned = (blend[..., :9].unflatten(-1, (3, 3)) * rows[..., :, None, None, :]).sum(-1)  # [*b n h 3]
    return (turned + blend[..., 9:]).transpose(-3, -2)


def skinned_variance(
    rows: Tensor, anchors: Tensor, *, log_var: Tensor, skin_index: Tensor, skin_weights: Tensor
) -> Tensor:
    """Variance [*b n 3] m^2 of where rows [*b n 3] come to be, along x, y and z, from log_var [*b l 6] of anchors.

    An anchor's turn moves a row by its arm, its shift as it is. A row's anchors are of one body and err together,
    so variances are averaged by the weights [*b n j]; a row that follows none has variance 0.
    """
    turn, shift = gather_anchors(log_var.exp(), skin_index).split(3, -1)  # [*b n j 3]
    arm = (rows[..., None, :] - gather_anchors(anchors, skin_index)).square()  # [*b n j 3]
    swung = turn.roll(1, -1) * arm.roll(-1, -1) + turn.roll(-1, -1) * arm.roll(1, -1)
    return (skin_weights[..., None] * (shift + swung)).sum(-2)
