"""Gaussians from pictures alone: relocation keeps the picture, and a textured scene is found again."""

from __future__ import annotations

import pytest
import torch

from scene4d.errors import CalibrationError, DepthError
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.reconstruct import ReconstructConfig, reconstruct, reconstruct_pictures
from scene4d.lift.rgb.mcmc_relocation import relocated
from scene4d.lift.rgb.splat_trainer import SplatConfig, focus_and_extent, splats_from_images
from scene4d.render.losses import psnr
from scene4d.render.render import render
from scene4d.types import Cameras, Episode, Frames, Gaussians

SIZE = 48


def ring_of_cameras(num: int, *, radius: float = 2.0) -> Cameras:
    angles = torch.linspace(0, 1.4, num)
    places = torch.stack([radius * angles.cos(), radius * angles.sin(), 0.5 + 0.3 * (3 * angles).sin()], -1)
    K = intrinsics_from_fov(0.7, width=SIZE, height=SIZE)
    viewmats = look_at(places, torch.zeros_like(places))
    return Cameras(viewmats=viewmats, Ks=K.expand(num, 3, 3), width=SIZE, height=SIZE)


def coloured_ball(num: int = 1500) -> Gaussians:
    random = torch.Generator().manual_seed(3)
    normal = torch.nn.functional.normalize(torch.randn(num, 3, generator=random), dim=-1)
    colours = 0.5 + 0.45 * torch.sin(torch.tensor([9.0, 7.0, 5.0]) * normal + torch.tensor([0.0, 1.0, 2.0]))
    return Gaussians(
        means=0.6 * normal, quats=torch.randn(num, 4, generator=random), scales=torch.full((num, 3), 0.04),
        opacities=torch.full((num,), 0.95), sh=((colours - 0.5) / 0.28209479)[:, None],
    )  # fmt: skip


def pictures(cameras: Cameras) -> Frames:
    drawn = render(coloured_ball(), cameras)
    return Frames(rgb=drawn.rgb, depth=None, alpha=torch.ones_like(drawn.alpha), cameras=cameras)


@pytest.mark.parametrize("copies", [2, 3, 7])
def test_copies_are_as_opaque_as_the_one_they_stand_in_for(copies):
    opacities, log_scales = torch.tensor([0.3, 0.9]), torch.zeros(2, 3)
    shared, scales = relocated(opacities, log_scales, copies=torch.full((2,), copies))
    assert torch.allclose(1 - (1 - shared) ** copies, opacities, atol=1e-5)
    # What blends along a line through the centre: the integral of 1 - (1 - o' g)^k is that of o g.
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    for o, s, scale in zip(opacities.double(), shared.double(), scales[:, 0].double().exp(), strict=True):
        one = (o * torch.exp(-0.5 * x**2)).sum()
        many = (1 - (1 - s * torch.exp(-0.5 * (x / scale) ** 2)) ** copies).sum()
        assert float(many / one) == pytest.approx(1.0, rel=1e-3)


def test_one_copy_is_itself():
    opacities, log_scales = torch.tensor([0.3, 0.9]), torch.randn(2, 3)
    shared, scales = relocated(opacities, log_scales, copies=torch.ones(2, dtype=torch.int64))
    assert torch.allclose(shared, opacities, atol=1e-6) and torch.equal(scales, log_scales)


def test_focus_is_where_the_cameras_look():
    focus, extent = focus_and_extent(pictures(ring_of_cameras(6)))
    assert float(focus.norm()) < 0.1
    assert extent == pytest.approx(2.05, rel=0.1)


def test_pictures_from_one_place_are_refused():
    cameras = ring_of_cameras(1)
    frames = pictures(cameras.map(lambda x: x.expand(5, *x.shape[1:])))
    with pytest.raises(CalibrationError, match="too few places"):
        splats_from_images(frames)


def test_a_view_that_was_held_out_is_found_again():
    cameras = ring_of_cameras(13)
    frames = pictures(cameras)
    held = torch.arange(13) % 4 == 2
    config = SplatConfig(steps=500, num_start=1500, max_gaussians=2500, every=50, ssim_weight=0.0, max_seconds=None)
    found = splats_from_images(frames[~held], config=config)
    assert 1000 < found.num_gaussians <= 2500
    quality = [float(psnr(render(found, frames.cameras[i]).rgb, frames.rgb[i])) for i in held.nonzero()[:, 0]]
    nearest = float(psnr(frames.rgb[1], frames.rgb[2]))
    assert sum(quality) / len(quality) > nearest + 4, (quality, nearest)


def test_the_same_seed_gives_the_same_bits():
    frames = pictures(ring_of_cameras(5))
    config = SplatConfig(steps=60, num_start=400, max_gaussians=600, every=10, ssim_crop=32, max_seconds=None)
    first, second = (splats_from_images(frames, config=config) for _ in range(2))
    assert torch.equal(first.means, second.means) and torch.equal(first.sh, second.sh)


def test_an_episode_of_pictures_becomes_a_still_scene():
    frames = pictures(ring_of_cameras(5))
    episode = Episode(
        views={"phone": frames}, times=torch.arange(5, dtype=torch.float64), valid=torch.ones(5, dtype=torch.bool),
        actions=torch.zeros(5, 0), proprio=torch.zeros(5, 0), info={},
    )  # fmt: skip
    config = ReconstructConfig(splats=SplatConfig(steps=30, num_start=300, max_gaussians=300, ssim_weight=0.0))
    with pytest.raises(DepthError, match="--from-pictures"):
        reconstruct(episode, config=config)
    scene = reconstruct_pictures(episode, config=config)
    assert scene.info == {"model": "pictures", "steps": 30}
    assert 0 < scene.base.num_gaussians <= 300 and torch.equal(scene.times, episode.times)
    assert float(scene.flow(0.0, 4.0)[0].abs().max()) == 0.0
