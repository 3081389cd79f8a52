"""The simulator's images, poses and motion must be one consistent world."""

import math

import pytest
import torch

pytest.importorskip("metaworld")

from scene4d.errors import ConfigError, EnvError
from scene4d.geometry.camera import project, unproject
from scene4d.geometry.neighbours import nearest
from scene4d.geometry.rotation import apply_pose, compose_pose, invert_pose
from scene4d.sim import rig
from scene4d.sim.metaworld import MetaWorldSim
from scene4d.sim.recorder import record_episode, record_parts, record_with
from scene4d.sim.viewpoints import Viewpoints


@pytest.fixture(scope="module")
def moved():
    """Frames and segment poses of the same episode at two moments, with the drawer opened in between."""
    with MetaWorldSim("drawer-open-v3", seed=3, size=(128, 128), cameras=rig.CAMERAS) as sim:
        for _ in range(30):
            sim.step(sim.expert_action())
        before, poses_before = sim.observe(), sim.segment_poses()
        for _ in range(14):
            sim.step(sim.expert_action())
        yield sim, (before, poses_before), (sim.observe(), sim.segment_poses())


def _depth_errors(points, frames, *, segments=None):
    """Predicted minus seen depth of world points, where they are visible and lie on a smooth surface (and segment)."""
    pixels, depth = project(points, frames.cameras.viewmats.double(), Ks=frames.cameras.Ks.double())
    size = torch.tensor([frames.cameras.width, frames.cameras.height])
    grid = (2 * pixels / size - 1)[None, None]
    inverse = (1 / frames.depth.double().clamp_min(1e-3))[None, None]  # linear in the image on a plane
    seen = torch.nn.functional.grid_sample(inverse, grid, align_corners=False)[0, 0, 0]
    spread = torch.nn.functional.max_pool2d(inverse, 3, 1, 1) + torch.nn.functional.max_pool2d(-inverse, 3, 1, 1)
    spread = torch.nn.functional.grid_sample(spread, grid, mode="nearest", align_corners=False)[0, 0, 0]
    inside = (grid.abs() < 1 - 2 / size.min()).all(-1)[0, 0] & (depth > 0)
    good = inside & (spread * depth < 0.05) & (seen > 0.01)
    if segments is not None:
        ids = frames.extras["segments"][..., 0].double()[None, None]
        good &= torch.nn.functional.grid_sample(ids, grid, mode="nearest", align_corners=False)[0, 0, 0] == segments
    error = (depth - 1 / seen)[good]
    return error[error < 0.02]  # a point further than what is seen there is hidden


def _points(frames):
    points = unproject(frames.depth.double(), frames.cameras.viewmats.double(), Ks=frames.cameras.Ks.double())
    return points[frames.depth > 0], frames.extras["segments"][..., 0][frames.depth > 0]


@pytest.mark.parametrize("pair", [("left", "right"), ("right", "left"), ("front", "top"), ("gripper", "left")])
def test_two_cameras_see_the_same_surface(moved, pair):
    frames = moved[1][0]
    points, _ = _points(frames[pair[0]])
    errors = _depth_errors(points, frames[pair[1]])
    assert len(errors) > 300
    assert errors.abs().median() < 0.0005  # half a pixel off in K would be 0.002


def test_camera_matrices_are_those_the_renderer_used(moved):
    sim = moved[0]
    for name in rig.CAMERAS:
        _check_matrices(sim, name)


def _check_matrices(sim, name):
    frames = sim._frames(name)
    centres = sim._renderer._scene.camera
    centre = torch.tensor((centres[0].pos + centres[1].pos) / 2, dtype=torch.float64)
    viewmat = frames.cameras.viewmats.double()
    assert torch.allclose(viewmat[:3, :3] @ centre + viewmat[:3, 3], torch.zeros(3).double(), atol=1e-5)
    assert torch.allclose(viewmat[2, :3], torch.tensor(centres[0].forward).double(), atol=1e-6)
    assert torch.allclose(viewmat[1, :3], -torch.tensor(centres[0].up).double(), atol=1e-6)
    slope = sim.size[1] / 2 / frames.cameras.Ks[1, 1]
    assert math.isclose(float(slope), centres[0].frustum_top / centres[0].frustum_near, rel_tol=1e-5)


