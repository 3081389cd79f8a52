"""Poses and intrinsics of cameras that look at a point, such as the fixed ones of the rig."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scene4d.errors import ConfigError
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.sim import rig


def viewmat(name: str, *, turned_deg: float = 0.0) -> Tensor:
    """Camera-from-world [4 4] float64 of a fixed camera, of the rig or a spare one, turned about what it looks at.

    Raises:
        ConfigError: no fixed camera has that name.
    """
    known = {**rig.FIXED_CAMERAS, **rig.SPARE_CAMERAS}
    if name not in known:
        raise ConfigError("no such fixed camera", field="cameras", found=name, expected=list(known))
    return viewmat_of(known[name], turned_deg=turned_deg)


def viewmat_of(camera: rig.RigCamera, *, turned_deg: float = 0.0) -> Tensor:
    """Camera-from-world [4 4] float64 of a camera, turned about what it looks at."""
    azimuth, elevation = math.radians(camera.azimuth_deg + turned_deg), math.radians(camera.elevation_deg)
    flat, up = math.cos(elevation), math.sin(elevation)
    forward = torch.tensor([flat * math.cos(azimuth), flat * math.sin(azimuth), up], dtype=torch.float64)
    target = torch.tensor(camera.lookat, dtype=torch.float64)
    return look_at(target - camera.distance * forward, target)


def intrinsics(*, size: tuple[int, int], fov_y_deg: float = rig.FOV_Y_DEG) -> Tensor:
    """K [3 3] float32 for images of `size` = (width, height) px."""
    return intrinsics_from_fov(math.radians(fov_y_deg), width=size[0], height=size[1])
