"""Quaternions (w x y z) and rigid poses [..., 7] = (quaternion, translation), differentiable, any batch axes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def normalize_quat(quats: Tensor) -> Tensor:
    """Unit quaternions [..., 4]; a zero quaternion becomes the identity."""
    norm = quats.norm(dim=-1, keepdim=True)
    identity = quats.new_tensor([1.0, 0.0, 0.0, 0.0])
    return torch.where(norm > 1e-12, quats / norm.clamp_min(1e-12), identity)


def matrix_from_quat(quats: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4]."""
    w, x, y, z = quats.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrices_from_xyzw(quats: np.ndarray) -> np.ndarray:
    """Rotation matrices [... 3 3] of quaternions [... 4] as recordings hold them: x y z w, of any length but 0."""
    return matrix_from_quat(normalize_quat(torch.from_numpy(np.roll(quats, 1, axis=-1)).double())).numpy()


def matrices_from_rotvecs(rotvecs: np.ndarray) -> np.ndarray:
    """Rotation matrices [... 3 3] of rotation vectors [... 3] (axis times angle in rad)."""
    return matrix_from_quat(quat_from_rotvec(torch.from_numpy(rotvecs).double())).numpy()


def quat_from_matrix(matrices: Tensor) -> Tensor:
    """Unit quaternions [..., 4] with w >= 0 of rotation matrices [..., 3, 3].

    Takes, of the four algebraically equal forms, the one with the largest pivot, so it is stable for every angle.
    """
    m = matrices
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    diag = torch.stack([trace, m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], -1)
    pivot = (1 + 2 * diag - trace[..., None]).clamp_min(1e-12)
    pivot = torch.where(torch.arange(4, device=m.device) == 0, (1 + trace[..., None]).clamp_min(1e-12), pivot)
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    w, x, y, z = pivot.unbind(-1)
    forms = torch.stack([w, a, b, c, a, x, d, e, b, d, y, f, c, e, f, z], -1).unflatten(-1, (4, 4))
    best = pivot.argmax(-1)[..., None, None].expand(*pivot.shape[:-1], 1, 4)
    quats = normalize_quat(forms.gather(-2, best).squeeze(-2))
    return torch.where(quats[..., :1] < 0, -quats, quats)