def test_free_cameras_see_what_the_rig_sees(moved):
    """Drawn cameras of other fields of view: the same surfaces; and the rig's own as free ones: the same bits."""
    sim, (_, _), (after, _) = moved
    rig_points = torch.cat([_points(after[name])[0] for name in ("left", "right", "front", "top")])
    cameras = Viewpoints().episode("drawer-open-v3", seed=3, num_inputs=2, num_targets=2)
    try:
        sim.look_from({**cameras, "mine": rig.FIXED_CAMERAS["left"]})
        seen = sim.observe()
        assert list(seen) == ["input_0", "input_1", "target_0", "target_1", "mine"] == list(sim.viewpoints)
        assert all(torch.equal(getattr(seen["mine"], k), getattr(after["left"], k)) for k in ("rgb", "depth"))
        for name in cameras:
            _check_matrices(sim, name)
            distance, _ = nearest(rig_points, _points(seen[name])[0][::7], num=1)
            assert float(distance.median()) < 0.015
        sim.segments = ("input_1",)
        assert [name for name, frames in sim.observe().items() if frames.extras] == ["input_1"]
        with pytest.raises(ConfigError, match="behind"):
            sim.look_from(("left", "behind"))
    finally:
        sim.segments = True
        sim.look_from(rig.CAMERAS)
    assert sim.viewpoints == {} and torch.equal(sim.observe()["left"].rgb, after["left"].rgb)
    assert torch.equal(sim.observe()["gripper"].depth, after["gripper"].depth)


def test_points_move_with_their_segment(moved):
    sim, (before, poses_before), (after, poses_after) = moved
    motion = compose_pose(poses_after.double(), invert_pose(poses_before.double()))
    seen = set()
    for name in ("left", "right"):
        points, segments = _points(before[name])
        there = apply_pose(motion[segments], points)
        for index, segment in enumerate(sim.segment_names):
            own = segments == index
            errors = _depth_errors(there[own], after[name], segments=index)
            if len(errors) < 10:
                continue
            assert errors.abs().median() < 0.003, (name, segment)
            if (there[own] - points[own]).norm(dim=-1).mean() > 0.02:
                seen.add(segment)
    assert "drawer_link" in seen and "right_l6" in seen


def test_turned_cameras_see_the_same_scene_from_elsewhere():
    """Twenty degrees about the workspace: other pictures of the same surfaces, at the same distance."""
    clouds = []
    for turned in (0.0, 20.0):
        with MetaWorldSim("door-open-v3", seed=3, cameras=("left",), segments=False, turned_deg=turned) as sim:
            frames = sim.observe()["left"]
        points = unproject(frames.depth, frames.cameras.viewmats, Ks=frames.cameras.Ks)
        clouds.append((points[frames.depth > 0], frames))
    centres = [-f.cameras.viewmats[:3, :3].mT @ f.cameras.viewmats[:3, 3] for _, f in clouds]
    target = torch.tensor([0.0, 0.6, 0.12])
    assert abs(float((centres[0] - target).norm() - (centres[1] - target).norm())) < 1e-5
    assert 0.3 < float((centres[0] - centres[1]).norm()) < 0.5
    distance, _ = nearest(clouds[0][0], clouds[1][0], num=1)
    assert float(distance.median()) < 0.015


def test_segments_are_contiguous_and_the_world_stands_still(moved):
    sim, (before, poses_before), (after, poses_after) = moved
    assert sim.segment_names[0] == "world" and len(sim.segment_names) == len(poses_before)
    assert torch.equal(poses_before[0], torch.tensor([1.0, 0, 0, 0, 0, 0, 0]))
    assert torch.allclose(poses_after[:, :4].norm(dim=-1), torch.ones(len(poses_after)))
    ids = torch.cat([f.extras["segments"].flatten() for f in (*before.values(), *after.values())]).unique()
    assert ids.min() >= -1 and ids.max() < len(poses_before)
    sky = before["left"].extras["segments"][..., 0] < 0
    assert torch.equal(sky, before["left"].depth == 0) and 0.05 < sky.float().mean() < 0.3
    assert torch.allclose(before["left"].rgb[sky], torch.tensor(rig.SKY_RGB))


