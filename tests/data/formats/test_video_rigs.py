"""Videos of several cameras: real rigs, a painted floor, and what goes wrong with sizes, rates and lengths."""

import json
import pickle

import numpy as np
import pytest
import torch
from floor_scene import (
    HEIGHT,
    WIDTH,
    K,
    assert_refused_when_spoiled,
    assert_true_to_the_floor,
    fingerprint,
    photograph,
    pose,
)
from left_out_names import left_out_names

from scene4d.data.detect import open_recordings
from scene4d.data.video.video import encode_video
from scene4d.errors import CalibrationError, ConfigError, DataFormatError, SecurityError, VideoError

LENGTH, FPS = 25, 10.0


def entry(index, **changes):
    viewmat = np.linalg.inv(pose(index))
    camera = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": viewmat.tolist(), "rgb": f"{index}.mp4"}
    return camera | changes


def film(path, index, *, length=LENGTH, fps=FPS):
    """A still camera; a stamp in the corner tells the frame."""
    picture = photograph(index)[0]
    frames = np.repeat(picture[None], length, 0)
    frames[:, :6, :6] = (np.arange(length) * 8)[:, None, None, None].clip(0, 255)
    encode_video(path, frames, fps=fps, crf=0)


@pytest.fixture
def rig(tmp_path):
    for index in (0, 2):
        film(tmp_path / f"{index}.mp4", index)
    table = {"cameras": {"left": entry(0), "right": entry(2)}}
    (tmp_path / "cameras.json").write_text(json.dumps(table))
    return tmp_path


def test_floor(rig):
    recording = pickle.loads(pickle.dumps(open_recordings(rig)[0]))
    assert recording.cameras == ("left", "right") and recording.num_frames == LENGTH and recording.fps == FPS
    episode = recording.read(3, 24, stride=10)
    stamps = episode.views["left"].rgb[:, 1:4, 1:4].mean((1, 2, 3)) * 255 / 8
    assert stamps.round().tolist() == [3, 13, 23] and episode.times.tolist() == [0.3, 1.3, 2.3]
    masked = {n: f.replace(alpha=torch.ones_like(f.rgb[..., 0])) for n, f in episode.views.items()}
    for frames in masked.values():
        frames.alpha[:, :7, :7] = 0
    assert_true_to_the_floor(episode.replace(views=masked), tolerance=0.06)
    with pytest.raises(AssertionError):
        swapped = dict(zip(masked, reversed([f.rgb for f in masked.values()]), strict=True))
        wrong = {n: f.replace(rgb=swapped[n]) for n, f in masked.items()}
        assert_true_to_the_floor(episode.replace(views=wrong), tolerance=0.06)


def test_states_and_a_calibration_one_folder_up(rig):
    folder = rig / "episode"
    folder.mkdir()
    for name in ("0.mp4", "2.mp4"):
        (rig / name).rename(folder / name)
    states = np.arange(LENGTH - 1)[:, None] * np.ones(7)
    (folder / "annotation.json").write_text(json.dumps({"texts": ["wipe"], "states": states.tolist()}))
    recording = open_recordings(rig)[0]
    assert recording.num_frames == LENGTH - 1
    assert any("24" in name for name in left_out_names(recording, "frame_counts"))
    episode = recording.read(0, 9, stride=4)
    assert episode.info["task"] == "wipe" and episode.proprio[:, 0].tolist() == [0, 4, 8]
    assert episode.actions[:, 2].tolist() == [4, 8, 12], "the state at the next frame read"