def multiply_quat(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product: the rotation b, then a."""
    w1, x1, y1, z1 = a.unbind(-1)
    w2, x2, y2, z2 = b.unbind(-1)
    w = w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2
    x = w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2
    y = w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2
    z = w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2
    return torch.stack([w, x, y, z], -1)


def invert_quat(quats: Tensor) -> Tensor:
    """The inverse rotation of unit quaternions [..., 4]."""
    return quats * quats.new_tensor([1.0, -1.0, -1.0, -1.0])


def rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    """Rotate vectors [..., 3] by unit quaternions [..., 4]."""
    q, v = torch.broadcast_tensors(quats[..., 1:], vectors)  # torch.broadcast_shapes would load sympy first
    t = 2 * torch.linalg.cross(q, v)
    return v + quats[..., :1] * t + torch.linalg.cross(q, t)


def quat_from_rotvec(rotvec: Tensor) -> Tensor:
    """Unit quaternions [..., 4] of rotation vectors [..., 3] (axis times angle in rad)."""
    square = (rotvec * rotvec).sum(-1, keepdim=True)
    small = square < 1e-8
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    half_sinc = torch.where(small, 0.5 - square / 48, (0.5 * angle).sin() / angle)
    w = torch.where(small, 1 - square / 8, (0.5 * angle).cos())
    return torch.cat([w, half_sinc * rotvec], -1)


def rotvec_from_quat(quats: Tensor) -> Tensor:
    """Rotation vectors [..., 3] with angle in [0, pi] of unit quaternions [..., 4]."""
    quats = torch.where(quats[..., :1] < 0, -quats, quats)
    square = (quats[..., 1:] ** 2).sum(-1, keepdim=True)
    small = square < 1e-12
    sine = torch.where(small, torch.ones_like(square), square).sqrt()
    factor = torch.where(small, 2 / quats[..., :1].clamp_min(0.5), 2 * torch.atan2(sine, quats[..., :1]) / sine)
    return factor * quats[..., 1:]


def slerp(a: Tensor, b: Tensor, *, weight: Tensor) -> Tensor:
    """Unit quaternions [..., 4] on the shorter arc from `a` (weight 0) to `b` (weight 1); weight [...]."""
    weight = weight[..., None]
    cosine = (a * b).sum(-1, keepdim=True)
    b = torch.where(cosine < 0, -b, b)
    cosine = cosine.abs()
    # Close together the chord is the arc to rounding, and acos has no usable gradient.
    near = cosine > 0.9995
    angle = torch.acos(torch.where(near, torch.full_like(cosine, 0.5), cosine))
    from_a = torch.where(near, 1 - weight, ((1 - weight) * angle).sin() / angle.sin())
    from_b = torch.where(near, weight, (weight * angle).sin() / angle.sin())
    return normalize_quat(from_a * a + from_b * b)


def identity_pose(*shape: int, like: Tensor) -> Tensor:
    """Identity poses [*shape, 7] of the dtype and device of `like`."""
    return like.new_tensor([1.0, 0, 0, 0, 0, 0, 0]).expand(*shape, 7)


def apply_pose(poses: Tensor, points: Tensor) -> Tensor:
    """Points [..., 3] moved by poses [..., 7]."""
    return rotate(poses[..., :4], points) + poses[..., 4:]


def compose_pose(a: Tensor, b: Tensor) -> Tensor:
    """The pose that applies b, then a: a_from_c = compose(a_from_b, b_from_c)."""
    return torch.cat([multiply_quat(a[..., :4], b[..., :4]), apply_pose(a, b[..., 4:])], -1)


def invert_pose(poses: Tensor) -> Tensor:
    """b_from_a of a_from_b."""
    inverse = invert_quat(poses[..., :4])
    return torch.cat([inverse, -rotate(inverse, poses[..., 4:])], -1)


def pose_from_matrix(matrices: Tensor) -> Tensor:
    """Poses [..., 7] of rigid matrices [..., 4, 4]."""
    return torch.cat([quat_from_matrix(matrices[..., :3, :3]), matrices[..., :3, 3]], -1)


def matrix_from_pose(poses: Tensor) -> Tensor:
    """Rigid matrices [..., 4, 4] of poses [..., 7]."""
    return rigid_matrix(matrix_from_quat(poses[..., :4]), poses[..., 4:])


def rigid_matrix(rotation: Tensor, translation: Tensor) -> Tensor:
    """Rigid matrices [..., 4, 4] of rotations [..., 3, 3] and translations [..., 3]."""
    bottom = translation.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*translation.shape[:-1], 1, 4)
    return torch.cat([torch.cat([rotation, translation[..., None]], -1), bottom], -2)


def pose_about(points: Tensor, rotvec: Tensor, *, shift: Tensor) -> Tensor:
    """Poses [..., 7] that turn by `rotvec` [..., 3] about `points` [..., 3], then move by `shift` [..., 3].

    The 6 numbers (rotvec, shift) are the motion of what lies at `points`: unlike a twist about the origin they are
    small wherever the motion is small, so they can be learned and averaged.
    """
    quats = quat_from_rotvec(rotvec)
    return torch.cat([quats, points + shift - rotate(quats, points)], -1)


def interpolate_pose(a: Tensor, b: Tensor, *, weight: Tensor, about: Tensor) -> Tensor:
    """Poses [..., 7] from `a` (weight 0) to `b` (weight 1): the point `about` [..., 3] goes straight, turned by slerp.

    Interpolating the translation column instead would send points far from the origin on a detour. Exact at 0 and 1.
    """
    quats = slerp(a[..., :4], b[..., :4], weight=weight)
    w = weight[..., None]
    places = (1 - w) * apply_pose(a, about) + w * apply_pose(b, about)
    between = torch.cat([quats, places - rotate(quats, about)], -1)
    return torch.where(w <= 0, a, torch.where(w >= 1, b, between))


def motion_about(points: Tensor, poses: Tensor) -> Tensor:
    """(rotvec, shift) [..., 6] of what lies at `points` [..., 3] under `poses` [..., 7]; inverse of `pose_about`."""
    return torch.cat([rotvec_from_quat(poses[..., :4]), apply_pose(poses, points) - points], -1)
