"""An analytic table seen by a ring of cameras: exact depth, normals and colours."""

import math

import pytest
import torch
from box_scene import cast_boxes

from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.types import Cameras


@pytest.fixture
def table():
    """A function: frames [v] of the analytic table from azimuths in degrees."""

    def see(*azimuths, size=64, elevation=40.0, distance=1.0, wavelength=0.15):
        target = torch.tensor([0.0, 0.0, 0.08])
        up = math.radians(elevation)
        turn = torch.tensor(azimuths).deg2rad()
        ring = torch.stack(
            [turn.cos() * math.cos(up), turn.sin() * math.cos(up), torch.full_like(turn, math.sin(up))], -1
        )
        viewmats = look_at(target + distance * ring, target.expand(len(azimuths), 3))
        K = intrinsics_from_fov(math.radians(45), width=size, height=size).expand(len(azimuths), 3, 3)
        return cast_boxes(Cameras(viewmats=viewmats, Ks=K, width=size, height=size), wavelength=wavelength)

    return see
