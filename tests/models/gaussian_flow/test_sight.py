"""Where a camera looked through there is no matter: before a wall none, behind it and beside the picture any."""

from __future__ import annotations

import pytest
import torch

from scene4d.geometry.camera import intrinsics_from_fov, look_at, unproject
from scene4d.models.gaussian_flow.free_space import unseen_rows_of
from scene4d.types import Cameras, Gaussians


def gaussians(means, *, scale=0.02):
    num = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(num, 4)
    return Gaussians(means, quats, torch.full((num, 3), scale), torch.full((num,), 0.99), torch.zeros(num, 1, 3))


@pytest.fixture
def camera():
    eye = torch.tensor([1.0, 0.5, 2.0])
    return Cameras(
        viewmats=look_at(eye, torch.zeros(3)), Ks=intrinsics_from_fov(0.7, width=48, height=80), width=80, height=48
    )


def wall(camera, *, depth, columns=slice(None)):
    """A surface at one depth on some columns of the picture."""
    points = unproject(torch.full((48, 80), depth), camera.viewmats, Ks=camera.Ks)
    return gaussians(points[:, columns].reshape(-1, 3))


def at_depths(camera, *depths, pixel):
    points = torch.stack([unproject(torch.full((48, 80), d), camera.viewmats, Ks=camera.Ks)[pixel] for d in depths])
    return gaussians(points, scale=0.002)


def test_before_the_wall_nothing_behind_it_anything(camera):
    rows = at_depths(camera, 0.5, 1.0, 1.4, 1.495, 1.6, 3.0, pixel=(20, 33))
    found = unseen_rows_of(rows, memory=wall(camera, depth=1.5), cameras=[camera])
    assert found.tolist() == [False, False, False, True, True, True]


def test_no_camera_and_no_surface_rule_nothing_out(camera):
    rows, half = at_depths(camera, 1.0, 2.0, pixel=(20, 70)), wall(camera, depth=1.5, columns=slice(0, 40))
    assert unseen_rows_of(rows, memory=half, cameras=[]).all()
    assert unseen_rows_of(rows, memory=half, cameras=[camera]).all()  # the wall ends before this column
    behind = gaussians(torch.tensor([[2.0, 1.0, 4.0]]))  # behind the camera, in line with the wall
    assert unseen_rows_of(behind, memory=half, cameras=[camera]).all()


def test_one_camera_is_enough(camera):
    rows, memory = at_depths(camera, 1.0, pixel=(24, 40)), wall(camera, depth=1.5)
    away = camera.replace(viewmats=look_at(torch.tensor([1.0, 0.5, 2.0]), torch.tensor([1.0, 5.0, 9.0])))
    assert unseen_rows_of(rows, memory=memory, cameras=[away]).all()
    assert not unseen_rows_of(rows, memory=memory, cameras=[away, camera]).any()


def test_what_sticks_out_from_behind_is_seen(camera):
    """Behind half a wall, before a farther one: a small Gaussian fits there, a wide one shows beside and before it."""
    near, far = wall(camera, depth=1.5, columns=slice(0, 40)), wall(camera, depth=3.0, columns=slice(40, 80))
    memory, row = gaussians(torch.cat([near.means, far.means])), at_depths(camera, 1.7, pixel=(24, 30))
    fits = [
        bool(unseen_rows_of(row.replace(scales=torch.full((1, 3), s)), memory=memory, cameras=[camera])[0])
        for s in (0.01, 0.1, 0.4)
    ]
    assert fits == [True, True, False]
