"""Cameras and points to and from PyTorch3D: by its documented formulas, and by itself where it is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from scene4d.errors import CalibrationError, EnvError
from scene4d.gaussians.formats import pytorch3d as meeting
from scene4d.geometry.camera import look_at, project
from scene4d.geometry.sh import sh_from_rgb
from scene4d.types import Cameras, Gaussians

WIDTH, HEIGHT = 96, 64


def some_cameras(*batch: int) -> Cameras:
    random = torch.Generator().manual_seed(0)
    eye = torch.randn(*batch, 3, generator=random) + torch.tensor([0.0, -4.0, 1.0])
    K = torch.tensor([[70.0, 0.0, 40.0], [0.0, 75.0, 35.0], [0.0, 0.0, 1.0]])
    viewmats = look_at(eye, 0.2 * torch.randn(*batch, 3, generator=random))
    return Cameras(viewmats=viewmats, Ks=K.expand(*batch, 3, 3), width=WIDTH, height=HEIGHT)


def some_points() -> torch.Tensor:
    return torch.randn(50, 3, generator=torch.Generator().manual_seed(1))


def some_gaussians(*batch: int, num: int = 8) -> Gaussians:
    random = torch.Generator().manual_seed(2)
    return Gaussians(
        means=torch.randn(*batch, num, 3, generator=random),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(*batch, num, 4),
        scales=torch.full((*batch, num, 3), 0.1),
        opacities=torch.ones(*batch, num),
        sh=sh_from_rgb(torch.rand(*batch, num, 3, generator=random)),
        ids=torch.where(torch.arange(num) % 4 == 3, -1, torch.arange(num)).expand(*batch, num),
    )


def ndc_intrinsics(tensors: meeting.PinholeTensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Focal length and principal point in NDC, by the equations of PyTorch3D's notes on cameras."""
    size = tensors.image_size.flip(1).to(tensors.R)  # width, height
    shorter = size.amin(1, keepdim=True)
    return tensors.focal_length * 2 / shorter, -(tensors.principal_point - size / 2) * 2 / shorter


