"""Videos of several cameras: real rigs, a painted floor, and what goes wrong with sizes, rates and lengths."""

import json
import pickle

import av
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
from timed_video import encode_at, level_of

from scene4d.data.detect import open_recordings
from scene4d.data.video.video import encode_video
from scene4d.errors import CalibrationError, ConfigError, DataFormatError, SecurityError, VideoError
from scene4d.ledger import left_out

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


def numbered_rig(folder, ticks, *, rows=None):
    """Cameras 0, 1, ... whose frame i is at ticks[camera][i] of 30 a second, and state i of each row."""
    for camera, stamps in enumerate(ticks):
        encode_at(folder / f"{camera}.mp4", [512 * t for t in stamps], ticks_per_second=15360)
    table = {"cameras": {f"cam{camera}": entry(0, rgb=f"{camera}.mp4") for camera in range(len(ticks))}}
    (folder / "cameras.json").write_text(json.dumps(table))
    if rows is not None:
        states = np.arange(rows)[:, None] * np.ones(7)
        (folder / "annotation.json").write_text(json.dumps({"texts": ["x"], "states": states.tolist()}))
    return open_recordings(folder)[0]


def numbers_shown(recording, camera="cam0"):
    rgb = recording.read().views[camera].rgb
    return [level_of(picture) for picture in (rgb * 255).numpy()]


ONE_GAP = [i + (i >= 12) for i in range(40)]


def lost_entries(recording):
    return [entry for entry in left_out(recording.info) if entry.lost]


def test_as_many_frames_as_rows_are_counted(tmp_path):
    recording = numbered_rig(tmp_path, [ONE_GAP, range(40)], rows=40)
    assert numbers_shown(recording) == numbers_shown(recording, "cam1") == [i % 25 for i in range(40)]
    episode = recording.read(11, 15)
    assert episode.proprio[:, 0].tolist() == [11, 12, 13, 14] and recording.fps == pytest.approx(30)
    assert left_out_names(recording, "uneven_times") == ["0.mp4"] and not lost_entries(recording)


def test_frames_that_are_missing_are_found_by_their_times(tmp_path):
    """40 rows, 37 frames: three instants are left out with their rows, no frame is shown twice."""
    there = [i for i in range(40) if i not in (9, 20, 21)]
    recording = numbered_rig(tmp_path, [there, range(40)], rows=40)
    assert recording.num_frames == 37 and left_out_names(recording, "missing_frames") == [
        "frame 9",
        "frame 20",
        "frame 21",
    ]
    assert lost_entries(recording)
    assert recording.read().proprio[:, 0].tolist() == there
    assert numbers_shown(recording) == [i % 25 for i in range(37)]
    assert numbers_shown(recording, "cam1") == [i % 25 for i in there]
    assert np.allclose(recording.read().times, np.array(there) / 30)


def test_times_that_explain_nothing_are_refused(tmp_path):
    with pytest.raises(DataFormatError, match="numbers of frames differ"):
        numbered_rig(tmp_path, [ONE_GAP], rows=60)


def test_a_phone_video_keeps_its_times(tmp_path):
    recording = numbered_rig(tmp_path, [ONE_GAP, ONE_GAP])
    assert np.allclose(recording.read().times, np.array(ONE_GAP) / 30, atol=1e-4) and not lost_entries(recording)


def test_cameras_whose_times_disagree_are_in_doubt(tmp_path):
    recording = numbered_rig(tmp_path, [ONE_GAP, [i + (i >= 30) for i in range(40)]])
    assert [entry.kind for entry in lost_entries(recording)] == ["uneven_times"]


def test_what_an_annotation_holds_beyond_the_first_text_is_listed(rig):
    table = {"texts": ["a", "b", "c"], "states": np.zeros((LENGTH, 7)).tolist(), "success": 1, "joints": [[1.0]]}
    (rig / "annotation.json").write_text(json.dumps(table))
    (rig / "readme.txt").write_text("x")
    recording = open_recordings(rig)[0]
    assert left_out_names(recording, "other_texts") == ["b", "c"] and left_out_names(recording, "unused_keys") == [
        "success"
    ]
    assert left_out_names(recording, "other_files") == ["readme.txt"]
    assert [entry.names for entry in lost_entries(recording)] == [("joints",)]


def test_field_rig_with_a_gap(shared_data):
    recording = open_recordings(shared_data / "field/rig_gap1")[0]
    assert recording.num_frames == 200 and recording.fps == pytest.approx(30) and not lost_entries(recording)
    episode = recording.read(0, 200, stride=1)
    assert torch.allclose(episode.proprio[:, 0], torch.arange(200) / 100, atol=1e-6)
    with av.open(str(shared_data / "field/rig_gap1/0.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert torch.equal(
        (episode.views[recording.cameras[0]].rgb * 255).round().byte(), torch.from_numpy(np.stack(shown))
    )