def test_leaving_out_what_is_outside_the_image_changes_no_pixel(moved, monkeypatch):
    sim = moved[0]
    images = sim.observe()
    monkeypatch.setattr("scene4d.sim.drawing.simulator._inside", lambda centers, radii, **_: radii >= 0)
    for name, frames in sim.observe().items():
        assert torch.equal(frames.rgb, images[name].rgb) and torch.equal(frames.depth, images[name].depth)
        assert torch.equal(frames.extras["segments"], images[name].extras["segments"])


def test_a_seed_fixes_every_bit():
    options = {"seed": 5, "noise": 0.3, "num_frames": 4, "size": (32, 32), "cameras": ("left",)}
    first = record_episode("push-v3", **options)
    with MetaWorldSim("push-v3", seed=9, size=(32, 32), cameras=("left",)) as used:
        for _ in range(3):
            used.step(torch.ones(4))
        second = record_episode("push-v3", seed=5, noise=0.3, num_frames=4, sim=used)
    other = record_episode("push-v3", **{**options, "seed": 6})
    assert torch.equal(first.views["left"].rgb, second.views["left"].rgb)
    assert torch.equal(first.views["left"].depth, second.views["left"].depth)
    for name in ("actions", "proprio", "rewards", "success", "segment_poses", "times"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert not torch.equal(first.segment_poses, other.segment_poses)


def test_the_tail_is_the_same_episode_without_pictures():
    options = {"seed": 5, "noise": 0.3}
    with MetaWorldSim("push-v3", size=(32, 32), cameras=("left",)) as sim:
        whole = record_with(sim, num_frames=9, **options)
        first, tail = record_parts(sim, num_frames=4, num_tail=5, **options)
    assert list(first.views) == ["left"] and tail.views == {} and first.batch_shape == (4,)
    assert torch.equal(first.views["left"].rgb, whole.views["left"].rgb[:4])
    for name in ("times", "actions", "proprio", "rewards", "success", "segment_poses"):
        assert torch.equal(torch.cat([getattr(first, name), getattr(tail, name)]), getattr(whole, name)), name


@pytest.mark.parametrize("task", [*rig.TRAIN_TASKS, *rig.HELD_OUT_TASKS])
def test_the_expert_solves_every_task(task):
    sim = MetaWorldSim(task, seed=0, cameras=())
    assert any(sim.step(sim.expert_action())[1] for _ in range(60))


def test_actions_do_what_their_names_say():
    sim = MetaWorldSim("reach-v3", seed=0, cameras=())
    assert [row["name"] for row in sim.action_spec] == ["dx", "dy", "dz", "gripper"]
    start = sim.proprio()
    for _ in range(6):
        reward, success = sim.step(torch.tensor([1.0, 0, 0, 1.0]))
    assert isinstance(reward, float) and success is False
    shift = sim.proprio() - start
    assert 0.02 < shift[0] < 0.13 and shift[1:3].abs().max() < 0.01
    assert shift[3] < -0.01  # the gripper closed
    assert sim.time == pytest.approx(6 * 0.025)
    for _ in range(8):
        sim.step(torch.tensor([0, 0, 0, -1.0]))
    assert sim.proprio()[3] > start[3] + shift[3] + 0.01


def test_bad_actions_tasks_and_cameras_are_refused():
    sim = MetaWorldSim("reach-v3", seed=0, cameras=())
    for action in (torch.zeros(3), torch.tensor([0, 0, math.nan, 0])):
        with pytest.raises(EnvError, match="action"):
            sim.step(action)
    with pytest.raises(ConfigError, match="fly-v3"):
        MetaWorldSim("fly-v3")
    with pytest.raises(ConfigError, match="side"):
        MetaWorldSim("reach-v3", cameras=("left", "side"))
    sim._env.curr_path_length = 499
    with pytest.raises(EnvError, match="over"):
        sim.step(torch.zeros(4))


def test_without_opengl_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(EnvError, match=r"mujoco\.osmesa.*libegl1"):
        MetaWorldSim("reach-v3", cameras=("left",)).observe()
