"""MCAP recordings: a camera on a moving arm over a painted floor."""

import functools
import pickle
import struct
import sys

import numpy as np
import pytest
import torch
from floor_scene import WIDTH, assert_refused_when_spoiled, assert_true_to_the_floor, photograph
from left_out_names import left_out_names
from mcap_bag import COUNT, FPS, McapBag, record, writer

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.repair.mcap_repair import repair_mcap
from scene4d.errors import CalibrationError, DataFormatError, EnvError, TimestampError


@pytest.mark.parametrize("compressed", [False, True])
def test_floor(tmp_path, compressed):
    recording = open_recordings(record(tmp_path, compressed=compressed))[0]
    assert recording.cameras == ("head.color",)
    assert recording.num_frames == COUNT and recording.fps == pytest.approx(FPS)
    assert recording.depth_cameras == ("head.color",)
    episode = pickle.loads(pickle.dumps(recording)).read()
    assert_true_to_the_floor(episode)
    assert torch.allclose(episode.times, torch.arange(COUNT).double() / FPS, atol=1e-6), (
        "wall-clock stamps keep their ms"
    )
    assert episode.proprio[:, 0].tolist() == list(range(COUNT)) and episode.valid.all()
    rows = recording.info["proprio_spec"]
    assert [(row["name"], row["unit"]) for row in rows] == [("a", "rad"), ("finger", None)], "a finger is no angle"
    if not compressed:
        assert left_out_names(recording, "depth_not_registered") == ["/head/infra/image_raw"], (
            "depth of another frame is not registered"
        )


def test_lens_is_removed(tmp_path):
    record(tmp_path, d=[-0.2, 0.03, 0.0, 0.0, 0.0])
    frames = open_recordings(tmp_path)[0].read(0, 1).views["head.color"]
    assert 0.5 < frames.alpha.mean() < 1 or (frames.alpha == 1).all()
    with pytest.raises(AssertionError):  # the pictures had no such lens
        assert_true_to_the_floor(open_recordings(tmp_path)[0].read())


def test_a_gap_in_tf_marks_the_frames(tmp_path):
    record(tmp_path, tf=lambda i: i != 3, tick=lambda i: i / 2)
    episode = open_recordings(tmp_path)[0].read()
    assert episode.valid.tolist() == [True, True, True, False, True, True]
    assert (episode.views["head.color"].depth[3] == 0).all() and (episode.views["head.color"].alpha[3] == 0).all()
    assert_true_to_the_floor(episode[episode.valid])


def half(folder):
    file = record(folder) / "run.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def junk(folder):
    file = record(folder) / "run.mcap"
    data = bytearray(file.read_bytes())
    data[-40:-20] = struct.pack("<20B", *range(20))
    file.write_bytes(bytes(data))


def only_joints(folder):
    bag = McapBag(folder / "run.mcap")
    bag.write("/joint_states", "JointState", 0, name=["a"], position=[0.0], velocity=[], effort=[])
    bag.close()


FAULTS = {
    "cut": (half, DataFormatError, "cut short.*mcap recover"),
    "index damaged": (junk, DataFormatError, "damaged|no ROS images"),
    "no images": (only_joints, DataFormatError, r"no ROS images.*joint_states"),
    "no CameraInfo": (lambda f: record(f, info=False), CalibrationError, "no CameraInfo"),
    "not calibrated": (lambda f: record(f, k=[0.0] * 9), CalibrationError, "not calibrated"),
    "unknown lens": (
        lambda f: record(f, distortion_model="mirror", d=[1.0]),
        CalibrationError,
        "known lens.*mirror",
    ),
    "another size": (lambda f: record(f, width=WIDTH * 2), CalibrationError, "another image size"),
    "no tf at all": (
        lambda f: record(f, tf=lambda i: i < 2, tick=lambda i: i / 2),
        CalibrationError,
        r"tf has gaps at 4 of 6 frames.*first at 1\.000 s",
    ),
    "clock set back": (
        lambda f: record(f, tick=lambda i: (i if i < 4 else i - 3) / 2),
        TimestampError,
        "image_raw: frame 4: times do not increase",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    assert_refused_when_spoiled(tmp_path, FAULTS[name])


def test_without_mcap_the_extra_is_named(tmp_path, monkeypatch):
    record(tmp_path)
    monkeypatch.setitem(sys.modules, "mcap_ros2.decoder", None)
    with pytest.raises(EnvError, match=r'pip install "scene4d\[mcap\]"'):
        open_recordings(tmp_path)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_recording_that_was_cut_is_read_up_to_the_cut(tmp_path, monkeypatch, share):
    monkeypatch.setattr(writer, "Writer", functools.partial(writer.Writer, chunk_size=2000))
    whole = record(tmp_path) / "run.mcap"
    data = whole.read_bytes()
    whole.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataFormatError, match=r"cut short.*scene4d repair"):
        open_recordings(tmp_path)
    (tmp_path / "kept").mkdir()
    report = repair_mcap(whole, tmp_path / "kept" / "run.mcap")
    (recording,) = open_recordings(tmp_path / "kept")
    assert share * COUNT - 2 <= recording.num_frames < COUNT and report["lost_bytes"] < 5000
    episode = recording.read()
    assert_true_to_the_floor(episode[episode.valid])
    assert episode.valid.sum() >= recording.num_frames - 1, "only the frame that was being written may lack a part"


def test_a_clock_that_was_set_back_is_sorted_where_asked(tmp_path):
    record(tmp_path, tick=lambda i: [0, 1, 4, 2, 3, 5][i] / 10)
    (recording,) = open_recordings(tmp_path, resync="nearest")
    episode = recording.read()
    assert episode.times.tolist() == pytest.approx([i / 10 for i in range(COUNT)])
    shown = [0, 1, 3, 4, 2, 5]  # the third picture was stamped fifth
    assert episode.proprio[:, 0].tolist() == shown
    for k, i in enumerate(shown):
        picture, metres = photograph(0.2 * i)
        frames = episode.views["head.color"][k]
        assert (
            np.abs(frames.rgb.numpy() * 255 - picture).max() < 1 and np.abs(frames.depth.numpy() - metres).max() < 1e-3
        )


def test_doubled_stamps_are_counted_as_left_out(tmp_path):
    """Two pictures with one stamp: the first is shown, the other is noted."""
    record(tmp_path, tick=lambda i: [0, 1, 2, 2, 3, 4][i] / 10)
    with pytest.raises(TimestampError, match="--resync nearest"):
        open_recordings(tmp_path)
    (recording,) = open_recordings(tmp_path, resync="nearest")
    assert recording.info["resync"] == {"rule": "nearest", "left_out": 1, "repeated": 0, "farthest_ms": 0.0}
    episode = recording.read()
    assert episode.times.tolist() == pytest.approx([i / 10 for i in range(COUNT - 1)])
    for k, i in enumerate([0, 1, 2, 4, 5]):
        picture, metres = photograph(0.2 * i)
        frames = episode.views["head.color"][k]
        assert np.abs(frames.rgb.numpy() * 255 - picture).max() < 1
        assert np.abs(frames.depth.numpy() - metres).max() < 1e-3
