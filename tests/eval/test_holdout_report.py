"""The held-out report: its keys, its cases, and that a perfect scene beats a wrong one."""

import json
import math

import pytest
import torch
from box_scene import cast_boxes

from scene4d.errors import ConfigError
from scene4d.eval.reconstruct.score_reconstruction import (
    KEYS,
    holdout_cases,
    holdout_report,
    nearest_views,
    split_frames,
    three_nearest,
)
from scene4d.geometry.camera import intrinsics_from_fov, look_at
from scene4d.lift.rgbd.unproject import lift_frames
from scene4d.types import Cameras, Episode

SIZE = 48


def _frames(azimuths):
    target = torch.tensor([0.0, 0.0, 0.08])
    turn = torch.tensor(azimuths).deg2rad()
    centres = target + torch.stack([0.7 * turn.cos(), 0.7 * turn.sin(), torch.full_like(turn, 0.7)], -1)
    K = intrinsics_from_fov(math.radians(40), width=SIZE, height=SIZE).expand(len(azimuths), 3, 3)
    return cast_boxes(Cameras(viewmats=look_at(centres, target.expand_as(centres)), Ks=K, width=SIZE, height=SIZE))


def _episode(views):
    count = next(iter(views.values())).batch_shape[0]
    return Episode(
        views=views,
        times=torch.arange(count, dtype=torch.float64) / 10,
        valid=torch.ones(count, dtype=torch.bool),
        actions=torch.zeros(count, 0),
        proprio=torch.zeros(count, 0),
    )


def test_every_kth_frame_is_held_out():
    assert split_frames(9, every=4) == ([0, 1, 2, 4, 5, 6, 8], [3, 7])
    for every in (1, 20):
        with pytest.raises(ConfigError):
            split_frames(9, every=every)


def test_nearest_views_are_near():
    cameras = _frames([0.0, 10.0, 20.0, 90.0, 180.0]).cameras
    assert nearest_views(cameras, _frames([11.0]).cameras[0]).tolist() == [1, 2, 0]


def test_reprojection_of_exact_depth_is_close():
    target = _frames([15.0])[0]
    drawn = three_nearest(_frames([0.0, 10.0, 20.0]), target.cameras)
    error = ((drawn.rgb - target.rgb) ** 2).mean()
    assert -10 * error.log10() > 25


def test_report_of_a_sequence():
    episode = _episode({"camera": _frames([0.0, 5.0, 10.0, 15.0, 20.0, 25.0])})
    training, _ = split_frames(6, every=3)
    scene = lift_frames(episode.views["camera"][torch.tensor(training)])
    calls = []
    report = holdout_report(lambda time: scene, episode, holdout=3, progress=lambda *x: calls.append(x))
    assert set(report) == {"holdout", "baseline"} and set(report["baseline"]) == {"three_nearest", "lift"}
    for table in (report["holdout"], *report["baseline"].values()):
        assert set(table) == {*KEYS, "views"} and set(table["views"]) == {"camera/000002", "camera/000005"}
        mean = sum(v["psnr"] for v in table["views"].values()) / 2
        assert table["psnr"] == pytest.approx(mean) and table["psnr"] > 15 and table["depth_absrel"] < 0.1
    assert calls == [(1, 2), (2, 2)] and json.loads(json.dumps(report, allow_nan=False)) == report
    nothing = scene.replace(opacities=torch.zeros_like(scene.opacities))
    worse = holdout_report(lambda time: nothing, episode, holdout=3)["holdout"]
    assert worse["psnr"] < report["holdout"]["psnr"] - 5 and worse["depth_absrel"] is None


def test_cases_of_a_held_out_camera_are_of_their_own_instant():
    views = {"a": _frames([0.0] * 3), "b": _frames([40.0] * 3), "over": _frames([20.0] * 3)}
    cases = holdout_cases(_episode(views), holdout="over")
    assert [c.name for c in cases] == ["over/000000", "over/000001", "over/000002"]
    assert [c.time for c in cases] == [0.0, 0.1, 0.2]
    assert all(c.training.batch_shape == (2,) for c in cases)
    assert torch.equal(cases[1].training.rgb[1], views["b"].rgb[1])
    with pytest.raises(ConfigError):
        holdout_cases(_episode(views), holdout="nowhere")
