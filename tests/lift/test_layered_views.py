"""One moving camera in a static scene: no instant has a hole, lifetimes take turns, rows are bounded, poses improve."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from scene4d.errors import DepthError
from scene4d.geometry.camera import invert_rigid
from scene4d.geometry.rotation import matrix_from_quat, quat_from_rotvec
from scene4d.geometry.sh import rgb_from_sh
from scene4d.lift.moving_camera.background_layer import interpolated_camera
from scene4d.lift.moving_camera.layered_views import (
    LayeredViewsConfig,
    fuse_layered_views,
    interval_lifetimes,
    layer_lifetimes,
)
from scene4d.lift.moving_camera.layered_views_fit import LayeredViewsFitConfig, fit_layered_views, mean_picture
from scene4d.lift.moving_camera.plane_sweep import plane_sweep_depth
from scene4d.lift.moving_camera.pose_refinement import PoseRefinementConfig, refined_cameras
from scene4d.lift.refine import adam_loop
from scene4d.lift.rgbd.depth_images import complete_depth, pixels_of_points
from scene4d.lift.rgbd.level_of_detail import LevelOfDetailConfig, lift_cells
from scene4d.lift.rgbd.unproject import LiftConfig
from scene4d.render.losses import psnr
from scene4d.render.render import render
from scene4d.scene import ALIVE_TOLERANCE

AZIMUTHS = [4.0 * k for k in range(7)]
TIMES = torch.arange(len(AZIMUTHS), dtype=torch.float64) / 10
PLAIN = LayeredViewsConfig(settle=None, num_backdrop=200)


@pytest.fixture
def walk(table):
    """Frames [7] of a walk round the table."""
    return table(*AZIMUTHS, wavelength=0.3)


def _jittered(frames, *, turn, shift):
    """The frames with every camera turned (rad) and shifted (m) a little, at random."""
    poses = invert_rigid(frames.cameras.viewmats)
    noise = torch.randn(len(poses), 6, generator=torch.Generator().manual_seed(3))
    turned = matrix_from_quat(quat_from_rotvec(turn * noise[:, :3])) @ poses[:, :3, :3]
    poses = torch.cat([torch.cat([turned, (poses[:, :3, 3] + shift * noise[:, 3:])[..., None]], -1), poses[:, 3:]], 1)
    return frames.replace(cameras=dataclasses.replace(frames.cameras, viewmats=invert_rigid(poses)))


def _at(scene, time):
    gaussians, alive = scene
    return gaussians.pick((alive[:, 0] <= time) & (time <= alive[:, 1])).replace(extras={})


def test_nothing_that_was_seen_is_missing_at_any_time(walk):
    scene = fuse_layered_views(walk, TIMES, config=PLAIN)
    for time in (-1.0, 0.0, 0.05, 0.1, 0.23, 0.3, 0.45, 0.6, 7.0):
        assert render(_at(scene, time), walk.cameras).alpha.amin((1, 2)).min() > 0.7
        assert render(_at(scene, time), walk.cameras).alpha.mean() > 0.98


def test_a_view_between_two_frames_is_close(walk, table):
    target = table(10.0, wavelength=0.3)
    drawn = render(_at(fuse_layered_views(walk, TIMES, config=PLAIN), 0.25), target.cameras)
    assert psnr(drawn.rgb, target.rgb).item() > 27


def test_background_layers_of_one_place_take_turns(walk):
    """A place that every frame sees is backed by exactly one stretch at any instant; one that no other sees, always."""
    views = [walk[k] for k in range(len(TIMES) - 1)]
    place = torch.tensor([[0.05, -0.2, 0.0]])
    centres = invert_rigid(walk.cameras.viewmats)[:, :3, 3]
    behind = centres.mean(0, keepdim=True) * 5
    alive = torch.cat([interval_lifetimes(place, k, views=views, times=TIMES, hidden=0.05) for k in range(len(views))])
    for time in torch.linspace(-0.2, 0.9, 56, dtype=torch.float64) + 1e-4:
        assert int(((alive[:, 0] <= time) & (time <= alive[:, 1])).sum()) == 1 or not 0 <= time <= 0.6
    assert alive[2, 0] == TIMES[2] and alive[2, 1] == pytest.approx(0.3, abs=2e-3)
    assert torch.isinf(interval_lifetimes(behind, 3, views=views, times=TIMES, hidden=0.05)).all()


def test_an_instant_shows_two_frames_and_no_moment_shows_less(walk):
    """At a frame and just before it two layers and one background layer of a place that all see are there."""
    place, views = torch.tensor([[0.05, -0.2, 0.0]]), [walk[k] for k in range(len(TIMES) - 1)]
    layers = torch.cat([layer_lifetimes(place, k, frames=walk, times=TIMES, config=PLAIN) for k in range(len(TIMES))])
    backgrounds = torch.cat(
        [interval_lifetimes(place, k, views=views, times=TIMES, hidden=0.05) for k in range(len(views))]
    )
    for time in TIMES.tolist():
        for early in (0.0, 1.5e-6, 5e-4, 0.04):
            now = time - early
            shown = [
                int(((x[:, 0] - ALIVE_TOLERANCE <= now) & (now <= x[:, 1] + ALIVE_TOLERANCE)).sum())
                for x in (layers, backgrounds)
            ]
            assert shown == [2, 1], (time, early)


def _framed(frames, *, colour, depth, width=6):
    """The frames with a border that has no usable colour, and a colour and a depth that are wrong."""
    inside = torch.zeros(frames.rgb.shape[1:3], dtype=torch.bool)
    inside[width:-width, width:-width] = True
    return frames.replace(
        rgb=torch.where(inside[..., None], frames.rgb, colour),
        depth=torch.where(inside, frames.depth, depth),
        alpha=inside.float().expand(len(frames.rgb), -1, -1),
    )


def test_no_row_comes_from_where_there_is_no_usable_colour(walk):
    config = dataclasses.replace(PLAIN, settle=PoseRefinementConfig(min_pixels=50))
    black, bright = (
        fuse_layered_views(_framed(walk, colour=colour, depth=depth), TIMES, config=config)
        for colour, depth in ((0.0, 0.0), (1.0, 0.6))
    )
    for name in ("means", "sh", "scales", "opacities"):
        assert torch.equal(getattr(black[0], name), getattr(bright[0], name)), name
    assert torch.equal(black[1], bright[1])
    assert rgb_from_sh(black[0].sh).min() > 0.9 * walk.rgb.min() > 0.01, "no black splat, no black background layer"
    drawn = render(_at(black, 0.25), walk.cameras[2])
    assert psnr(drawn.rgb[8:-8, 8:-8], walk.rgb[2, 8:-8, 8:-8]) > 25


def test_of_one_frame_nothing_lies_in_its_border(walk):
    """Neither splats nor the background layer behind them; what no frame sees is left to the far shell."""
    gaussians, _ = fuse_layered_views(_framed(walk[:1], colour=0.0, depth=0.0), TIMES[:1], config=PLAIN)
    near = gaussians.pick(gaussians.extras["confidence"][:, 0] > 0)
    pixels, _, _ = pixels_of_points(near.means, walk.cameras[0])
    assert near.num_gaussians > 1000 and pixels.min() >= 5 and pixels.max() <= 59


def test_exposure_between_two_frames_is_the_mean_of_both(walk):
    level = torch.tensor([1.0, 0.8, 1.0, 0.8, 1.0, 0.8, 1.0])
    scene = fuse_layered_views(walk.replace(rgb=walk.rgb * level[:, None, None, None]), TIMES, config=PLAIN)
    plain = fuse_layered_views(walk, TIMES, config=PLAIN)
    drawn, full = (render(_at(x, 0.25), walk.cameras[2]).rgb for x in (scene, plain))
    assert (drawn.mean() / full.mean()).item() == pytest.approx(0.8**0.5, rel=0.03)


def test_rows_are_bounded_and_the_result_repeats(walk):
    config = dataclasses.replace(PLAIN, max_gaussians=4000)
    (a, alive), (b, again) = (
        fuse_layered_views(walk, TIMES, config=config),
        fuse_layered_views(walk, TIMES, config=config),
    )
    assert a.num_gaussians <= 4000 and len(alive) == a.num_gaussians
    assert torch.equal(a.means, b.means) and torch.equal(alive, again)
    assert render(_at((a, alive), 0.2), walk.cameras[2]).alpha.mean() > 0.95


def test_one_frame_alone_and_no_depth(walk):
    gaussians, alive = fuse_layered_views(walk[:1], TIMES[:1], config=PLAIN)
    assert render(gaussians.replace(extras={}), walk.cameras[0]).alpha.mean() > 0.98 and torch.isinf(alive).all()
    with pytest.raises(DepthError):
        fuse_layered_views(walk.replace(depth=None), TIMES)


def _disagreement(frames, truth):
    """Mean error in m of where each camera puts its points, relative to its neighbours in time."""
    points = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.2, 0.0], [-0.2, 0.2, 0.1]])
    local = points @ truth.viewmats[:, :3, :3].mT + truth.viewmats[:, None, :3, 3]
    poses = invert_rigid(frames.viewmats)
    placed = local @ poses[:, :3, :3].mT + poses[:, None, :3, 3]
    return float((placed[1:] - placed[:-1]).norm(dim=-1).mean())


def test_pose_refinement_shrinks_jitter(table):
    walk = table(*AZIMUTHS, size=96, wavelength=0.3)
    jittered = _jittered(walk, turn=0.004, shift=0.004)
    before = _disagreement(jittered.cameras, walk.cameras)
    after = _disagreement(refined_cameras(jittered), walk.cameras)
    assert before > 0.005 and after < 0.35 * before
    # What already fits stays where it is.
    assert _disagreement(refined_cameras(walk), walk.cameras) < 0.1 * before
    assert refined_cameras(jittered, config=PoseRefinementConfig(rounds=0)) is jittered.cameras


def test_plane_sweep_finds_depth_that_no_sensor_measured(table):
    walk = table(0.0, 6.0, 12.0, size=96, wavelength=0.1)
    hole = torch.zeros_like(walk.depth, dtype=torch.bool)
    hole[:, 55:85, 20:70] = True
    blind = walk.replace(depth=torch.where(hole, 0.0, walk.depth))
    swept, guessed = plane_sweep_depth(blind), complete_depth(blind.depth)
    error = lambda depth: float(((depth - walk.depth).abs() / walk.depth)[hole].mean())
    assert error(swept) < 0.5 * error(guessed) and error(swept) < 0.03
    assert torch.equal(swept[~hole], blind.depth[~hole])


def test_smooth_parts_are_merged_and_still_look_the_same(table):
    frame = table(0.0, size=64, wavelength=2.0)[0].replace(extras={}, alpha=None)
    everywhere = torch.ones(64, 64, dtype=torch.bool)
    drawn = {}
    for limit in (0.0, 0.1):
        cells = lift_cells(
            frame, everywhere, limit=limit, lift=LiftConfig(keep_pixels=True), config=LevelOfDetailConfig()
        )
        drawn[limit] = (cells.num_gaussians, psnr(render(cells.replace(extras={}), frame.cameras).rgb, frame.rgb))
    assert drawn[0.0][0] > 0.95 * 64 * 64 and drawn[0.1][0] < 0.3 * 64 * 64
    assert drawn[0.1][1] > 26


def test_the_fit_comes_nearer_to_the_mean_of_both_frames(table):
    walk, fit = table(*AZIMUTHS[:2], wavelength=0.12), LayeredViewsFitConfig(rounds=16, max_seconds=None)
    start, alive = fuse_layered_views(walk, TIMES[:2], config=PLAIN)
    calls = []
    progress = lambda done, total: calls.append((done, total))
    fitted = fit_layered_views(start, alive, frames=walk, times=TIMES[:2], config=fit, progress=progress)
    camera = interpolated_camera(walk.cameras)
    target, known = mean_picture(walk, camera, config=fit)
    before, after = (psnr(render(_at((g, alive), 0.05), camera).rgb, target.rgb, mask=known) for g in (start, fitted))
    assert after > before + 2
    assert calls[-1] == (16, 16) and (fitted.scales > 0).all() and not fitted.means.requires_grad


def test_the_fit_keeps_its_time(walk):
    start, alive = fuse_layered_views(walk[:2], TIMES[:2], config=PLAIN)
    fitted = fit_layered_views(
        start, alive, frames=walk[:2], times=TIMES, config=LayeredViewsFitConfig(max_seconds=0.0)
    )
    torch.testing.assert_close(fitted.means, start.means)


def test_the_fit_repeats_itself_whatever_the_clock_says(walk, monkeypatch):
    start, alive = fuse_layered_views(walk[:2], TIMES[:2], config=PLAIN)
    plain, bounded = LayeredViewsFitConfig(), LayeredViewsFitConfig(max_seconds=1e9)
    results = []
    for config, speed in ((plain, 1.0), (plain, 1e6), (bounded, 1e7)):
        clock = iter(range(1000))
        fake = SimpleNamespace(monotonic=lambda clock=clock, speed=speed: speed * next(clock))
        monkeypatch.setattr(adam_loop, "time", fake)
        results.append(fit_layered_views(start, alive, frames=walk[:2], times=TIMES[:2], config=config))
    for other in results[1:]:
        for name in ("means", "scales", "opacities", "sh"):
            assert torch.equal(getattr(results[0], name), getattr(other, name)), name
