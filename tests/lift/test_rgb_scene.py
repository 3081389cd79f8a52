"""Pictures of several cameras without depth: planes are found, other views shown, what moves is tracked."""

from __future__ import annotations

import math

import pytest
import torch
from turning_box import TurningBox

from scene4d.errors import CalibrationError, DataFormatError
from scene4d.geometry.camera import unproject
from scene4d.lift.rgb.photometric_track import PhotometricTrackConfig, active_rows, changed_pixels
from scene4d.lift.rgb.plane_sweep_wide import WidePlaneSweepConfig, wide_plane_sweep_depth
from scene4d.lift.rgb.rgb_scene import RgbConfig, is_fixed_rig, reconstruct_rgb_episode, scene_of_states
from scene4d.lift.rgb.sparse_view_fit import (
    SparseViewFitConfig,
    fit_sparse_views,
    inverse_depth_curvature,
    random_camera,
)
from scene4d.lift.rgb.splat_trainer import focus_and_extent
from scene4d.lift.rgbd.unproject import lift_frames
from scene4d.render.losses import psnr
from scene4d.render.render import render
from scene4d.types import Frames

BOX = TurningBox(size=64)
AROUND, BETWEEN = (-2.6, -1.9, -1.2, -0.5), (-1.55,)
PLANES = WidePlaneSweepConfig(num_level=48, num_facing=16, near=0.5, far=2.0)
QUICK = SparseViewFitConfig(planes=PLANES, steps=60, max_seconds=None, max_gaussians=4200, num_backdrop=100)


def blind(frames: Frames) -> Frames:
    return frames.replace(depth=None, extras={})


@pytest.fixture(scope="module")
def cameras():
    return BOX.cameras(azimuths=AROUND)


@pytest.fixture(scope="module")
def still(cameras):
    return fit_sparse_views(blind(BOX.frames(0, cameras)), config=QUICK)


def test_the_table_is_found_between_cameras_forty_degrees_apart(cameras):
    truth = BOX.frames(0, cameras)
    focus, extent = focus_and_extent(truth)
    depth = wide_plane_sweep_depth(blind(truth), focus=focus, extent=extent, config=PLANES)
    error = (depth - truth.depth).abs() / truth.depth
    places = unproject(truth.depth, truth.cameras.viewmats, Ks=truth.cameras.Ks)
    table = (truth.extras["segments"][..., 0] == 0) & (places[..., :2].norm(dim=-1) < 0.4)
    assert float((error[table] < 0.03).float().mean()) > 0.8
    # Pictures that belong to other cameras say nothing of the sort.
    mixed = truth.replace(cameras=truth.cameras[torch.tensor([2, 0, 3, 1])])
    wrong = wide_plane_sweep_depth(blind(mixed), focus=focus, extent=extent, config=PLANES)
    theirs = BOX.frames(0, mixed.cameras).depth
    assert float(((wrong - theirs).abs() / theirs < 0.03)[table].float().mean()) < 0.5


def test_a_view_from_elsewhere_is_shown(cameras, still):
    held = BOX.frames(0, BOX.cameras(azimuths=BETWEEN))[0]
    given = BOX.frames(0, cameras)
    nearest = max(float(psnr(given.rgb[i], held.rgb)) for i in (1, 2))
    assert float(psnr(render(still, held.cameras).rgb, held.rgb)) > nearest + 3
    assert still.num_gaussians <= 4200 + QUICK.num_backdrop


def test_the_same_seed_gives_the_same_bits(cameras):
    frames, config = blind(BOX.frames(0, cameras)), SparseViewFitConfig(planes=PLANES, steps=3, max_gaussians=500)
    first, second = (fit_sparse_views(frames, config=config) for _ in range(2))
    assert torch.equal(first.means, second.means) and torch.equal(first.sh, second.sh)


def test_planes_do_not_bend_and_steps_do():
    camera = BOX.cameras()[0]
    x = torch.linspace(-1, 1, 64)
    plane = (1 / (1 + 0.3 * x)).expand(64, 64)
    step = torch.where(x > 0, 2.0, 1.0).expand(64, 64)
    gray = torch.full((64, 64, 3), 0.5)
    see = lambda z: Frames(rgb=gray, depth=z, alpha=torch.ones(64, 64), cameras=camera)
    assert float(inverse_depth_curvature(see(plane), gray, extent=1.0)) < 1e-6
    assert float(inverse_depth_curvature(see(step), gray, extent=1.0)) > 0.01
    edge = (x > 0).float()[None, :, None].expand(64, 64, 3)
    assert float(inverse_depth_curvature(see(step), edge, extent=1.0)) < 1e-5, "where colours have an edge, depth may"
    holes = see(step).replace(alpha=torch.zeros(64, 64))
    assert float(inverse_depth_curvature(holes, gray, extent=1.0)) == 0.0


def test_cameras_elsewhere_look_at_the_focus_from_as_far(cameras):
    focus, random = torch.tensor([0.1, 0.0, 0.05]), torch.Generator().manual_seed(1)
    away = (cameras.viewmats[:, :3, :3].mT @ cameras.viewmats[:, :3, 3:])[..., 0].neg() - focus
    low, high = float(away.norm(dim=-1).min()), float(away.norm(dim=-1).max())
    sides = set()
    for _ in range(60):
        camera = random_camera(cameras, focus=focus, random=random)
        seen = camera.viewmats[:3, :3] @ focus + camera.viewmats[:3, 3]
        assert float(seen[:2].norm()) < 1e-5 and low - 1e-4 <= float(seen[2]) <= high + 1e-4
        eye = -camera.viewmats[:3, :3].T @ camera.viewmats[:3, 3] - focus
        sides.add(math.floor(2 * math.atan2(eye[1], eye[0]) / math.pi))
    assert len(sides) == 4, "from every side"


