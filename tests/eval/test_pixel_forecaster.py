"""The 2D baseline from stored episodes to a row of the table: clips, trials of the rate, weights, long forecasts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from scene4d.apps.compose.models import load_models, make_models, save_models
from scene4d.apps.training.policy_stage import export_stage
from scene4d.apps.training.run import Run
from scene4d.apps.training.run_config import CacheConfig, RecordConfig, RunConfig
from scene4d.apps.verbs.evaluate_forecast import EvalForecastOptions, forecasters_of
from scene4d.config import dict_from_config
from scene4d.data.load.stored_episode import StoredEpisode, save_episode
from scene4d.data.load.window_set import WindowConfig, WindowSet
from scene4d.errors import CheckpointError, ConfigError
from scene4d.eval.forecast.forecasters.model_forecaster import ImageForecaster
from scene4d.eval.forecast.forecasters.past_stream import PastStream
from scene4d.models.pixel_transformer.family import PixelsStageConfig, clips_of
from scene4d.models.pixel_transformer.model import PixelTransformer, resized
from scene4d.models.pixel_transformer.network import PixelModel, PixelsConfig
from scene4d.robot.spec import RobotSpec
from scene4d.train.checkpoint import load_tensors, save_tensors
from scene4d.train.loop import LoopConfig
from scene4d.types import Cameras, Episode, Frames
from scene4d.world.evaluated import ForecastQuestion

SIZE, NUM = 16, 14
SPEC = [{"name": str(i)} for i in range(4)]


def recording(seed: int) -> Episode:
    """Two cameras whose images show the time by their brightness."""
    camera = Cameras(
        viewmats=torch.eye(4).expand(NUM, 4, 4), Ks=torch.eye(3).expand(NUM, 3, 3), width=SIZE, height=SIZE
    )
    level = (torch.arange(NUM) / 51.0)[:, None, None, None].expand(NUM, SIZE, SIZE, 3)
    depth = torch.ones(NUM, SIZE, SIZE)
    segments = {"segments": torch.zeros(NUM, SIZE, SIZE, 1, dtype=torch.int64)}
    views = {
        name: Frames(rgb=level + shift, depth=depth, alpha=None, cameras=camera, extras=segments)
        for name, shift in (("left", 0.0), ("right", 0.2))
    }
    return Episode(
        views=views,
        times=0.025 * torch.arange(NUM, dtype=torch.float64),
        valid=torch.ones(NUM, dtype=torch.bool),
        actions=torch.arange(NUM, dtype=torch.float32)[:, None].expand(NUM, 4) / NUM,
        proprio=torch.arange(NUM, dtype=torch.float32)[:, None].expand(NUM, 4) / NUM,
        rewards=torch.zeros(NUM),
        success=torch.zeros(NUM, dtype=torch.bool),
        segment_poses=torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).repeat(NUM, 1, 1),
        info={"task": "push-v3", "seed": seed, "action_spec": SPEC, "proprio_spec": SPEC, "robot": "none"},
    )


class Windows(WindowSet):
    """Stands for the cache of windows: two a recording, now at frames 3 and 5."""

    def __init__(self, folder, *, num):
        paths = [folder / f"{seed}.safetensors" for seed in range(num)]
        for seed, path in enumerate(paths):
            save_episode(path, recording(seed))
        super().__init__([StoredEpisode(path) for path in paths], WindowConfig(context=4, horizon=8, stride=2))
        self.tasks, self.num_inputs, self.num_past_actions, self.horizon = ["reach-v3", "push-v3"], 2, 8, 8
        robot = RobotSpec.from_info(recording(0).info, num_actions=4, num_proprio=4, step_seconds=0.025)
        self.robots, self.robot_of = (robot,), lambda number: robot

    def frames(self, number, *, horizon=0):
        episode, t = self.moment(number)
        return episode.read(t, t + 1 + horizon, cameras=self.cameras).stacked()


@dataclass(frozen=True)
class RunOn(Run):
    """A run whose cache is there already."""

    cache: Any = None

    def windows(self, *, only=None):
        return self.cache


CONFIG = RunConfig(
    family="pixel_transformer",
    record=RecordConfig(tasks=("reach-v3", "push-v3"), size=SIZE, num_frames=NUM),
    cache=CacheConfig(num_inputs=2),
    pixels=PixelsStageConfig(
        model=PixelsConfig(width=16, depth=2, num_heads=2, hidden=16, condition=16),
        batch_size=4,
        learning_rates=(1e-6, 1e-2),
        tune_steps=8,
        train=LoopConfig(steps=8, optim=dataclasses.replace(LoopConfig().optim, warmup_steps=1)),
    ),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the stage returned, and the weights that `scene4d train --pixels` leaves."""
    folder = tmp_path_factory.mktemp("run")
    run = RunOn(folder, CONFIG, cache=Windows(folder, num=9))
    (stage,) = run.family_stages()
    (folder / stage.name).mkdir()
    result, path = stage.build(folder / stage.name), folder / "pixels.safetensors"
    assert stage.name == "pixels" and export_stage(run, path=path, provenance={"name": "run"}, head=False)["bytes"] > 0
    return result, path


def test_clips_are_the_images_and_actions_of_their_moment(tmp_path):
    windows = Windows(tmp_path, num=1)
    clip = clips_of(windows, [1], config=PixelsConfig(size=SIZE))  # now is frame 5
    level = lambda x: (x[0, :, 0].mean((-3, -2, -1)) * 51).round().tolist()
    assert level(clip.pictures) == [4, 5] and level(clip.future) == list(range(6, 14))
    # The last past action led from frame 4 to 5; before the episode there was none.
    assert torch.allclose(clip.past_actions[0, :, 0] * NUM, torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4]))
    assert torch.allclose(clip.past_proprio[0, :, 0] * NUM, torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4, 5]))
    assert torch.allclose(clip.actions[0, :, 0] * NUM, torch.arange(5.0, 13.0)) and clip.task.tolist() == [2]


