"""Raw episodes of DROID, written as its schema says: a painted floor, poses a step, one or two lenses a video."""

import json

import numpy as np
import pytest
from floor_scene import HEIGHT, WIDTH, K, assert_true_to_the_floor, photograph, pose
from left_out_names import left_out_names
from scipy.spatial.transform import Rotation

h5py = pytest.importorskip("h5py")

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.inspect import ledger_findings
from scene4d.data.video.video import encode_video
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import left_out

T = 8
SERIALS = {"wrist": "111", "ext1": "222"}


def row(matrix):
    """[x y z] and Euler angles about fixed axes."""
    return [*matrix[:3, 3], *Rotation.from_matrix(matrix[:3, :3]).as_euler("xyz")]


def hand(i):
    """The hand, from which the wrist camera hangs by a fixed offset."""
    offset = np.eye(4)
    offset[:3, :3], offset[:3, 3] = Rotation.from_euler("xyz", [0.2, -0.1, 0.5]).as_matrix(), [0.05, 0, 0.1]
    return pose(0.2 * i) @ np.linalg.inv(offset)


def episode(folder, *, tables=True, stereo=False, intrinsics=True):
    videos = folder / "recordings/MP4"
    videos.mkdir(parents=True)
    film = lambda indices: np.stack([photograph(i)[0] for i in indices])
    wrist, still = film([0.2 * i for i in range(T)]), film([1] * T)
    encode_video(videos / "111.mp4", wrist, fps=60, crf=0)
    if stereo:
        encode_video(videos / "222-stereo.mp4", np.concatenate([still, film([2] * T)], 2), fps=60, crf=0)
    else:
        encode_video(videos / "222.mp4", still, fps=60, crf=0)
    (folder / "recordings/SVO").mkdir()
    (folder / "recordings/SVO/111.svo").write_bytes(b"x")
    with h5py.File(folder / "trajectory.h5", "w") as file:
        state = file.create_group("observation/robot_state")
        state["cartesian_position"] = np.array([row(hand(i)) for i in range(T)])
        state["joint_positions"], state["gripper_position"] = np.ones((T, 7)), np.arange(T) / T
        file["action/cartesian_position"], file["action/gripper_position"] = np.full((T, 6), 2.0), np.arange(T) * 1.0
        file["action/joint_velocity"] = np.zeros((T, 7))
        file["observation/controller_info/failure"] = np.zeros(T, bool)
        if tables:
            poses = file.create_group("observation/camera_extrinsics")
            poses["111_left"] = np.array([row(pose(0.2 * i)) for i in range(T)])
            poses["222_left"], poses["222_right"] = np.array([row(pose(1))] * T), np.array([row(pose(2))] * T)
    facts = {"current_task": "wipe", "wrist_cam_serial": "111", "ext1_cam_serial": "222"}
    facts |= {"wrist_cam_extrinsics": row(pose(0)), "ext1_cam_extrinsics": row(pose(1))}
    (folder / "metadata_x.json").write_text(json.dumps(facts))
    matrix = {"cameraMatrix": [K[0, 0], K[0, 2], K[1, 1], K[1, 2]]}
    if intrinsics:
        (folder / "intrinsics.json").write_text(json.dumps(dict.fromkeys(SERIALS.values(), matrix)))
    return folder


@pytest.mark.parametrize("tables", [True, False], ids=["poses a step", "poses of the metadata"])
def test_floor(tmp_path, tables):
    recording = open_recordings(episode(tmp_path, tables=tables))[0]
    assert recording.cameras == ("wrist", "ext1") and recording.num_frames == T and recording.fps == 15
    read = recording.read(0, T, stride=3)
    assert_true_to_the_floor(read, tolerance=0.05)
    assert read.info["task"] == "wipe" and read.times.tolist() == pytest.approx([0, 0.2, 0.4])
    assert read.actions[:, 6].tolist() == [0, 3, 6] and read.proprio.shape == (3, 14)
    assert recording.info["action_spec"][3] == {"name": "roll", "unit": "rad", "frame": "robot base"}
    assert left_out_names(recording, "other_files") == ["recordings/SVO/111.svo"]
    assert {"action/joint_velocity", "observation/controller_info/failure"} == set(
        left_out_names(recording, "unused_columns")
    )
    assert not ledger_findings(left_out(recording.info))


