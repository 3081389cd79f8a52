"""Fault 9 of the catalogue: times that cannot be are refused, and placed on an even grid where that is asked for."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_fixtures import FPS, HEIGHT, LENGTH, TABLE, WIDTH, K, assert_refused, lerobot_set, tree_hash
from PIL import Image

from scene4d.apps.verbs.run_convert import ConvertOptions, run_convert
from scene4d.data.detect import open_recordings
from scene4d.data.timeline.resync import nearest_stamps, place_frames
from scene4d.errors import EXIT_USAGE, ConfigError, DataFormatError, TimestampError


@pytest.fixture
def root(tmp_path):
    return lerobot_set(tmp_path / "set")


def with_times(root, stamps):
    table = pq.read_table(root / TABLE)
    at = table.column_names.index("timestamp")
    pq.write_table(table.set_column(at, "timestamp", pa.array(stamps, pa.float32())), root / TABLE)
    return root


CASES = {
    "doubled": ([0.0, 0.1, 0.1, 0.3, 0.4, 0.5], [0, 1, 1, 3, 4, 5]),
    "out of order": ([0.0, 0.2, 0.1, 0.3, 0.5, 0.4], [0, 2, 1, 3, 5, 4]),
    "a jump": ([0.0, 0.1, 0.2, 0.5, 0.6, 0.7], [0, 1, 2, 2, 3, 3, 4, 5]),
    "two too many": ([0.0, 0.05, 0.1, 0.15, 0.2, 0.3], [0, 2, 4, 5]),
}


@pytest.mark.parametrize("name", CASES)
def test_9_every_instant_shows_the_nearest_frame(root, tmp_path, name):
    stamps, expected = CASES[name]
    truth = open_recordings(root)[0].read()
    with_times(root, stamps)
    reading = lambda: open_recordings(root)[0].read()
    error = assert_refused(root, reading, kind=TimestampError, file=TABLE, field="timestamp")
    assert "--resync nearest" in error.fix
    before = tree_hash(root)
    run_convert(ConvertOptions(root, tmp_path / "copy", resync="nearest"))
    assert tree_hash(root) == before
    recording = open_recordings(tmp_path / "copy")[0]
    read = recording.read()
    assert torch.equal(read.times, torch.arange(len(expected), dtype=torch.float64) / FPS)
    assert read.actions[:, 0].tolist() == expected, "actions go with their frame"
    assert torch.equal(read.views["front"].depth, truth.views["front"].depth[expected]), "and so do pictures"
    apart = (read.views["front"].rgb - truth.views["front"].rgb[expected]).abs()
    assert float(apart.mean()) < 0.01
    notes = recording.info["resync"]
    assert notes["left_out"] == LENGTH - len(set(expected)) and notes["repeated"] == len(expected) - len(set(expected))


def test_9_even_times_stay_as_they_are(root):
    plain, placed = (open_recordings(root, resync=rule) for rule in (None, "nearest"))
    for a, b in zip(plain, placed, strict=True):
        first, second = a.read(1, 5, stride=2), b.read(1, 5, stride=2)
        assert torch.equal(first.times, second.times) and torch.equal(first.actions, second.actions)
        for name, frames in first.views.items():
            assert torch.equal(frames.rgb, second.views[name].rgb)
            assert torch.equal(frames.cameras.viewmats, second.views[name].cameras.viewmats)
        assert b.info["resync"] == {"rule": "nearest", "left_out": 0, "repeated": 0, "farthest_ms": 0}


def test_9_poses_and_lenses_move_with_their_frames(tmp_path):
    """A transforms.json with uneven times, a pose and a K of its own a frame."""
    (tmp_path / "images").mkdir()
    times, frames = [0.0, 0.1, 0.21, 0.3, 0.55, 0.6], []
    for i, at in enumerate(times):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8)).save(tmp_path / f"images/{i}.png")
        pose = np.eye(4)
        pose[0, 3] = i
        entry = {"file_path": f"images/{i}.png", "time": at, "transform_matrix": pose.tolist(), "fl_x": 20.0 + i}
        frames.append({**entry, "k1": 0.001 * i, "cx": K[0, 2], "cy": K[1, 2], "w": WIDTH, "h": HEIGHT})
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", "frames": frames}))
    (recording,) = open_recordings(tmp_path, resync="nearest")
    read, expected = recording.read(), recording.index.tolist()
    assert len(set(expected)) < len(expected) and expected == sorted(expected)
    assert np.allclose(-read.views["camera"].cameras.viewmats[:, 0, 3], expected)
    assert np.allclose(read.views["camera"].cameras.Ks[:, 0, 0], [20 + i for i in expected])
    middle = read.views["camera"].rgb[:, HEIGHT // 2, WIDTH // 2, 0] * 255 / 40
    assert middle.round().tolist() == expected


def test_9_nearest_by_brute_force():
    dice = np.random.default_rng(0)
    for _ in range(50):
        times = dice.permutation(np.cumsum(dice.uniform(0.01, 0.3, 12)))
        index, apart = place_frames(times, fps=10.0, path="x")
        ticks = times.min() + np.arange(len(index)) / 10
        assert np.allclose(apart, np.abs(times[None] - ticks[:, None]).min(1))
        assert np.allclose(np.abs(times[index] - ticks), apart)
        assert abs(ticks[-1] - times.max()) <= 0.05 + 1e-9


def test_9_what_no_grid_can_hold(root):
    with_times(root, [0.0, 0.1, 0.2, 0.3, 0.4, 9e4])
    reading = lambda: open_recordings(root, resync="nearest")[0].read()
    error = assert_refused(root, reading, kind=TimestampError, file="set", field="times", words="far from all")
    assert error.frame == 5
    with_times(root, [0.0, 0.1, np.nan, 0.3, 0.4, 0.5])
    assert_refused(root, reading, kind=TimestampError, file=TABLE, field="timestamp")


def test_9_options_that_contradict_each_other(root):
    with pytest.raises(ConfigError) as caught:
        ConvertOptions(root, fps=10.0, resync="nearest")
    assert caught.value.exit_code == EXIT_USAGE and "resync" in caught.value.field
    with pytest.raises(ConfigError, match="resync: is unknown"):
        open_recordings(root, resync="linear")


def test_9_the_nearest_stamp_and_the_first_of_equals():
    index, apart = nearest_stamps(np.array([0.0, 1.0, 1.0, 2.0]), np.array([-3.0, 0.4, 0.5, 1.0, 1.4, 1.6, 9.0]))
    assert index.tolist() == [0, 0, 0, 1, 1, 3, 3]
    assert np.allclose(apart, [3, 0.4, 0.5, 0, 0.4, 0.4, 7])


def test_9_a_recording_without_a_frame():
    with pytest.raises(DataFormatError, match="no frame"):
        place_frames(np.zeros(0), fps=10.0, path="x")