def test_only_what_pictures_contradict_may_move(cameras):
    before, now, config = BOX.frames(0, cameras), BOX.frames(1, cameras), PhotometricTrackConfig()
    truth = lift_frames(before)
    on_box = truth.extras["segments"][:, 0] == 1
    truth = truth.replace(extras={})
    assert not bool(active_rows(truth, before, before=before, config=config).any())
    active = active_rows(truth, now, before=before, config=config)
    assert float(active[on_box].float().mean()) > 0.5 and float(active[~on_box].float().mean()) < 0.1
    # A camera that moves sees change everywhere; the others decide.
    turned = BOX.cameras(azimuths=(-2.4, *AROUND[1:]))
    changed = changed_pixels(BOX.frames(0, turned), before, shown=before, config=config)
    assert not bool(changed.any())


def test_a_box_that_slides_is_followed_and_the_table_rests(cameras):
    episode = BOX.episode(4, cameras=cameras)
    bare = episode.replace(views={n: blind(f) for n, f in episode.views.items()})
    calls = []
    scene = reconstruct_rgb_episode(
        bare, config=RgbConfig(fit=QUICK), progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (4, 4) and torch.equal(scene.times, episode.times)
    assert scene.info["steps"] == QUICK.steps
    start, stop = (float(episode.times[i]) for i in (0, 3))
    flow, valid = scene.flow(start, stop)
    assert bool(valid.all())
    # Rows at places where the box truly was, and where the table was far from it.
    places = scene.base.means
    near_box = (BOX.clearance(places, 0) < 0.02) & (places[:, 2] > 0.03)
    truth = (BOX.truth(places[near_box], 0, 3) - places[near_box]).float()
    error, rest = (flow[near_box] - truth).norm(dim=-1).mean(), truth.norm(dim=-1).mean()
    assert int(near_box.sum()) > 60 and float(error) < 0.75 * float(rest)
    far = (places[:, :2].norm(dim=-1) > 0.35) & (places[:, 2].abs() < 0.02)
    assert int(far.sum()) > 100 and float((flow[far].norm(dim=-1) > 0).float().mean()) < 0.05
    held = BOX.frames(3, BOX.cameras(azimuths=BETWEEN))[0]
    shown, stayed = (render(scene.at(t), held.cameras).rgb for t in (stop, start))
    assert float(psnr(shown, held.rgb)) > float(psnr(stayed, held.rgb)) + 0.5


def test_a_scene_of_states_is_those_states(still):
    states, random = [still], torch.Generator().manual_seed(2)
    for _ in range(2):
        last = states[-1]
        means, quats, sh = last.means.clone(), last.quats.clone(), last.sh.clone()
        means[:50] += 0.02 * torch.randn(50, 3, generator=random)
        quats[:50] = torch.nn.functional.normalize(quats[:50] + 0.1 * torch.randn(50, 4, generator=random), dim=-1)
        sh[25:75] += 0.1
        states.append(last.replace(means=means, quats=quats, sh=sh))
    scene = scene_of_states(states, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    for time, state in zip((0.0, 0.5, 1.0), states, strict=True):
        now = scene.at(time)
        torch.testing.assert_close(now.means, state.means, atol=1e-5, rtol=0)
        torch.testing.assert_close(now.sh, state.sh, atol=1e-5, rtol=0)
        same = (now.quats * state.quats).sum(-1).abs()
        torch.testing.assert_close(same, torch.ones_like(same), atol=1e-5, rtol=0)
        assert torch.equal(now.ids, still.ids)
    assert torch.equal(scene.at(1.0).means[50:], still.means[50:]), "static rows are bit-equal"
    assert int((scene.motion.skin_weights != 0).sum()) == 50 == scene.motion.anchors.shape[0]
    alone = scene_of_states([still], torch.zeros(1, dtype=torch.float64))
    assert torch.equal(alone.at(0.0).means, still.means) and alone.residual is None


def test_what_cannot_be_is_named(cameras):
    episode = BOX.episode(2, cameras=cameras)
    with pytest.raises(DataFormatError, match="no such camera"):
        reconstruct_rgb_episode(episode, cameras=["a", "z"])
    with pytest.raises(DataFormatError, match="no valid frame"):
        reconstruct_rgb_episode(episode.replace(valid=torch.zeros(2, dtype=torch.bool)))
    with pytest.raises(CalibrationError, match="too few places"):
        reconstruct_rgb_episode(episode, cameras=["a", "b"])


def test_a_rig_is_fixed_where_one_of_three_stands(cameras):
    episode = BOX.episode(2, cameras=cameras)
    assert is_fixed_rig(episode, ["a", "b", "c"]) and not is_fixed_rig(episode, ["a", "b"])
    assert not is_fixed_rig(episode[:1], ["a", "b", "c"]), "one instant has nothing that moves"
    walk = BOX.episode(2, moving_camera=True).views["a"]
    assert is_fixed_rig(episode.replace(views={**episode.views, "b": walk, "c": walk}), ["a", "b", "c"])
    assert not is_fixed_rig(episode.replace(views=dict.fromkeys("abc", walk)), ["a", "b", "c"])