def test_both_lenses_of_a_stereo_video(tmp_path):
    recording = open_recordings(episode(tmp_path, stereo=True))[0]
    assert recording.cameras == ("wrist", "ext1", "ext1_right") and recording.sizes["ext1_right"] == (WIDTH, HEIGHT)
    assert_true_to_the_floor(recording.read(0, T, stride=4), tolerance=0.05)


def test_intrinsics_in_the_table(tmp_path):
    with h5py.File(episode(tmp_path, intrinsics=False) / "trajectory.h5", "a") as file:
        for serial in SERIALS.values():
            file[f"observation/camera_intrinsics/{serial}_left"] = np.stack([K] * T)
    assert_true_to_the_floor(open_recordings(tmp_path)[0].read(0, 2), tolerance=0.05)


def test_without_intrinsics_poses_are_kept(tmp_path):
    episode(tmp_path, intrinsics=False)
    with pytest.raises(CalibrationError, match="no intrinsics") as caught:
        open_recordings(tmp_path)
    assert caught.value.file.endswith("intrinsics.json") and "cameraMatrix" in caught.value.fix
    recording = open_recordings(tmp_path, fov_deg=60)[0]
    viewmat = recording.read(0, 1).views["ext1"].cameras.viewmats[0].double().numpy()
    assert np.allclose(viewmat, np.linalg.inv(pose(1)), atol=1e-5)
    assert recording.info["calibration"].startswith("approximate")


def test_cameras_json(tmp_path):
    episode(tmp_path, intrinsics=False)
    camera = {"rgb": "222.mp4", "width": WIDTH, "height": HEIGHT, "K": K.tolist()}
    camera["viewmat"] = np.linalg.inv(pose(1)).tolist()
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": {"side": camera}}))
    recording = open_recordings(tmp_path)[0]
    assert recording.cameras == ("ext1",) and left_out_names(recording, "no_calibration") == ["wrist"]
    assert_true_to_the_floor(recording.read(0, 2), tolerance=0.05)


def test_a_camera_without_a_video_is_a_finding(tmp_path):
    (episode(tmp_path) / "recordings/MP4/222.mp4").unlink()
    recording = open_recordings(tmp_path)[0]
    assert recording.cameras == ("wrist",) and left_out_names(recording, "missing_videos") == ["ext1 (222)"]
    assert [f.kind for f in ledger_findings(left_out(recording.info))] == ["missing_videos"]


def spoil_table(name, values):
    def spoil(folder):
        with h5py.File(folder / "trajectory.h5", "a") as file:
            del file[name]
            file[name] = values

    return spoil


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda f: [p.unlink() for p in (f / "recordings/MP4").iterdir()], DataFormatError, "holds no videos.*SVO"),
        (
            spoil_table("observation/robot_state/joint_positions", np.ones((3, 7))),
            DataFormatError,
            "not as many of each",
        ),
        (spoil_table("observation/camera_extrinsics/222_left", np.ones((T, 7))), DataFormatError, "another shape"),
        (
            lambda f: encode_video(f / "recordings/MP4/222.mp4", np.zeros((3, 30, 40, 3), np.uint8), fps=60),
            DataFormatError,
            "frames differ",
        ),
    ],
)
def test_faults(tmp_path, spoil, kind, words):
    spoil(episode(tmp_path))
    with pytest.raises(kind, match=words) as caught:
        open_recordings(tmp_path)[0].read()
    assert str(tmp_path) in caught.value.file and caught.value.exit_code == 3
