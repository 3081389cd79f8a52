"""Training on recordings: what the scene memory tracked stands for the truth, and agrees with it where it is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("metaworld", reason="the simulator is not installed")

from scene4d.apps.training.cache import WindowCache, cache_stage, displacement_of
from scene4d.apps.training.import_recordings import import_stage, imported_episodes
from scene4d.apps.training.run_config import CacheConfig, RecordConfig
from scene4d.apps.verbs.run_train import TrainOptions, run_train
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.load.stored_episode import StoredEpisode
from scene4d.errors import DataFormatError, DepthError
from scene4d.sim.recorder import record_episode
from scene4d.types import Episode

CAMERAS = ("left", "right", "front")
CACHE = CacheConfig(window_stride=6)
BATCH = ("dynamics.batch_size=4", "policy.batch_size=8")


@pytest.fixture(scope="module")
def episode() -> Episode:
    return record_episode("door-open-v3", seed=901, num_frames=30, size=(64, 64), cameras=CAMERAS)


@pytest.fixture(scope="module")
def source(episode, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("recording") / "set"
    bare = episode.replace(rewards=None, success=None)
    write_lerobot(path, [bare, bare[:20]])
    return str(path)


@pytest.fixture(scope="module")
def cached(source, tmp_path_factory):
    folder, record = tmp_path_factory.mktemp("run"), RecordConfig(sources=(source,), cameras=CAMERAS)
    taken = import_stage(folder / "record", record, least=11, processes=1)
    result = cache_stage(folder / "cache", CACHE, record=record, episodes=folder / "record", processes=1)
    return folder, WindowCache(folder / "cache", CACHE, record=record, episodes=folder / "record"), taken, result


def test_pictures_actions_and_task_arrive(cached, episode):
    folder, cache, taken, _ = cached
    assert taken == {"episodes": 2, "frames": 50}
    stored = StoredEpisode(imported_episodes(folder / "record")[0])
    assert torch.allclose(stored.actions, episode.actions) and torch.allclose(stored.proprio, episode.proprio)
    frames, truth = stored.read(3, 4).stacked()[0], episode.stacked(CAMERAS)[3]
    assert (frames.depth - truth.depth).abs().max() < 2e-3
    assert (frames.rgb - truth.rgb).abs().mean() < 0.01
    assert stored.segment_poses is None and "segments" not in cache.window(0).memory.extras
    assert cache.tasks == ["door-open-v3"]


def test_tracked_motion_agrees_with_the_exact_one(cached, episode):
    """Rows on the door and the arm: the median error over 8 steps is a small part of the way."""
    _, cache, _, result = cached
    assert result["windows"] == len(cache) == 6
    ways, errors, still = [], [], []
    for number in range(4):
        window, (_, t) = cache.window(number, futures=False), cache.moment(number)
        rows, segments = nearest_segments(window.memory.means, episode, t=t)
        exact = displacement_of(window.memory.means[rows], segments, poses=episode.segment_poses[t : t + 9])[-1]
        known = window.displacement_valid[rows]
        assert known.float().mean() > 0.5
        error = (window.displacement[-1, rows] - exact).norm(dim=-1)[known]
        way = exact.norm(dim=-1)[known]
        ways.append(way[way > 0.02])
        errors.append(error[way > 0.02])
        still.append(error[way < 1e-4])
    assert len(torch.cat(ways)) > 200
    assert torch.cat(errors).median() < 0.2 * torch.cat(ways).median()
    assert (torch.cat(still) < 1e-3).float().mean() > 0.95


def nearest_segments(points, episode, *, t):
    """Rows [r] within 1 cm of a surface that the input cameras see at frame t, and its segment."""
    from scene4d.geometry.camera import unproject
    from scene4d.geometry.neighbours import nearest

    frames = episode.stacked(CAMERAS[:2])[t]
    seen = frames.depth > 0
    surface = unproject(frames.depth, frames.cameras.viewmats, Ks=frames.cameras.Ks)[seen]
    distance, index = nearest(surface, points, num=1)
    rows = (distance[:, 0] < 0.01).nonzero()[:, 0]
    segments = frames.extras["segments"][..., 0].long()[seen][index[rows, 0]]
    return rows[segments >= 0], segments[segments >= 0]


def test_a_whole_run_on_recordings_from_the_shipped_weights(source, tmp_path):
    text = f'start = "shipped"\nthreads = 1\nprocesses = 1\n[record]\nsources = ["{source}"]\n'
    (tmp_path / "c.toml").write_text(text + f"cameras = {list(CAMERAS)}\n[cache]\nwindow_stride = 6\n")
    options = TrainOptions(tmp_path / "c.toml", out=tmp_path / "run", steps=3, set=BATCH)
    result = run_train(options)
    assert list(result["stages"]) == ["record", "cache", "vae", "dynamics"] and not result["weights"]["policy"]
    # It went on from good weights: three steps cannot have reached this.
    assert result["stages"]["vae"]["psnr_decoded"] > 19
    assert result["stages"]["dynamics"]["outcome"] == 0  # neither reward nor success is told
    again = run_train(options)
    assert all(stage["skipped"] for stage in again["stages"].values())


def test_recordings_that_do_not_serve_are_named(source, tmp_path, episode):
    record = RecordConfig(sources=(source,), cameras=CAMERAS)
    with pytest.raises(DataFormatError, match="too short"):
        import_stage(tmp_path / "a", record, least=25, processes=1)
    with pytest.raises(DataFormatError, match="wrist"):
        import_stage(tmp_path / "b", dataclasses.replace(record, cameras=("wrist",)), least=11, processes=1)
    bare = {n: f.replace(depth=None) for n, f in episode.views.items()}
    write_lerobot(tmp_path / "bare", [episode.replace(views=bare)])
    with pytest.raises(DepthError, match="left"):
        import_stage(
            tmp_path / "c", dataclasses.replace(record, sources=(str(tmp_path / "bare"),)), least=11, processes=1
        )
