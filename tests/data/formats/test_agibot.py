"""Episodes of AgiBot World: videos, depth, poses, states and texts in folders of their own."""

import json

import numpy as np
import pytest
from floor_scene import K, assert_true_to_the_floor, photograph, pose
from left_out_names import left_out_names
from PIL import Image

h5py = pytest.importorskip("h5py")

from scene4d.data.detect import open_recordings
from scene4d.data.diagnose.inspect import ledger_findings
from scene4d.data.video.video import encode_video
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import left_out

T = 6
TASK, EPISODE = "327", "648642"


def data_set(root, *, episode=EPISODE, parameters=True, depth=True):
    pictures = root / "observations" / TASK / episode
    cameras = root / "parameters" / TASK / episode / "parameters/camera"
    states = root / "proprio_stats" / TASK / episode
    for folder in (
        pictures / "videos",
        pictures / "depth",
        states,
        root / "task_info",
        *([cameras] if parameters else []),
    ):
        folder.mkdir(parents=True, exist_ok=True)
    for name, indices in {"head": [0.2 * i for i in range(T)], "hand_left": [2] * T}.items():
        shots = [photograph(i) for i in indices]
        encode_video(pictures / f"videos/{name}_color.mp4", np.stack([p for p, _ in shots]), fps=30, crf=0)
        if name == "head" and depth:
            for i, (_, metres) in enumerate(shots):
                Image.fromarray((metres * 1000).round().astype(np.uint16)).save(
                    pictures / f"depth/head_depth_{i:06d}.png"
                )
        if parameters:
            intrinsic = {"fx": K[0, 0], "fy": K[1, 1], "ppx": K[0, 2], "ppy": K[1, 2]}
            intrinsic |= dict.fromkeys(("k1", "k2", "k3", "p1", "p2"), 0.0)
            (cameras / f"{name}_intrinsic_params.json").write_text(json.dumps({"intrinsic": intrinsic}))
            poses = [pose(i) for i in indices]
            rows = [{"rotation_matrix": p[:3, :3].tolist(), "translation_vector": p[:3, 3].tolist()} for p in poses]
            text = json.dumps([{"extrinsic": r} for r in rows])
            (cameras / f"{name}_extrinsic_params_aligned.json").write_text(text)
    with h5py.File(states / "proprio_stats.h5", "w") as file:
        file["timestamp"] = np.arange(T)
        file["state/end/position"] = np.arange(T * 6, dtype=float).reshape(T, 2, 3)
        file["state/end/orientation"] = np.tile([0.0, 0, 0, 1], (T, 2, 1))
        file["state/effector/position"], file["state/joint/position"] = np.zeros((T, 2)), np.ones((T, 14))
        file["action/joint/position"] = np.zeros((0, 14))
    action = {"start_frame": 0, "end_frame": 3, "action_text": "reach"}
    task = {"episode_id": int(episode), "task_name": "pack", "label_info": {"action_config": [action]}}
    (root / f"task_info/task_{TASK}.json").write_text(json.dumps([task]))
    return root


def test_floor(tmp_path):
    recording = open_recordings(data_set(tmp_path))[0]
    assert recording.cameras == ("hand_left", "head") and recording.depth_cameras == ("head",) and recording.fps == 30
    read = recording.read(0, T, stride=2)
    assert_true_to_the_floor(read, tolerance=0.05)
    assert read.info["task"] == "pack" and left_out_names(recording, "other_texts") == ["reach"]
    assert read.proprio.shape == (3, 30) and read.actions.shape == (3, 16)
    assert read.actions[:, 0].tolist() == [12, 24, 30], "the state at the next frame read"
    assert recording.info["action_spec"][3] == {"name": "right_x", "unit": "m", "frame": "robot base"}
    assert left_out_names(recording, "unused_columns") == ["action/joint/position", "timestamp"]
    assert not ledger_findings(left_out(recording.info))


def test_episodes_in_natural_order(tmp_path):
    for episode in ("1000", "99"):
        data_set(tmp_path, episode=episode)
    recordings = open_recordings(tmp_path)
    assert [len(open_recordings(tmp_path / "observations" / TASK / part)) for part in ("", "99")] == [2, 1]
    assert [r.path.split("/")[-1] for r in recordings] == ["99", "1000"]


def test_without_parameters(tmp_path):
    data_set(tmp_path, parameters=False)
    with pytest.raises(CalibrationError, match="no calibration"):
        open_recordings(tmp_path)
    assert open_recordings(tmp_path, fov_deg=60)[0].cameras == ("hand_left", "head")


def test_a_missing_depth_picture_takes_only_its_camera(tmp_path):
    (data_set(tmp_path) / "observations" / TASK / EPISODE / "depth/head_depth_000003.png").unlink()
    recording = open_recordings(tmp_path)[0]
    assert recording.depth_cameras == () and left_out_names(recording, "missing_depth") == ["frame 3"]
    assert [f.kind for f in ledger_findings(left_out(recording.info))] == ["missing_depth"]


def test_a_camera_without_parameters_is_a_finding(tmp_path):
    cameras = data_set(tmp_path) / "parameters" / TASK / EPISODE / "parameters/camera"
    (cameras / "hand_left_intrinsic_params.json").unlink()
    recording = open_recordings(tmp_path)[0]
    assert recording.cameras == ("head",) and left_out_names(recording, "no_calibration") == ["hand_left"]


def test_faults(tmp_path):
    cameras = data_set(tmp_path) / "parameters" / TASK / EPISODE / "parameters/camera"
    file = cameras / "head_extrinsic_params_aligned.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps(rows[:-1]))
    with pytest.raises(CalibrationError, match="poses and frames differ") as caught:
        open_recordings(tmp_path)
    assert caught.value.field == "head"
    file.write_text("[{}]")
    with pytest.raises(CalibrationError, match="no pose a frame"):
        open_recordings(tmp_path)
    file.write_text("[")
    with pytest.raises(CalibrationError, match="cannot be read"):
        open_recordings(tmp_path)
    file.write_text(json.dumps(rows))
    (tmp_path / f"task_info/task_{TASK}.json").write_text("{")
    with pytest.raises(DataFormatError, match="is no JSON"):
        open_recordings(tmp_path)
