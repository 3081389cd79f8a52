import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scene4d.geometry import camera as c

EYES = torch.tensor([[1.0, 2.0, 3.0], [-2.0, 0.1, 0.5], [0.0, 0.0, 5.0]], dtype=torch.float64)


def intrinsics(batch: tuple[int, ...]) -> torch.Tensor:
    K = torch.tensor([[50.0, 0.0, 20.3], [0.0, 60.0, 14.1], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return K.expand(*batch, 3, 3)


@pytest.mark.parametrize("batch", [(), (2,), (1, 3)])
def test_project_undoes_unproject_at_pixel_centres(batch):
    viewmats = c.look_at(torch.randn(*batch, 3, dtype=torch.float64), torch.randn(*batch, 3, dtype=torch.float64))
    depth = 0.5 + torch.rand(*batch, 30, 40, dtype=torch.float64)
    points = c.unproject(depth, viewmats, Ks=intrinsics(batch))
    pixels, z = c.project(points.flatten(-3, -2), viewmats, Ks=intrinsics(batch))
    torch.testing.assert_close(z, depth.flatten(-2))
    centres = c.pixel_centres(40, 30, like=depth).reshape(-1, 2)
    torch.testing.assert_close(pixels, centres.expand_as(pixels))
    assert centres[0].tolist() == [0.5, 0.5]


def test_look_at_puts_the_target_in_the_middle_and_up_at_the_top():
    target = torch.zeros(3, 3, dtype=torch.float64)
    viewmats = c.look_at(EYES, target)
    torch.testing.assert_close(torch.linalg.det(viewmats[:, :3, :3]), torch.ones(3, dtype=torch.float64))
    cam = c.transform_points(viewmats, torch.zeros(3, 1, 3, dtype=torch.float64)).squeeze(1)
    torch.testing.assert_close(cam[:, :2], torch.zeros(3, 2, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (cam[:, 2] > 0).all()
    above = c.transform_points(viewmats[:2], torch.tensor([[[0.0, 0.0, 0.1]]], dtype=torch.float64).expand(2, 1, 3))
    assert (above[:, 0, 1] < 0).all(), "y points down in the image"


def test_invert_rigid_is_the_inverse():
    viewmats = c.look_at(EYES, torch.ones(3, 3, dtype=torch.float64))
    torch.testing.assert_close(c.invert_rigid(viewmats) @ viewmats, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))


def test_opengl_camera_sees_the_same_point_mirrored_twice():
    world_from_gl = torch.eye(4, dtype=torch.float64)
    world_from_cv = c.opencv_from_opengl(world_from_gl)
    ahead = torch.tensor([[0.0, 1.0, -2.0]], dtype=torch.float64)  # GL looks along -z, y up
    cam = c.transform_points(c.invert_rigid(world_from_cv), ahead)
    assert cam.tolist() == [[0.0, -1.0, 2.0]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.1, 2.5))
def test_fov_spans_the_image(width, height, fov):
    K = c.intrinsics_from_fov(fov, width=width, height=height).double()
    edge = torch.tensor([[0.0, math.tan(fov / 2), 1.0]], dtype=torch.float64)
    pixels, _ = c.project(edge, torch.eye(4, dtype=torch.float64), Ks=K)
    torch.testing.assert_close(pixels[0, 1], torch.tensor(float(height), dtype=torch.float64), rtol=1e-5, atol=0)


def test_orbit_looks_at_its_centre_from_its_radius():
    center = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64)
    cameras = c.orbit(center, radius=2.0, elevation=0.5, num_views=6, width=64, height=48)
    places = c.invert_rigid(cameras.viewmats)[:, :3, 3]
    torch.testing.assert_close((places - center).norm(dim=-1), torch.full((6,), 2.0, dtype=torch.float64))
    pixels, _ = c.project(center.expand(6, 1, 3), cameras.viewmats, Ks=cameras.Ks)
    torch.testing.assert_close(pixels[:, 0], torch.tensor([32.0, 24.0], dtype=torch.float64).expand(6, 2))
