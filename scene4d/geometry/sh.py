"""Real spherical harmonics up to degree 3, as 3D Gaussian splatting has them: rgb = 0.5 + sum of bases times sh."""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.geometry.rotation import matrix_from_quat

SH_C0 = 0.28209479177387814


def sh_from_rgb(rgb: Tensor) -> Tensor:
    """Degree-0 coefficients [..., 1, 3] of a colour [..., 3]."""
    return ((rgb - 0.5) / SH_C0)[..., None, :]


def rgb_from_sh(sh: Tensor) -> Tensor:
    """The view-independent colour [..., 3] of coefficients [..., k, 3]."""
    return sh[..., 0, :] * SH_C0 + 0.5


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Bases [..., (degree + 1)^2] at unit directions [..., 3] from the camera to the Gaussian."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    bases = [torch.full_like(x, SH_C0)]
    if degree > 0:
        bases += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        bases += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree > 2:
        bases += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(bases, -1)


def rotate_sh(sh: Tensor, quats: Tensor) -> Tensor:
    """Coefficients [*b k 3] of the same colour field turned by unit quaternions [*b 4].

    Each band is turned by the matrix that makes bases at fixed directions agree: B(R^T d) = D B(d), solved exactly, so
    no recursion and no convention can go wrong.
    """
    num_bases = sh.shape[-2]
    if num_bases == 1:
        return sh
    degree = {4: 1, 9: 2, 16: 3}[num_bases]
    # A few directions more than bases keep the solve well conditioned (below 1.6 for every degree).
    directions = _directions(num_bases + 4, like=sh)
    inverse = torch.linalg.pinv(sh_basis(directions, degree))  # [k s]
    turned = directions @ matrix_from_quat(quats)  # rows R^T d: [*b s 3]
    return inverse @ (sh_basis(turned, degree) @ sh)


def _directions(num_directions: int, *, like: Tensor) -> Tensor:
    """Well-spread unit directions [s 3] (a Fibonacci sphere)."""
    index = torch.arange(num_directions, dtype=like.dtype, device=like.device) + 0.5
    z = 1 - index * (2 / num_directions)
    angle = index * 2.399963229728653
    ring = (1 - z * z).sqrt()
    return torch.stack([ring * angle.cos(), ring * angle.sin(), z], -1)
