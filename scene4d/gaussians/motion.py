"""Where the Gaussians of a moving scene are at a given second, and how far they went: skinning by anchors."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.rotation import interpolate_pose, matrix_from_quat, multiply_quat, normalize_quat, rotate
from scene4d.geometry.sh import rotate_sh
from scene4d.types import Gaussians, Scene4D

ALIVE_TOLERANCE = 1e-6
DIRECTION_EXTRAS = ("normals",)


def gaussians_at(scene: Scene4D, time: float | Tensor) -> Gaussians:
    """The Gaussians [*b n] of `scene` at `time` s (a number, or one a batch element [*b]).

    Anchor poses are interpolated between the two nearest times (held before the first and after the last); positions
    are the blend of the anchors' rigid motions by skin weights, weights that sum to less than 1 keep the rest still;
    quats, sh and extras["normals"] turn by the blended rotation. `residual` is interpolated and added to the rest
    state. Rows whose weights are all 0 come back bit-equal. Those not alive get opacity 0.

    Returns:
        Gaussians with the rows and ids of `scene.base`. Differentiable in everything but the times.
    """
    when = _when(scene, time)
    rest = _with_residual(scene, when)
    moved = _moved(scene, rest, when, turn=True)
    alive = alive_at(scene, time)
    return moved.replace(opacities=torch.where(alive, moved.opacities, torch.zeros_like(moved.opacities)))


def scene_flow(scene: Scene4D, start: float | Tensor, stop: float | Tensor) -> tuple[Tensor, Tensor]:
    """Displacement [*b n 3] in m from `start` to `stop` s, and where it is valid [*b n]: alive at both, no empty slot.

    Where it is not valid, and for static rows, the displacement is exactly 0.
    """
    places, alive = [], []
    for time in (start, stop):
        when = _when(scene, time)
        rest = _with_residual(scene, when)
        places.append(_moved(scene, rest, when, turn=False).means)
        alive.append(alive_at(scene, time))
    valid = alive[0] & alive[1] & (scene.base.ids >= 0)
    flow = places[1] - places[0]
    return torch.where(valid[..., None], flow, torch.zeros_like(flow)), valid


def _when(scene: Scene4D, time: float | Tensor) -> Tensor:
    """`time` as one float64 a batch element, flattened [b]."""
    time = torch.as_tensor(time, dtype=torch.float64, device=scene.times.device)
    return time.expand(scene.batch_shape).reshape(-1)


def alive_at(scene: Scene4D, time: float | Tensor) -> Tensor:
    """[*b n] whether each Gaussian exists at `time` s.

    Times are compared in the precision that `alive` has: 0.1 is not before a float32 0.1.
    """
    alive = scene.alive
    time = _when(scene, time).to(alive.dtype).reshape(*scene.batch_shape, 1)
    return (time >= alive[..., 0] - ALIVE_TOLERANCE) & (time <= alive[..., 1] + ALIVE_TOLERANCE)


def _bracket(scene: Scene4D, when: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two frames round `when` [b] and the weight of the later one."""
    times = scene.times.reshape(-1, scene.times.shape[-1]).to(torch.float64)
    num_times = times.shape[-1]
    after = torch.searchsorted(times.contiguous(), when[:, None].contiguous())[:, 0]
    late = after.clamp(min(1, num_times - 1), num_times - 1)
    early = (late - 1).clamp_min(0)
    rows = torch.arange(len(when), device=times.device)
    span = times[rows, late] - times[rows, early]
    weight = torch.where(span > 0, (when - times[rows, early]) / span.clamp_min(1e-12), torch.zeros_like(span))
    return early, late, weight.clamp(0, 1)


