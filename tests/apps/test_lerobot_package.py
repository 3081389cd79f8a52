"""Data sets go both ways between scene4d and the lerobot package; skipped where that is not installed.

Passed with lerobot 0.6.1 and 0.4.4 (which knows no depth), both on Python 3.12 with torch 2.10.
"""

import importlib
import json

import numpy as np
import pytest
import torch
from data_fixtures import FPS, LENGTH, episode

from scene4d.data.detect import open_recordings
from scene4d.data.formats.lerobot.lerobot import write_lerobot
from scene4d.data.formats.lerobot.lerobot_tasks import SEGMENTS
from scene4d.data.video.depth_codec import LogDepth
from scene4d.ledger import left_out

WIDTH, HEIGHT = 128, 96  # px: the encoder that lerobot takes by default refuses smaller ones
K = np.array([[100.0, 0, 64], [0, 100.0, 48], [0, 0, 1]])
KEY, DEPTH = "observation.images.front", "observation.images.front_depth"


@pytest.fixture(scope="module")
def lerobot():
    """Its module of data sets."""
    try:
        return importlib.import_module("lerobot.datasets.lerobot_dataset")
    except Exception as error:  # half an installation fails in many ways
        pytest.skip(f"lerobot is not installed: {str(error)[:80]}")


@pytest.fixture
def with_depth(lerobot):
    """The same, where it knows depth (0.6)."""
    pytest.importorskip("lerobot.datasets.depth_utils", reason="this lerobot knows no depth")
    return lerobot


def opened(lerobot, root):
    return lerobot.LeRobotDataset("local/set", root=root, video_backend="pyav")


def test_tasks_of_frames(lerobot, tmp_path):
    parts = [{"task": "pick", "start": 0, "stop": 2}, {"task": "place", "start": 2, "stop": LENGTH}]
    one = episode(0)
    write_lerobot(tmp_path / "set", [one.replace(info={"task": "pick; place", SEGMENTS: parts})])
    data = opened(lerobot, tmp_path / "set")
    assert [data[i]["task"] for i in range(LENGTH)] == ["pick"] * 2 + ["place"] * (LENGTH - 2)


@pytest.mark.parametrize("store", [{"depth_video": LogDepth()}, {"depth_unit": 1e-3}])
def test_depth_that_scene4d_wrote(with_depth, tmp_path, store):
    """lerobot takes it as depth, in millimetres, and gives the values that scene4d reads itself."""
    write_lerobot(tmp_path / "set", [episode(0), episode(1)], **store)
    data = opened(with_depth, tmp_path / "set")
    assert data.meta.depth_keys == ["observation.depth.front"]
    row = 0
    for recording in open_recordings(tmp_path / "set"):
        depth = recording.read().views["front"].depth
        for metres in depth:
            millimetres = data[row]["observation.depth.front"].float().squeeze()
            assert torch.allclose(millimetres, (1000 * metres).round(), atol=1.0) and millimetres.max() > 1000
            row += 1
    assert row == len(data)


def record(lerobot, root, *, use_videos, features):
    """Two episodes, written by lerobot."""
    data = lerobot.LeRobotDataset.create("local/set", fps=int(FPS), root=root, features=features, use_videos=use_videos)
    for number in range(2):
        for i in range(LENGTH):
            frame = {"observation.state": np.array([i, number], np.float32), "action": np.array([-i], np.float32)}
            frame[KEY] = np.full((HEIGHT, WIDTH, 3), 30 * i + 20, np.uint8)
            if DEPTH in features:
                metres = np.linspace(0.5, 3, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) + 0.1 * i
                frame[DEPTH] = (1000 * metres).round().astype(np.uint16)
                frame[DEPTH][0, :3] = 0
            data.add_frame({**frame, "task": f"task {number}"})
        data.save_episode()
    getattr(data, "finalize", lambda: None)()


def features_of(*, depth, use_videos):
    kind, axes = ("video" if use_videos else "image"), ["height", "width", "channels"]
    features = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]},
        "action": {"dtype": "float32", "shape": (1,), "names": ["a"]},
        KEY: {"dtype": kind, "shape": (HEIGHT, WIDTH, 3), "names": axes},
    }
    marked = {"dtype": kind, "shape": (HEIGHT, WIDTH, 1), "names": axes, "info": {"is_depth_map": True}}
    return features | ({DEPTH: marked} if depth else {})


def calibrate(root, *, depth):
    entry = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": np.eye(4).tolist(), "rgb": KEY}
    entry |= {"depth": DEPTH} if depth else {}
    (root / "meta/cameras.json").write_text(json.dumps({"cameras": {"front": entry}}))


@pytest.mark.parametrize("use_videos", [True, False])
def test_a_set_that_lerobot_wrote(lerobot, tmp_path, use_videos):
    root = tmp_path / "set"
    record(lerobot, root, use_videos=use_videos, features=features_of(depth=False, use_videos=use_videos))
    calibrate(root, depth=False)
    recordings = open_recordings(root)
    assert [r.info["task"] for r in recordings] == ["task 0", "task 1"]
    for number, recording in enumerate(recordings):
        whole = recording.read()
        assert whole.proprio.tolist() == [[i, number] for i in range(LENGTH)] and not left_out(whole.info)
        assert whole.actions[:, 0].tolist() == [-i for i in range(LENGTH)]
        shown = whole.views["front"].rgb.mean((1, 2, 3)) * 255
        assert torch.allclose(shown, torch.arange(LENGTH) * 30.0 + 20, atol=3)


@pytest.mark.parametrize("use_videos", [True, False])
def test_depth_that_lerobot_wrote(with_depth, tmp_path, use_videos):
    """Its 12-bit video, and TIFF in the unit that it tells."""
    root = tmp_path / "set"
    record(with_depth, root, use_videos=use_videos, features=features_of(depth=True, use_videos=use_videos))
    calibrate(root, depth=True)
    for recording in open_recordings(root):
        depth = recording.read().views["front"].depth.numpy()
        metres = np.linspace(0.5, 3, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
        for i in range(LENGTH):
            assert (depth[i, 0, :3] == 0).all(), "holes"
            assert np.allclose(depth[i, 1:], metres[1:] + 0.1 * i, atol=2e-3)