def test_real_rig_of_four(shared_data):
    folder = shared_data / "dyn_pose2sim_4cam"
    before = fingerprint(folder)
    with pytest.raises(CalibrationError, match=r"cam01.*1088, 1920.*1080, 1920.*crop") as caught:
        open_recordings(folder)
    assert caught.value.file.endswith("cameras_opencv.json") and caught.value.field == "cameras.cam01"
    with pytest.raises(ConfigError):
        open_recordings(folder, fit="guess")
    recording = open_recordings(folder, fit="crop")[0]
    assert recording.cameras == ("cam01", "cam02", "cam03", "cam04") and recording.num_frames == 100
    assert recording.fps == 60 and recording.info["codecs"] == {"h264": 3, "vp9": 1}
    assert recording.sizes["cam02"] == (1080, 1920)
    episode = recording.read(40, 51, stride=10, size=(135, 240))
    for name, frames in episode.views.items():
        assert (-frames.cameras.viewmats[:, 1, 2] > 0.8).all(), "the cameras stand upright and the world's z is up"
        moved = (frames.rgb[0] - frames.rgb[1]).abs().mean()
        assert 0.002 < moved < 0.1, f"the person in {name} walks, the room does not"
    assert fingerprint(folder) == before
    scaled = open_recordings(folder, fit="scale")[0].read(0, 1, cameras=["cam01"], size=(135, 240))
    assert scaled.views["cam01"].cameras.Ks[0, 0, 0] < episode.views["cam01"].cameras.Ks[0, 0, 0]


def test_real_robot_episodes(shared_data):
    """Fourteen episodes without calibration: refused by name, read with a guess, one frame too many cut."""
    folder = shared_data / "robot_droid"
    with pytest.raises(CalibrationError, match=r"no calibration.*0\.mp4 \(320x192\)") as caught:
        open_recordings(folder)
    assert caught.value.file.endswith("cameras.json") and "template" in caught.value.fix
    recordings = open_recordings(folder, fov_deg=70)
    assert len(recordings) == 14 and all(r.cameras == ("0", "1", "2") for r in recordings)
    cut = {r.path.split("/")[-1]: r for r in recordings if left_out_names(r, "frame_counts")}
    assert sorted(cut) == ["0003", "0006"] and cut["0003"].num_frames == 205
    assert cut["0003"].info["task"] == "pick the green block and place it in plate"
    episode = cut["0006"].read(0, 41, stride=40, cameras=["2"])
    assert episode.proprio.shape == (2, 15) and episode.actions.shape == (2, 7) and episode.views["2"].rgb.std() > 0.05
    assert torch.equal(episode.actions[0], episode.proprio[1, :7])


def edit(rig, name, **changes):
    table = json.loads((rig / "cameras.json").read_text())
    table["cameras"][name] |= changes
    (rig / "cameras.json").write_text(json.dumps(table))


FAULTS = {
    "another size": (lambda r: edit(r, "left", width=80, height=60), CalibrationError, "another image size"),
    "no such video": (lambda r: edit(r, "left", rgb="9.mp4"), CalibrationError, r"names nothing.*9\.mp4"),
    "mirrored": (lambda r: edit(r, "left", viewmat=np.diag([1.0, 1, -1, 1]).tolist()), CalibrationError, "det -1"),
    "no pose": (lambda r: edit(r, "left", viewmat=None), CalibrationError, "no pose"),
    "unknown lens": (lambda r: edit(r, "left", lens="mirror", distortion=[1]), CalibrationError, "known distortion"),
    "folding lens": (lambda r: edit(r, "left", distortion=[-4, 0, 0, 0]), CalibrationError, "folds"),
    "no cameras": (lambda r: (r / "cameras.json").write_text('{"cameras": {}}'), CalibrationError, "names no camera"),
    "cut video": (lambda r: (r / "0.mp4").write_bytes((r / "0.mp4").read_bytes()[:200]), VideoError, "0.mp4"),
    "empty video": (lambda r: (r / "0.mp4").write_bytes(b""), VideoError, "0.mp4"),
    "shorter video": (lambda r: film(r / "2.mp4", 2, length=20), DataFormatError, "2.mp4 20"),
    "slower video": (lambda r: film(r / "2.mp4", 2, fps=5), VideoError, "different rates"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(rig, name):
    assert_refused_when_spoiled(rig, FAULTS[name])


def test_names_do_not_lead_out(rig):
    edit(rig, "left", rgb="../0.mp4")
    with pytest.raises((CalibrationError, SecurityError)):
        open_recordings(rig)
