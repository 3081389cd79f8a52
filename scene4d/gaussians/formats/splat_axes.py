"""Splats whose axes point elsewhere, brought into those of .ply files: x right, y down, z front."""

from __future__ import annotations

import torch

from scene4d.errors import DataFormatError
from scene4d.gaussians.edit import transform
from scene4d.types import Gaussians

SYSTEMS = (
    "LDB",
    "RDB",
    "LUB",
    "RUB",
    "LDF",
    "RDF",
    "LUF",
    "RUF",
    "LFD",
    "RFD",
    "LFU",
    "RFU",
    "LBD",
    "RBD",
    "LBU",
    "RBU",
)
"""Directions of x, y, z (left or right, up or down, front or back), in the order that SPZ numbers them from 1."""
HALF = 0.5**0.5
# Which axes each SH basis is odd in: its sign changes when one of them is turned round.
ODD = ("", "y", "z", "x", "xy", "yz", "", "xz", "", "y", "xyz", "y", "z", "x", "z", "x")


def in_ply_axes(gaussians: Gaussians, system: str) -> Gaussians:
    """Splats of a named system of `SYSTEMS` in that of .ply files, RDF. Mirrored ones stay the same scene.

    Raises:
        DataFormatError: there is no such system.
    """
    if system not in SYSTEMS:
        raise DataFormatError("is no system of axes", field="axes", found=system, expected=SYSTEMS)
    if system[1] in "FB":  # the third axis is the vertical one: a quarter turn about x makes it the second
        gaussians = transform(gaussians, gaussians.means.new_tensor([HALF, -HALF, 0, 0, 0, 0, 0]))
        system = system[0] + system[2] + {"F": "B", "B": "F"}[system[1]]
    return flipped(gaussians, x=system[0] != "R", y=system[1] != "D", z=system[2] != "F")


def flipped(gaussians: Gaussians, *, x: bool = False, y: bool = False, z: bool = False) -> Gaussians:
    """The set with axes of the world turned round: positions, quaternions and the directions of its colour."""
    sx, sy, sz = (-1.0 if turned else 1.0 for turned in (x, y, z))
    signs = {"x": sx, "y": sy, "z": sz}
    bases = [signs.get(odd[:1], 1.0) * signs.get(odd[1:2], 1.0) * signs.get(odd[2:3], 1.0) for odd in ODD]
    means, sh = gaussians.means, gaussians.sh
    return gaussians.replace(
        means=means * means.new_tensor([sx, sy, sz]),
        quats=gaussians.quats * means.new_tensor([1.0, sy * sz, sx * sz, sx * sy]),
        sh=sh * torch.tensor(bases, dtype=sh.dtype)[: sh.shape[-2], None],
    )
