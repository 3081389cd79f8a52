"""Novel-view paths look at what was seen, from where no camera was."""

from __future__ import annotations

import torch

from scene4d.apps.terminal.orbits import focus_of, orbit_of, stillest
from scene4d.geometry.camera import intrinsics_from_fov, invert_rigid, look_at
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Gaussians


def board(distance: float) -> Scene4D:
    """A still board one metre wide, `distance` m before the origin along y."""
    x, z = torch.meshgrid(torch.linspace(-0.5, 0.5, 40), torch.linspace(-0.5, 0.5, 40), indexing="ij")
    means = torch.stack([x.flatten(), torch.full((1600,), distance), z.flatten()], -1)
    base = Gaussians(
        means=means, quats=torch.tensor([1.0, 0, 0, 0]).expand(1600, 4), scales=torch.full((1600, 3), 0.02),
        opacities=torch.full((1600,), 0.99), sh=torch.zeros(1600, 1, 3),
    )  # fmt: skip
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return still_scene(base, times)


def still_scene(base: Gaussians, times: torch.Tensor) -> Scene4D:
    num = base.num_gaussians
    pose = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).expand(len(times), 1, 7)
    motion = Motion(
        anchors=torch.zeros(1, 3), world_from_rest=pose, log_var=None,
        skin_index=torch.zeros(num, 1, dtype=torch.int64), skin_weights=torch.zeros(num, 1),
    )  # fmt: skip
    alive = torch.tensor([float("-inf"), float("inf")], dtype=torch.float64).expand(num, 2)
    observed = torch.ones(len(times), dtype=torch.bool)
    return Scene4D(base=base, motion=motion, alive=alive, residual=None, times=times, observed=observed)


def cameras_at(*eyes: tuple[float, float, float], target=(0.0, 2.0, 0.0)) -> Cameras:
    places = torch.tensor(eyes)
    viewmats = look_at(places, torch.tensor(target).expand_as(places))
    K = intrinsics_from_fov(0.6, width=64, height=48)
    return Cameras(viewmats=viewmats, Ks=K.expand(len(eyes), 3, 3), width=64, height=48)


def test_swing_keeps_distance_and_looks_at_the_board():
    scene, stored = board(2.0), {"still": cameras_at((0.3, 0.0, 0.4), (0.3, 0.0, 0.4))}
    views = orbit_of(scene, stored, num_views=24, size=(80, 60))
    focus = focus_of(scene, stored["still"][0])
    assert abs(float(focus[1]) - 2.0) < 0.05
    eyes = invert_rigid(views.viewmats)[:, :3, 3]
    distance = (eyes - focus).norm(dim=-1)
    assert torch.allclose(distance, distance[:1].expand(24), atol=1e-4)
    axes = torch.nn.functional.normalize(focus - eyes, dim=-1)
    assert torch.allclose(views.viewmats[:, 2, :3], axes, atol=1e-4)
    assert float((eyes[:, 1] < 1.5).float().mean()) == 1.0, "the swing stays on the side that was seen"
    assert float((eyes - eyes[0]).norm(dim=-1).max()) > 0.5, "and leaves the recorded place"
    assert torch.allclose(eyes[0], torch.tensor([0.3, 0.0, 0.4]), atol=1e-4)


def test_the_stillest_camera_is_swung():
    moving, still = cameras_at((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)), cameras_at((0.0, 0.5, 0.0), (0.0, 0.5, 0.0))
    assert torch.equal(stillest({"wrist": moving, "front": still}).viewmats, still.viewmats[1])


def test_a_scene_without_cameras_is_turned_round():
    views = orbit_of(board(2.0), {}, num_views=8, size=(80, 60))
    eyes = invert_rigid(views.viewmats)[:, :3, 3]
    assert bool((eyes[:, 1] > 2.0).any()) and bool((eyes[:, 1] < 2.0).any())