def test_the_better_rate_is_found_and_its_weights_come_back(trained):
    result, path = trained
    assert result["lr"] == 1e-2 and result["trials"]["0.01"] < result["trials"]["1e-06"] and result["steps"] == 8
    models = load_models(path)
    world = models.world
    assert world.cameras == ("left", "right") and world.config.tasks == ("reach-v3", "push-v3")
    assert world.config.size == SIZE and world.config.horizon == CONFIG.dynamics.model.horizon
    assert models.policy is None and models.robot.action.names == ("0", "1", "2", "3")
    assert models.world.spec.step_seconds == pytest.approx(0.025) and models.info["provenance"] == {"name": "run"}
    tensors, state = load_tensors(path.parent / "pixels" / "pixels.safetensors")
    assert state == {} and tensors.keys() == world.network.state_dict().keys()
    for name, value in world.network.state_dict().items():  # matrices are stored in half precision
        torch.testing.assert_close(value, tensors[name], atol=2e-3, rtol=2e-3)


def asked():
    """A past, three cameras, and what will be seen by them 1, 8 and 12 steps later."""
    episode = recording(0)
    past = episode[:6]
    cameras = {name: episode.views["left"].cameras[:3] for name in ("left", "right", "front")}
    return past, cameras, ForecastQuestion(past, torch.zeros(12, 4), cameras=cameras, steps=(1, 8, 12))


def test_it_forecasts_beyond_its_horizon_in_any_size(trained):
    past, cameras, question = asked()
    forecaster = ImageForecaster(load_models(trained[1]).world)
    frames, scene = forecaster.forecast(question)
    assert scene is None and set(frames) == {"left", "right"} and frames["left"].rgb.shape == (3, SIZE, SIZE, 3)
    fewer = {name: c[:2] for name, c in cameras.items()}
    short = forecaster.forecast(ForecastQuestion(past, torch.zeros(8, 4), cameras=fewer, steps=(1, 8)))[0]
    assert torch.equal(short["left"].rgb, frames["left"].rgb[:2])  # the first chunk knows of no second
    assert torch.equal(forecaster.forecast(question)[0]["left"].rgb, frames["left"].rgb)
    again = dataclasses.replace(question, seed=1)
    assert not torch.equal(forecaster.forecast(again)[0]["left"].rgb, frames["left"].rgb)


def test_enlarged_it_adds_to_the_image_as_it_is():
    """An untrained model adds nothing, so a sharp picture stays sharp although the model sees it shrunk."""
    network = PixelModel(PixelsConfig(size=8, patch=4, num_views=1))
    model = PixelTransformer(network, cameras=["left"], robot=RobotSpec.from_info({}))
    rgb = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    camera = Cameras(viewmats=torch.eye(4).expand(3, 4, 4), Ks=torch.eye(3).expand(3, 3, 3), width=16, height=16)
    past = recording(0)[:3].replace(views={"left": Frames(rgb=rgb, depth=None, alpha=None, cameras=camera)})
    question = ForecastQuestion(past, torch.zeros(2, 4), cameras={"left": camera[:2]})
    frames, _ = ImageForecaster(model).forecast(question)
    torch.testing.assert_close(frames["left"].rgb, rgb[-1].expand(2, 16, 16, 3), atol=1e-6, rtol=0)
    flat = torch.full((1, 1, 16, 16, 3), 0.3)
    torch.testing.assert_close(resized(flat, (8, 8)), torch.full((1, 1, 8, 8, 3), 0.3))


def test_it_is_a_row_of_the_table(trained):
    stream = PastStream(("left", "right"))
    rows = forecasters_of(None, stream, options=EvalForecastOptions(pixels_weights=trained[1]))
    assert [row.name for row in rows] == ["ours", "copy_last", "constant_velocity", "pixels_2d"]
    frames, scene = rows[-1].forecast(asked()[-1])
    assert scene is None and frames["right"].rgb.shape == (3, SIZE, SIZE, 3)
    assert torch.equal(
        frames["left"].rgb, ImageForecaster(load_models(trained[1]).world).forecast(asked()[-1])[0]["left"].rgb
    )


def test_a_file_from_before_there_were_families_is_read(trained, tmp_path):
    """Such a file has the key "pixels" for its configuration, and tensors without a prefix."""
    models, path = load_models(trained[1]), tmp_path / "old.safetensors"
    network = models.world.network
    learned = {key for key, parameter in network.named_parameters() if parameter.ndim >= 2}
    tensors = {k: v.half() if k in learned else v for k, v in network.state_dict().items()}
    save_tensors(
        path, tensors, state={"pixels": dict_from_config(network.config), "info": {"cameras": ["left", "right"]}}
    )
    old = load_models(path)
    assert old.family.name == "pixel_transformer" and old.world.cameras == ("left", "right")
    assert not old.world.training and old.policy is None
    frames, before = (ImageForecaster(m.world).forecast(asked()[-1])[0] for m in (old, models))
    assert torch.equal(frames["left"].rgb, before["left"].rgb)


def test_other_weights_are_refused(tmp_path):
    save_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, state={"configs": {}})
    with pytest.raises(CheckpointError, match="holds no world model"):
        load_models(tmp_path / "w.safetensors")
    models = make_models({})
    save_models(tmp_path / "scenes.safetensors", models, info={})
    options = EvalForecastOptions(pixels_weights=tmp_path / "scenes.safetensors")
    with pytest.raises(ConfigError, match=r"2D baseline.*Renders"):
        forecasters_of(None, PastStream(), options=options)