def _between(values: Tensor, bracket: tuple[Tensor, Tensor, Tensor], num_batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values [*b t ...] at the two frames, [b ...] each, and the weight shaped to multiply them."""
    early, late, weight = bracket
    axis = num_batch
    flat = values.reshape(-1, *values.shape[axis:])
    rows = torch.arange(len(early), device=values.device)
    weight = weight.to(values.dtype).reshape(-1, *[1] * (flat.ndim - 2))
    return flat[rows, early], flat[rows, late], weight


def _with_residual(scene: Scene4D, when: Tensor) -> Gaussians:
    base = scene.base
    if not scene.residual:
        return base
    bracket = _bracket(scene, when)
    changes, extras = {}, dict(base.extras)
    for name, values in scene.residual.items():
        a, b, weight = _between(values, bracket, len(scene.batch_shape))
        added = (1 - weight) * a + weight * b  # [b n c]
        if name in extras:
            extras[name] = extras[name] + added.reshape(extras[name].shape).to(extras[name].dtype)
            continue
        field = getattr(base, name)
        field = field + added.reshape(field.shape).to(field.dtype)
        match name:
            case "quats":
                field = normalize_quat(field)
            case "scales":
                field = field.clamp_min(1e-9)
            case "opacities":
                field = field.clamp(0, 1)
        changes[name] = field
    return base.replace(extras=extras, **changes)


def _moved(scene: Scene4D, rest: Gaussians, when: Tensor, *, turn: bool) -> Gaussians:
    """`rest` carried by the anchors; with `turn`, what has a direction turns too (else only the means are right)."""
    motion, num_batch = scene.motion, len(scene.batch_shape)
    num_anchors, num_skin = motion.anchors.shape[-2], motion.skin_index.shape[-1]
    if num_anchors == 0 or num_skin == 0 or scene.times.shape[-1] == 0:
        return rest
    weights = motion.skin_weights.reshape(-1, num_skin)
    rows = (weights != 0).any(-1).nonzero().squeeze(-1)  # moving ones, of all batch elements
    if len(rows) == 0:
        return rest
    dtype = rest.means.dtype
    a, b, weight = _between(motion.world_from_rest, _bracket(scene, when), num_batch)  # [b m 7]
    about = motion.anchors.reshape(-1, num_anchors, 3).to(a.dtype)
    poses = interpolate_pose(a, b, weight.squeeze(-1), about=about).reshape(-1, 7).to(dtype)
    element = rows.div(rest.num_gaussians, rounding_mode="floor")
    index = motion.skin_index.reshape(-1, num_skin)[rows] + (element * num_anchors)[:, None]
    weights = weights[rows].to(dtype)

    means = rest.means.reshape(-1, 3)
    changes = {"means": _put(rest.means, rows, _skinned(poses, index, weights, means[rows]))}
    if turn:
        quats = _blended_quats(poses[:, :4], index, weights)  # [r 4]
        changes["quats"] = _put(rest.quats, rows, multiply_quat(quats, rest.quats.reshape(-1, 4)[rows]))
        if rest.sh.shape[-2] > 1:
            sh = rest.sh.reshape(-1, *rest.sh.shape[-2:])[rows]
            changes["sh"] = _put(rest.sh, rows, rotate_sh(sh, quats.to(sh.dtype)))
        directions = {k: v for k, v in rest.extras.items() if k in DIRECTION_EXTRAS}
        turned = {k: _put(v, rows, rotate(quats.to(v.dtype), v.reshape(-1, 3)[rows])) for k, v in directions.items()}
        changes["extras"] = {**rest.extras, **turned}
    return rest.replace(**changes)


def _put(field: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """`field` [*b n ...] with flat rows replaced, the others bit-equal."""
    flat = field.reshape(-1, *values.shape[1:])
    return flat.index_copy(0, rows, values.to(field.dtype)).reshape(field.shape)


def _skinned(poses: Tensor, index: Tensor, weights: Tensor, points: Tensor) -> Tensor:
    """Points [r 3] moved by the blend of poses [m 7] that index and weights [r j] name: x + sum w (T(x) - x)."""
    change = matrix_from_quat(poses[:, :4]) - torch.eye(3, dtype=poses.dtype, device=poses.device)
    table = torch.cat([change.transpose(1, 2).flatten(1), poses[:, 4:]], 1)  # [m 12], columns first
    blend = torch.nn.functional.embedding_bag(index, table, mode="sum", per_sample_weights=weights)  # [r 12]
    x, y, z = points.split(1, 1)
    # Summed column by column: reductions over an axis of 3 cost ten times as much.
    return points + (blend[:, 0:3] * x + blend[:, 3:6] * y + blend[:, 6:9] * z + blend[:, 9:12])


def _blended_quats(quats: Tensor, index: Tensor, weights: Tensor) -> Tensor:
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
