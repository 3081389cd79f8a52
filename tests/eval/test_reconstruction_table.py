"""The reconstruction table on an analytic episode with exact truth: right scenes score well, wrong ones do not."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from box_scene import Box, cast_boxes

from scene4d.errors import ConfigError, DataFormatError, EnvError
from scene4d.eval.metrics.perceptual import find_lpips
from scene4d.eval.metrics.view_scores import KEYS, covered_pixels, moved_since_start, normal_error, view_scores
from scene4d.eval.reconstruct.reconstruction_table import ReconstructEvalConfig, Source, bars, evaluate_reconstruction
from scene4d.eval.reconstruct.scene_motion import MotionEvalConfig, motion_scores
from scene4d.gaussians.edit import concatenate
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.reconstruct import ReconstructConfig
from scene4d.lift.rgbd.unproject import lift_frames
from scene4d.lift.stream.stream import StreamConfig
from scene4d.scene import Motion, Scene4D
from scene4d.types import Cameras, Episode, Frames

STEP, SIZE, COUNT = 0.012, 48, 4
EYES = {"left": (-0.6, -0.6, 0.6), "right": (0.6, -0.6, 0.6), "front": (0.0, -0.9, 0.5)}
GIVEN = ("left", "right")
QUICK = ReconstructEvalConfig(
    motion=MotionEvalConfig(steps=(1, 2), start_every=1),
    quick=ReconstructConfig(stream=StreamConfig(polish_first=2, polish=0), num_backdrop=50),
    tsdf=False,
)


def pose_at(t):
    return torch.tensor([1.0, 0, 0, 0, STEP * t, 0, 0])


def frames_at(name, t):
    K, x = intrinsics_from_fov(0.7, width=SIZE, height=SIZE), -0.1 + STEP * t
    viewmat = look_at(torch.tensor(EYES[name]), torch.tensor([-0.05, 0.0, 0.05]))
    cameras = Cameras(viewmats=viewmat, Ks=K, width=SIZE, height=SIZE)
    return cast_boxes(cameras, boxes=(Box((x, -0.05, 0.0), (x + 0.12, 0.07, 0.12)),), wavelength=50.0)


@pytest.fixture(scope="module")
def episode():
    """A box that slides by 12 mm a frame on the ground, three cameras."""
    poses = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(COUNT, 2, 1)
    poses[:, 1] = torch.stack([pose_at(t) for t in range(COUNT)])
    return Episode(
        views={n: Frames.stack([frames_at(n, t) for t in range(COUNT)]) for n in EYES},
        times=torch.arange(COUNT, dtype=torch.float64) / 10,
        valid=torch.ones(COUNT, dtype=torch.bool),
        actions=torch.zeros(COUNT, 0),
        proprio=torch.zeros(COUNT, 0),
        segment_poses=poses,
    )


def exact_scene(episode, *, moves=True, dies=False):
    """What the inputs see at frame 0, the box carried by its true motion (or left where it was)."""
    base = lift_frames(episode.stacked(GIVEN)[0])
    box = base.extras["segments"][:, 0] == 1
    alive = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64).repeat(base.num_gaussians, 1)
    if dies:
        alive[box, 1] = 0.0
    return Scene4D(
        base=base,
        motion=Motion(
            anchors=torch.zeros(1, 3),
            world_from_rest=torch.stack([pose_at(t if moves else 0) for t in range(COUNT)])[:, None],
            skin_index=torch.zeros(base.num_gaussians, 1, dtype=torch.int64),
            skin_weights=box[:, None].float(),
        ),
        alive=alive,
        times=episode.times,
        observed=torch.ones(COUNT, dtype=torch.bool),
    )


def test_motion_of_the_exact_scene_is_exact(episode):
    config = MotionEvalConfig(steps=(1, 3), start_every=4)
    table = motion_scores(exact_scene(episode), episode, cameras=GIVEN, config=config)
    assert set(table) == {"1", "3"} and json.loads(json.dumps(table)) == table
    assert table["1"]["rest_epe_moving"] == pytest.approx(STEP, rel=1e-4)
    assert table["3"]["rest_epe_moving"] == pytest.approx(3 * STEP, rel=1e-4)
    for row in table.values():
        # A pixel on an outline may be nearest to a Gaussian of the other surface.
        assert row["flow_epe_moving"] < 0.02 * row["rest_epe_moving"] and row["flow_epe_static"] < 1e-4
        assert row["identity"] > 0.99 and row["shown"] > 0.99 and row["num_moving"] > 50


def test_a_scene_at_rest_and_one_that_loses_the_box_fail(episode):
    config = MotionEvalConfig(steps=(3,), start_every=4)
    exact = motion_scores(exact_scene(episode), episode, cameras=GIVEN, config=config)["3"]
    for scene in (exact_scene(episode, moves=False), exact_scene(episode, dies=True)):
        row = motion_scores(scene, episode, cameras=GIVEN, config=config)["3"]
        assert row["flow_epe_moving"] == pytest.approx(row["rest_epe_moving"], rel=0.05)
        assert row["identity_moving"] < 0.05 and row["identity"] < exact["identity"] - 0.02
    with pytest.raises(DataFormatError, match="no exact motion"):
        motion_scores(scene, episode.replace(segment_poses=None), cameras=GIVEN)


def test_masks_are_what_others_saw_and_what_moved(episode):
    target = episode.views["front"][2]
    own = covered_pixels(target, target.map(lambda x: x[None]))
    assert torch.equal(own, target.depth > 0)
    covered = covered_pixels(target, episode.stacked(GIVEN)[2])
    assert 0.3 < float(covered.float().mean()) < 1.0 and not bool((covered & ~own).any())
    moved = moved_since_start(episode, "front", index=2)
    box = (target.extras["segments"][..., 0] == 1) | (episode.views["front"].extras["segments"][0, ..., 0] == 1)
    assert torch.equal(moved, box)
    assert moved_since_start(episode, "front", index=0) is None
    by_eye = moved_since_start(episode.replace(segment_poses=None), "front", index=3)
    assert bool(by_eye.any()) and not bool((by_eye & ~dilated(box)).any())


def dilated(mask):
    return torch.nn.functional.max_pool2d(mask[None].float(), 5, 1, 2)[0] > 0


def test_normals_of_a_tilted_plane_are_off_by_the_tilt():
    K = intrinsics_from_fov(0.8, width=32, height=32)
    camera = Cameras(viewmats=torch.eye(4), Ks=K, width=32, height=32)
    x = (torch.arange(32) + 0.5 - 16) / K[0, 0]
    plane = lambda angle: (1 / (1 + math.tan(angle) * x)).expand(32, 32).contiguous()
    make = lambda angle: Frames(rgb=torch.zeros(32, 32, 3), depth=plane(angle), alpha=None, cameras=camera)
    assert normal_error(make(0.0), make(0.0)) == pytest.approx(0.0, abs=1e-3)
    assert normal_error(make(math.radians(20)), make(0.0)) == pytest.approx(20.0, abs=0.05)
    holes = make(0.0).replace(depth=torch.zeros(32, 32))
    assert normal_error(holes, make(0.0)) is None
    assert view_scores(holes, make(0.0))["depth_absrel_covered"] == 1.0


def test_the_table_of_a_moving_scene(episode):
    calls = []
    source = Source("slide", episode, GIVEN, ("front",))
    table = evaluate_reconstruction(
        [source],
        config=QUICK,
        rebuild=lambda given, names: exact_scene(episode),
        progress=lambda name, *, done, total: calls.append((name, done, total)),
    )
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert calls == [("slide", k, COUNT) for k in range(1, COUNT + 1)]
    entry = table["sources"]["slide"]
    assert set(entry["methods"]) == {"ours", "three_nearest", "lift", "instant", "first"}
    assert all(set(row) == set(KEYS) for row in entry["methods"].values())
    ours = entry["methods"]["ours"]
    assert ours["psnr_covered"] > 20 and ours["depth_absrel_covered"] < 0.05
    difference = entry["paired"]["first"]["psnr_moving"]
    assert difference["num"] == COUNT - 1 and difference["mean"] > 1
    assert difference["mean"] == pytest.approx(ours["psnr_moving"] - entry["methods"]["first"]["psnr_moving"])
    assert table["bars"]["flow_epe_moving_1_m"] == {
        "value": entry["motion"]["1"]["flow_epe_moving"], "bar": 0.005, "met": True
    }  # fmt: skip
    assert "instant" not in table["bars"] and "tsdf" not in table["left_out"]


def test_held_out_instants_of_one_camera_and_the_bars(episode):
    views = [look_at(torch.tensor([0.2 * k - 0.5, -0.8, 0.6]), torch.tensor([0.0, 0.0, 0.05])) for k in range(6)]
    K = intrinsics_from_fov(0.7, width=SIZE, height=SIZE)
    frames = cast_boxes(Cameras(viewmats=torch.stack(views), Ks=K.expand(6, 3, 3), width=SIZE, height=SIZE))
    walk = Episode(
        views={"hand": frames},
        times=torch.arange(6, dtype=torch.float64),
        valid=torch.ones(6, dtype=torch.bool),
        actions=torch.zeros(6, 0),
        proprio=torch.zeros(6, 0),
    )

    def rebuild(given, names):
        assert list(given.times) == [0.0, 1.0, 3.0, 4.0] and names == ("hand",)
        scene = exact_scene(episode)
        sets = lift_frames(given.views["hand"].replace(extras={}))
        return scene.replace(
            base=concatenate([sets]),
            motion=scene.motion.replace(
                skin_index=torch.zeros(sets.num_gaussians, 1, dtype=torch.int64),
                skin_weights=torch.zeros(sets.num_gaussians, 1),
            ),
            alive=torch.tensor([-torch.inf, torch.inf], dtype=torch.float64).repeat(sets.num_gaussians, 1),
        )

    table = evaluate_reconstruction([Source("walk", walk, ("hand",), (3,))], config=QUICK, rebuild=rebuild)
    entry = table["sources"]["walk"]
    assert set(entry["methods"]) == {"ours", "three_nearest", "lift"} and entry["num_views"] == 2
    best = max(entry["methods"][m]["psnr"] for m in ("three_nearest", "lift"))
    bar = table["bars"]["psnr_over_best_baseline"]
    assert bar["value"] == pytest.approx(entry["methods"]["ours"]["psnr"] - best) and bar["bar"] == 1.5
    assert bar["met"] == (bar["value"] >= 1.5) and table["motion"] is None
    with pytest.raises(ConfigError, match="names nothing"):
        evaluate_reconstruction([])
    assert bars({}) == {}


def test_without_open3d_the_row_is_left_out_and_said(episode, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(sys.modules, "open3d", None)
    source = Source("slide", episode[:2], GIVEN, ("front",))
    config = replace(QUICK, tsdf=True, instants=False, motion=MotionEvalConfig(steps=(1,)))
    table = evaluate_reconstruction([source], config=config, rebuild=lambda given, names: exact_scene(episode))
    assert set(table["mean"]) == {"ours", "three_nearest", "lift"} and "library" in table["left_out"]["tsdf"]


def test_the_tsdf_shows_what_was_seen(episode):
    from scene4d.eval.reconstruct.tsdf_baseline import TsdfField

    try:
        field = TsdfField(episode.stacked(GIVEN)[0].replace(extras={}), voxel=0.02)
    except EnvError as error:
        pytest.skip(error.line())
    target = episode.views["front"][0]
    drawn = field.cast(target.cameras)
    scores = view_scores(drawn, target, covered=covered_pixels(target, episode.stacked(GIVEN)[0]))
    assert scores["psnr_covered"] > 18 and scores["depth_absrel"] < 0.05 and scores["depth_share"] > 0.7


def test_lpips_is_never_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found, why = find_lpips()
    assert found is None and "backbone" in why
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-abc.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert find_lpips()[0] is None

    class Difference(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()

        def forward(self, a, b):
            assert a.shape == (1, 3, 8, 6) and a.min() >= -1 and a.max() <= 1
            return (a - b).abs().mean()

    package = type(sys)("lpips")
    package.LPIPS = Difference
    monkeypatch.setitem(sys.modules, "lpips", package)
    distance, why = find_lpips()
    assert why == "" and distance(torch.ones(8, 6, 3), torch.zeros(8, 6, 3)) == 2.0
