"""What `scene4d convert` writes, opened by the lerobot package itself; skipped where that is not installed."""

import importlib
import json

import pytest
import torch
from synthetic_folder import psnr, write_set

from scene4d.apps.verbs.run_convert import ConvertOptions, run_convert
from scene4d.data.detect import open_recordings


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("lerobot")
    write_set(root / "set")
    run_convert(ConvertOptions(root / "set", root / "copy"))
    return root / "copy"


def test_every_picture_column_has_the_statistics_that_lerobot_asks_for(converted):
    """Per channel over all pixels of all episodes, [c 1 1], colour in [0, 1], depth in steps."""
    stats = json.loads((converted / "meta/stats.json").read_text())
    info = json.loads((converted / "meta/info.json").read_text())
    cameras = [n for n, f in info["features"].items() if f["dtype"] in ("video", "image")]
    assert len(cameras) == 2 and set(cameras) <= set(stats)
    frames = [r.read().views["hand"] for r in open_recordings(converted)]
    rgb = torch.cat([f.rgb.reshape(-1, 3) for f in frames]).double()
    unit = json.loads((converted / "meta/cameras.json").read_text())["cameras"]["hand"]["depth_unit"]
    depth = torch.cat([f.depth.reshape(-1, 1) for f in frames]).double() / unit
    for name, values, near in (("observation.images.hand", rgb, 0.02), ("observation.depth.hand", depth, 1.0)):
        given = stats[name]
        for key, expected in (
            ("mean", values.mean(0)),
            ("std", values.std(0, unbiased=False)),
            ("max", values.amax(0)),
        ):
            got = torch.tensor(given[key], dtype=torch.float64)
            assert got.shape == (values.shape[1], 1, 1)
            torch.testing.assert_close(got.flatten(), expected, rtol=0, atol=near)
        assert given["count"] == [sum(len(f.rgb) for f in frames)]


def dataset(path):
    """The data set as lerobot opens it; skips where lerobot (or what it needs) is not installed."""
    try:
        module = importlib.import_module("lerobot.datasets.lerobot_dataset")
    except Exception as error:  # half an installation fails in many ways
        pytest.skip(f"lerobot is not installed: {str(error)[:80]}")
    return module.LeRobotDataset("local/copy", root=path, video_backend="pyav")


def test_lerobot_reads_the_same_rows(converted):
    data, recordings = dataset(converted), open_recordings(converted)
    assert (data.num_episodes, len(data), data.fps) == (len(recordings), sum(r.num_frames for r in recordings), 10)
    unit = json.loads((converted / "meta/cameras.json").read_text())["cameras"]["hand"]["depth_unit"]
    row = 0
    for index, recording in enumerate(recordings):
        episode = recording.read()
        frames = episode.views["hand"]
        for k in range(recording.num_frames):
            item = data[row]
            row += 1
            assert (int(item["episode_index"]), int(item["frame_index"])) == (index, k)
            assert item["task"] == episode.info["task"] and bool(item["next.done"]) == (k == recording.num_frames - 1)
            assert torch.equal(item["action"], episode.actions[k])
            assert torch.equal(item["observation.state"], episode.proprio[k])
            assert float(item["timestamp"]) == pytest.approx(float(episode.times[k]))
            assert torch.equal(item["observation.extrinsic.hand"], frames.cameras.viewmats[k])
            assert psnr(item["observation.images.hand"].permute(1, 2, 0), frames.rgb[k]) > 40
            # lerobot hands 16-bit pictures out as int16, whose upper half is negative.
            steps = item["observation.depth.hand"][0].int() & 0xFFFF
            assert float((steps * unit - frames.depth[k]).abs().max()) < 1e-5


def test_lerobot_can_train_on_it(converted):
    """Windows of actions, and the statistics that its training replaces by those of ImageNet."""
    meta = dataset(converted).meta
    assert set(meta.camera_keys) <= set(meta.stats), "its factory writes into the statistics of each camera"
    module = importlib.import_module("lerobot.datasets.lerobot_dataset")
    windows = {"action": [0.0, 0.1, 0.2]}
    data = module.LeRobotDataset("local/copy", root=converted, video_backend="pyav", delta_timestamps=windows)
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert batch["action"].shape == (4, 3, 2) and batch["observation.images.hand"].shape[:2] == (4, 3)
    last = data[7]
    assert last["action_is_pad"].tolist() == [False, True, True], "windows end with their episode"