def screen_by_the_notes(tensors: meeting.PinholeTensors, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [n p 2] and depth [n p] of points [p 3].

    Rows times R plus T; x = f X / Z + p in NDC (x left, y up); a screen whose shorter side is 2 NDC units long,
    x right, y down, origin in the top left corner.
    """
    view = points @ tensors.R + tensors.T[:, None]
    focal, centre = ndc_intrinsics(tensors)
    ndc = focal[:, None] * view[..., :2] / view[..., 2:] + centre[:, None]
    size = tensors.image_size.flip(1).to(view)[:, None]
    return size / 2 - ndc * size.amin(2, keepdim=True) / 2, view[..., 2]


def test_cameras_see_the_same_pixels():
    cameras, points = some_cameras(5), some_points()
    tensors = meeting.pinhole_tensors(cameras)
    pixels, depth = project(points.expand(5, -1, -1), cameras.viewmats, Ks=cameras.Ks)
    found, found_depth = screen_by_the_notes(tensors, points)
    front = depth > 0.1
    assert front.float().mean() > 0.8
    torch.testing.assert_close(found_depth, depth)
    torch.testing.assert_close(found[front], pixels[front], rtol=1e-4, atol=1e-3)
    assert torch.allclose(torch.linalg.det(tensors.R), torch.ones(5), atol=1e-5)
    assert tensors.image_size.tolist() == [[HEIGHT, WIDTH]] * 5


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_tensors_and_back(batch):
    cameras = some_cameras(*batch)
    back = meeting.cameras_from_pinhole_tensors(meeting.pinhole_tensors(cameras))
    assert torch.equal(back.viewmats.reshape(cameras.viewmats.shape), cameras.viewmats)
    assert torch.equal(back.Ks.reshape(cameras.Ks.shape), cameras.Ks)
    assert (back.width, back.height) == (WIDTH, HEIGHT)


def stand_in(tensors: meeting.PinholeTensors, *, in_ndc: bool, image_size: torch.Tensor | None, K=None):
    """What the conversion asks of a PyTorch3D camera."""
    return SimpleNamespace(
        **tensors._replace(image_size=None)._asdict(), K=K, in_ndc=lambda: in_ndc, get_image_size=lambda: image_size
    )


def test_screen_ndc_and_matrix_cameras_are_one():
    cameras = some_cameras(3)
    tensors = meeting.pinhole_tensors(cameras)
    focal, centre = ndc_intrinsics(tensors)
    K = torch.zeros(3, 4, 4)
    K[:, 0, 0], K[:, 1, 1], K[:, :2, 2], K[:, 2, 3], K[:, 3, 2] = *focal.T, centre, 1.0, 1.0
    size = tensors.image_size[:1]
    given = (
        stand_in(tensors, in_ndc=False, image_size=size),
        stand_in(tensors._replace(focal_length=focal, principal_point=centre), in_ndc=True, image_size=size),
        stand_in(tensors, in_ndc=True, image_size=size, K=K),
    )
    for theirs in given:
        back = meeting.cameras_from_pytorch3d(theirs)
        torch.testing.assert_close(back.viewmats, cameras.viewmats)
        torch.testing.assert_close(back.Ks, cameras.Ks)
        assert (back.width, back.height) == (WIDTH, HEIGHT)


def test_impossible_cameras_are_named():
    cameras = some_cameras(2)
    tensors = meeting.pinhole_tensors(cameras)
    skewed = cameras.Ks.clone()
    skewed[0, 0, 1] = 2.0
    sizes = tensors.image_size.clone()
    sizes[1] += 1
    mirror = tensors.R * torch.tensor([1.0, 1.0, -1.0])
    wrong = {
        "Ks": lambda: meeting.pinhole_tensors(cameras.replace(Ks=skewed)),
        "image_size": lambda: meeting.cameras_from_pinhole_tensors(tensors._replace(image_size=sizes)),
        "R": lambda: meeting.cameras_from_pinhole_tensors(tensors._replace(R=mirror)),
    }
    for field, call in wrong.items():
        with pytest.raises(CalibrationError) as caught:
            call()
        assert caught.value.field == field
    for size in (None, torch.tensor([[1.0, 1.0]])):
        with pytest.raises(CalibrationError, match="image size"):
            meeting.cameras_from_pytorch3d(stand_in(tensors, in_ndc=True, image_size=size))


def test_gradients_go_through():
    cameras = some_cameras(2)
    viewmats, Ks = cameras.viewmats.clone().requires_grad_(), cameras.Ks.clone().requires_grad_()
    there = meeting.pinhole_tensors(cameras.replace(viewmats=viewmats, Ks=Ks))
    back = meeting.cameras_from_pinhole_tensors(there)
    (back.viewmats[:, :3].sum() + back.Ks[:, :2].sum()).backward()
    assert (viewmats.grad[:, :3] == 1).all() and (Ks.grad[:, [0, 1, 0, 1], [0, 1, 2, 2]] == 1).all()


def clouds_of(points: list, features: list | None, normals: list | None = None):
    """What the conversion asks of a PyTorch3D Pointclouds."""
    return SimpleNamespace(points_list=lambda: points, features_list=lambda: features, normals_list=lambda: normals)


def test_gaussians_at_points():
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 0.2
    colors = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    given = clouds_of([grid, grid[:1]], [colors, colors[:1]], [torch.ones(64, 3), torch.ones(1, 3)])
    gaussians = meeting.gaussians_from_pytorch3d(given)
    assert gaussians.batch_shape == (2,) and (gaussians.ids >= 0).sum(1).tolist() == [64, 1]
    torch.testing.assert_close(gaussians.scales[0], torch.full((64, 3), 0.2))
    torch.testing.assert_close(gaussians.sh[0], sh_from_rgb(colors[:, :3]))
    assert torch.equal(gaussians.means[0], grid) and (gaussians.extras["normals"][0] == 1).all()
    grey = meeting.gaussians_from_pytorch3d(clouds_of([grid], None))
    torch.testing.assert_close(grey.sh, sh_from_rgb(torch.full((1, 64, 3), 0.5)))


def test_without_pytorch3d_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    monkeypatch.setitem(sys.modules, "pytorch3d.renderer", None)
    for call in (lambda: meeting.perspective_cameras(some_cameras(1)), lambda: meeting.point_clouds(some_gaussians(1))):
        with pytest.raises(EnvError, match="pip install"):
            call()


def _installed() -> str | None:
    try:
        meeting._pytorch3d("renderer")
    except EnvError as error:
        return str(error)
    return None


needs_pytorch3d = pytest.mark.skipif(_installed() is not None, reason="PyTorch3D does not load here")


@needs_pytorch3d
def test_pytorch3d_projects_as_we_do():
    cameras, points = some_cameras(5), some_points()
    theirs = meeting.perspective_cameras(cameras)
    pixels, depth = project(points.expand(5, -1, -1), cameras.viewmats, Ks=cameras.Ks)
    found = theirs.transform_points_screen(points.expand(5, -1, -1))[..., :2]
    front = depth > 0.1
    torch.testing.assert_close(found[front], pixels[front], rtol=1e-4, atol=1e-3)
    back = meeting.cameras_from_pytorch3d(theirs)
    torch.testing.assert_close(back.viewmats, cameras.viewmats)
    torch.testing.assert_close(back.Ks, cameras.Ks)


@needs_pytorch3d
def test_point_clouds_and_back():
    gaussians = some_gaussians(2)
    clouds = meeting.point_clouds(gaussians)
    assert clouds.num_points_per_cloud().tolist() == [6, 6]
    back = meeting.gaussians_from_pytorch3d(clouds)
    used = gaussians.ids[0] >= 0
    torch.testing.assert_close(back.means, gaussians.means[:, used])
    torch.testing.assert_close(back.sh, gaussians.sh[:, used])
