"""The main job end to end, shipped weights on the shipped episode: every file, and a forecast better than copying."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_agent import with_info

from scene4d.apps.cli import main
from scene4d.apps.compose.models import load_models, save_models
from scene4d.apps.verbs.run_act import ActOptions, run_act
from scene4d.apps.verbs.run_demo import (
    DemoOptions,
    read_episode,
    reconstruct_and_forecast,
    run_demo,
    write_future_files,
)
from scene4d.apps.verbs.run_forecast import ForecastOptions, run_forecast
from scene4d.apps.verbs.run_render import RenderOptions, run_render
from scene4d.data.video.video import count_frames
from scene4d.errors import ConfigError
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.gaussians.s4d.s4d import load_s4d, open_s4d

FILES = ("scene.s4d", "future.s4d", "forecast.mp4", "flow.npz", "actions.json", "report.json", "index.html")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    torch.set_num_threads(2)
    out = tmp_path_factory.mktemp("demo")
    return out, run_demo(DemoOptions(output=out))


def test_every_file_is_there(demo):
    out, _ = demo
    assert all((out / name).stat().st_size > 100 for name in FILES)
    assert len(list((out / "points").glob("*.ply"))) == 17
    assert count_frames(out / "forecast.mp4") == 23


def test_the_report_holds_every_metric_with_its_baselines(demo):
    out, result = demo
    report = json.loads((out / "report.json").read_text())
    assert report["horizon"] == result["horizon"]
    for row in report["horizon"].values():
        for name in ("psnr", "psnr_moving", "ssim", "flow_epe_moving", "flow_epe_static", "depth_absrel", "psnr_novel"):
            assert {name} <= row.keys() & row["copy_last"].keys() & row["constant_velocity"].keys()


def test_the_forecast_beats_copying(demo):
    _, result = demo
    at8 = result["horizon"]["8"]
    assert at8["psnr"] > at8["copy_last"]["psnr"] + 1.0
    assert at8["psnr_moving"] > at8["copy_last"]["psnr_moving"] + 1.0
    assert at8["flow_epe_moving"] < 0.6 * at8["copy_last"]["flow_epe_moving"]


def test_the_future_keeps_identities_and_its_flow_is_its_motion(demo):
    out, _ = demo
    past, future = load_s4d(out / "scene.s4d"), load_s4d(out / "future.s4d")
    assert future.observed.tolist() == [True] + [False] * 16
    kept = set(future.base.ids.tolist()) & set(past.base.ids.tolist())
    assert len(kept) > 0.9 * len(future.base.ids)
    flow = np.load(out / "flow.npz", allow_pickle=False)
    places, valid = flow["positions"], flow["valid"][0]
    assert np.allclose((places[1] - places[0])[valid], flow["flow"][0][valid], atol=1e-5)


def test_actions_have_names_units_and_sane_values(demo):
    out, _ = demo
    actions = json.loads((out / "actions.json").read_text())
    assert len(actions["names"]) == len(actions["units"]) == len(actions["actions"][0]) == 4
    assert np.isfinite(actions["actions"]).all() and np.abs(actions["actions"]).max() <= 1


def test_the_verbs_go_on_from_the_demo_files(demo, tmp_path):
    out, _ = demo
    future = tmp_path / "again.s4d"
    made = run_forecast(ForecastOptions(scene=out / "scene.s4d", output=future, start=2, steps=4, samples=2))
    assert made["num_steps"] == 4 and len(made["output"]) == 2
    assert run_act(ActOptions(scene=out / "scene.s4d", task="open the door"))["task"] == "door-open-v3"
    video = tmp_path / "orbit.mp4"
    run_render(RenderOptions(scene=future, output=video, camera="front", num_frames=5, what="flow"))
    assert count_frames(video) == 5


@pytest.fixture
def one_thread():
    """Forecasts are compared bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def open_weights(tmp_path_factory):
    """Trained weights that do not say which robot they learned from, so that any may be forecast."""
    path, models = tmp_path_factory.mktemp("weights") / "open.safetensors", with_info(load_models("tiny"), context={})
    save_models(path, models, info=models.info)
    return path


@pytest.mark.parametrize(
    "meaning", ["relative: how far the hand is to go, in steps of 0.02 m", "place of the hand, absolute"]
)
@pytest.mark.usefixtures("one_thread")
def test_forecast_of_the_demo_scene_is_the_demo_future(open_weights, tmp_path, meaning):
    """Bit for bit, for actions named x, y, z too: only the words of the recording say whether these are places."""
    options = DemoOptions(output=tmp_path / "demo", now=5, num_steps=10, seed=3, weights=open_weights)
    episode = read_episode(options)
    rows = [{"name": name, "unit": ""} for name in ("x", "y", "z", "gripper")]
    episode = episode.replace(info={**episode.info, "action_spec": rows, "action_meaning": meaning})
    result = reconstruct_and_forecast(load_models(open_weights), episode, stream=PastStream(), options=options)
    write_future_files(options.output, result)
    np.save(tmp_path / "actions.npy", episode.actions[5:15].numpy())
    words = ["--actions", tmp_path / "actions.npy", "--steps", 10, "--seed", 3, "--weights", open_weights]
    again = tmp_path / "again.s4d"
    assert main(["forecast", *map(str, [options.output / "scene.s4d", *words, "--output", again])]) == 0
    ours, theirs = open_s4d(options.output / "future.s4d"), open_s4d(again)
    for file in (ours, theirs):
        assert file.info["action_meaning"] == meaning and file.action_spec[0]["name"] == "x"
    ours, theirs = ours.scene(), theirs.scene()
    assert torch.equal(ours.motion.world_from_rest, theirs.motion.world_from_rest)
    assert torch.equal(ours.alive, theirs.alive) and torch.equal(ours.times, theirs.times)
    for name in ("means", "quats", "scales", "opacities", "sh", "ids"):
        assert torch.equal(getattr(ours.base, name), getattr(theirs.base, name)), name
    shift = ours.motion.world_from_rest[-1, :, 4:].norm(dim=-1)
    assert 0.001 < float(shift.max()) < 1.0  # something moves, by no more than there is room


@pytest.mark.usefixtures("one_thread")
def test_what_actions_mean_decides_the_future(open_weights, tmp_path):
    """The same numbers as steps and as places are two futures, so the words must reach the file."""
    options = DemoOptions(output=tmp_path, now=5, num_steps=8, weights=open_weights)
    episode, models, stream, futures = read_episode(options), load_models(open_weights), PastStream(), []
    rows = [{"name": name, "unit": ""} for name in ("x", "y", "z", "gripper")]
    for meaning in ("relative", "absolute"):
        episode = episode.replace(info={**episode.info, "action_spec": rows, "action_meaning": meaning})
        futures.append(reconstruct_and_forecast(models, episode, stream=stream, options=options).future)
    assert not torch.equal(futures[0].motion.world_from_rest, futures[1].motion.world_from_rest)


def test_a_future_that_the_recording_does_not_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_steps"):
        run_demo(DemoOptions(output=tmp_path / "out", num_steps=500))
    assert not (tmp_path / "out").exists()
