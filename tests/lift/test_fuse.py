"""Fusion of many frames: nearer to the truth than one frame, free space carved, holes filled, exposure found."""

import pytest
import torch

from scene4d.lift.rgbd.depth_images import close_gaps, complete_depth, nearest_point_map
from scene4d.lift.rgbd.exposure import exposure_gains
from scene4d.lift.rgbd.fuse import FuseConfig, fuse_static
from scene4d.lift.rgbd.sky_shell import sky_shell
from scene4d.render.losses import psnr
from scene4d.render.render import render

BARE = FuseConfig(fill_holes=False, colour=None, polish_rounds=0)


def _height_error(gaussians):
    """Distance in m to the ground of the more certain half of the points that lie on it, away from the boxes."""
    x, y, z = gaussians.means.unbind(-1)
    ground = (x.abs() > 0.3) & (y.abs() < 0.3)
    confidence = gaussians.extras["confidence"][:, 0]
    return z[ground & (confidence >= confidence.median())].abs()


def test_fusion_averages_depth_noise(table):
    frames = table(0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
    noisy = frames.replace(depth=frames.depth * (1 + 0.004 * torch.randn_like(frames.depth)))
    one = fuse_static(noisy[:1], config=BARE)
    many = fuse_static(noisy, config=BARE)
    assert _height_error(many).mean() < 0.75 * _height_error(one).mean()
    assert many.num_gaussians < 0.7 * int((frames.depth > 0).sum())


def test_what_was_seen_through_is_carved(table):
    frames = table(0.0, 15.0, 30.0, 45.0)
    depth = frames.depth.clone()
    depth[0, 20:30, 20:30] = 0.5  # a ghost that no other frame sees
    ghost = fuse_static(frames.replace(depth=depth), config=BARE)
    floating = ghost.means[:, 2] > 0.3
    assert not floating.any()


def test_the_set_is_bounded_and_repeatable(table):
    frames = table(0.0, 30.0)
    config = FuseConfig(max_gaussians=2000, num_backdrop=500, polish_rounds=1)
    a, b = fuse_static(frames, config=config), fuse_static(frames, config=config)
    assert a.num_gaussians <= 2000 and torch.equal(a.means, b.means) and torch.equal(a.sh, b.sh)
    assert len(set(a.ids.tolist())) == a.num_gaussians


def test_a_held_out_view_is_covered_and_close(table):
    frames = table(0.0, 12.0, 24.0, 36.0, wavelength=0.3)
    target = table(18.0, wavelength=0.3)
    gaussians = fuse_static(frames, config=FuseConfig(num_backdrop=1000))
    drawn = render(gaussians, target.cameras)
    assert drawn.alpha.mean() > 0.98
    assert psnr(drawn.rgb, target.rgb).item() > 25


def test_exposure_gains_undo_what_was_done(table):
    frames = table(0.0, 10.0, 20.0, 30.0)
    factor = torch.tensor([[1.0, 1.0, 1.0], [0.8, 0.9, 1.0], [1.1, 1.0, 0.85], [0.9, 1.05, 1.1]])
    gains = exposure_gains(frames.replace(rgb=frames.rgb * factor[:, None, None]), stride=2, prior=1e-3)
    level = gains * factor
    torch.testing.assert_close(level / level[:1], torch.ones_like(level), atol=0.02, rtol=0)


def test_gaps_close_on_one_surface_only():
    depth = torch.ones(1, 12, 12)
    depth[:, :, 6:] = 2.0
    depth[0, 4, 2] = depth[0, 4, 6] = 0.0
    closed = close_gaps(depth)
    assert closed[0, 4, 2] == pytest.approx(1.0) and closed[0, 4, 6] == 0.0
    full = complete_depth(closed)
    assert (full > 0).all() and full[0, 4, 6] in (1.0, 2.0)


def test_the_nearest_point_wins_a_pixel(table):
    camera = table(0.0).cameras[0]
    centre = torch.tensor([0.0, 0.0, 0.08])
    eye = torch.linalg.inv(camera.viewmats)[:3, 3]
    points = torch.stack([centre, centre + 0.5 * (eye - centre), centre - 2 * (centre - eye)])
    depth, index = nearest_point_map(points, camera)
    assert (index >= 0).sum() == 1 and index.max() == 1
    assert depth.max().item() == pytest.approx(0.5, abs=1e-4)


def test_sky_shell_has_the_colour_of_each_direction(table):
    frames = table(0.0, 90.0, 180.0, 270.0, elevation=0.1)
    frames = frames.replace(rgb=torch.full_like(frames.rgb, 0.25), depth=torch.zeros_like(frames.depth))
    shell = sky_shell(frames, reach=5.0, num=500)
    drawn = render(shell, frames.cameras)
    assert drawn.alpha.min() > 0.9
    torch.testing.assert_close(drawn.rgb / drawn.alpha[..., None], frames.rgb, atol=0.01, rtol=0)
