"""The 2D baseline from stored episodes to a row of the table: clips, trials of the rate, weights, long forecasts."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from scene4d.apps.training.pixel_stage import clips_of, load_pixels, train_pixels_stage
from scene4d.eval.forecast.forecasters.pixel_forecaster import PixelForecaster, resized

from scene4d.apps.training.run_config import CacheConfig, PixelsStageConfig, RecordConfig, RunConfig
from scene4d.data.load.stored_episode import StoredEpisode, save_episode
from scene4d.data.load.window_set import WindowConfig, WindowSet
from scene4d.errors import CheckpointError
from scene4d.models.pixel_transformer.network import PixelModel, PixelsConfig
from scene4d.train.checkpoint import save_tensors
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
        self.tasks = ["reach-v3", "push-v3"]
        self.context = {"action_spec": SPEC, "proprio_spec": SPEC}


CONFIG = RunConfig(
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
    """What the stage returned, and where."""
    folder = tmp_path_factory.mktemp("run")
    windows = Windows(folder, num=9)
    folders = SimpleNamespace(
        windows=lambda config: windows, pixels=folder / "pixels", pixels_weights=folder / "pixels.safetensors"
    )
    return train_pixels_stage(folders, CONFIG), folders, windows


def test_clips_are_the_images_and_actions_of_their_moment(tmp_path):
    windows = Windows(tmp_path, num=1)
    stage = dataclasses.replace(CONFIG.pixels, model=PixelsConfig(size=SIZE))
    clip = clips_of(windows, [1], config=stage)  # now is frame 5
    level = lambda x: (x[0, :, 0].mean((-3, -2, -1)) * 51).round().tolist()
    assert level(clip.pictures) == [4, 5] and level(clip.future) == list(range(6, 14))
    # The last past action led from frame 4 to 5; before the episode there was none.
    assert torch.allclose(clip.past_actions[0, :, 0] * NUM, torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4]))
    assert torch.allclose(clip.past_proprio[0, :, 0] * NUM, torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4, 5]))
    assert torch.allclose(clip.actions[0, :, 0] * NUM, torch.arange(5.0, 13.0)) and clip.task.tolist() == [2]


def test_the_better_rate_is_found_and_its_weights_come_back(trained):
    result, folders, _ = trained
    assert result["lr"] == 1e-2 and result["trials"]["0.01"] < result["trials"]["1e-06"] and result["steps"] == 8
    model, info = load_pixels(folders.pixels_weights)
    assert info["cameras"] == ["left", "right"] and model.config.tasks == ("reach-v3", "push-v3")
    assert model.config.size == SIZE and model.config.horizon == CONFIG.dynamics.model.horizon


def test_it_forecasts_beyond_its_horizon_in_any_size(trained):
    model, info = load_pixels(trained[1].pixels_weights)
    episode = recording(0)
    past = episode[:6]
    cameras = {name: episode.views["left"].cameras[:3] for name in ("left", "right", "front")}
    question = ForecastQuestion(past, torch.zeros(12, 4), cameras=cameras, steps=(1, 8, 12))
    forecaster = PixelForecaster(model, info["cameras"])
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
    model = PixelModel(PixelsConfig(size=8, patch=4, num_views=1))
    rgb = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    camera = Cameras(viewmats=torch.eye(4).expand(3, 4, 4), Ks=torch.eye(3).expand(3, 3, 3), width=16, height=16)
    past = recording(0)[:3].replace(views={"left": Frames(rgb=rgb, depth=None, alpha=None, cameras=camera)})
    question = ForecastQuestion(past, torch.zeros(2, 4), cameras={"left": camera[:2]})
    frames, _ = PixelForecaster(model, ["left"]).forecast(question)
    torch.testing.assert_close(frames["left"].rgb, rgb[-1].expand(2, 16, 16, 3), atol=1e-6, rtol=0)
    flat = torch.full((1, 1, 16, 16, 3), 0.3)
    torch.testing.assert_close(resized(flat, (8, 8)), torch.full((1, 1, 8, 8, 3), 0.3))


def test_other_weights_are_refused(tmp_path):
    save_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, state={"configs": {}})
    with pytest.raises(CheckpointError, match="--pixels"):
        load_pixels(tmp_path / "w.safetensors")
