"""Instants with NumPy calibration: a painted floor, and the two real projects that publish such folders."""

import numpy as np
import pytest
import torch
from floor_scene import K, assert_refused_when_spoiled, assert_true_to_the_floor, fingerprint, photograph, pose
from left_out_names import left_out_names
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.errors import CalibrationError, DataFormatError, SecurityError
from scene4d.geometry.camera import project
from scene4d.ledger import left_out


@pytest.fixture
def listed(tmp_path):
    for i in range(3):
        Image.fromarray(photograph(i)[0]).save(tmp_path / f"img_{i}.png")
    np.save(tmp_path / "intr_list.npy", np.stack([K] * 3))
    np.save(tmp_path / "R_list.npy", np.stack([pose(i)[:3, :3] for i in range(3)]))
    np.save(tmp_path / "t_list.npy", np.stack([pose(i)[:3, 3] for i in range(3)]))
    return tmp_path


def test_floor(listed):
    recording = open_recordings(listed)[0]
    assert recording.cameras == ("camera0", "camera1", "camera2") and recording.num_frames == 1
    assert not left_out_names(recording, "world_axis")
    assert_true_to_the_floor(recording.read())


def test_a_world_upside_down_is_turned(listed):
    turn = np.diag([1.0, -1.0, -1.0])
    np.save(listed / "R_list.npy", np.stack([turn @ pose(i)[:3, :3] for i in range(3)]))
    np.save(listed / "t_list.npy", np.stack([turn @ pose(i)[:3, 3] for i in range(3)]))
    recording = open_recordings(listed)[0]
    assert "z pointed down" in left_out(recording.info)[0].reason
    assert_true_to_the_floor(recording.read())


def test_real_rope(shared_data):
    trimesh = pytest.importorskip("trimesh")
    folder = shared_data / "robot_gsdynamics_rope_4cam"
    recording = open_recordings(folder)[0]
    assert len(recording.cameras) == 4 and "z pointed down" in left_out(recording.info)[0].reason
    episode = recording.read()
    points = np.asarray(trimesh.load(folder / "pcd.ply").vertices) * [1, -1, -1]
    assert points[:, 2].min() > -0.05, "above the table"
    for frames in episode.views.values():
        pixels, z = project(torch.from_numpy(points).float(), frames.cameras.viewmats[0], Ks=frames.cameras.Ks[0])
        cell = pixels.floor().long().clamp(torch.tensor(0), torch.tensor([639, 479]))
        inside = frames.extras["segments"][0, cell[:, 1], cell[:, 0], 0] == 1
        assert (z > 0).all() and 0.78 < inside.float().mean() < 0.95


def test_real_agibot(shared_data):
    folder = shared_data / "robot_agibot_calibrated"
    before = fingerprint(folder)
    recordings = {r.path.split("/")[-1]: r for r in open_recordings(folder)}
    assert sorted(recordings) == ["evac_0", "evac_1", "genie_sample_2"]
    arms = recordings["genie_sample_2"]
    assert arms.cameras == ("hand_left", "hand_right", "head") and "3 a camera" in arms.info["history_images"]
    episode = arms.read()
    K = episode.views["head"].cameras.Ks[0]
    assert K[1, 1] / K[0, 0] > 1.3, "pixels are not square"
    assert episode.proprio.shape == (1, 16) and abs(float(episode.proprio[0, 3:7].norm()) - 1) < 1e-3
    names = [row["name"] for row in arms.info["action_spec"]]
    assert names[:8] == ["left_x", "left_y", "left_z", "left_qw", "left_qx", "left_qy", "left_qz", "left_gripper"]
    # The flanges lie where the head camera looks: in front of it, and in its picture.
    head = episode.views["head"].cameras
    flanges = torch.stack([episode.proprio[0, :3], episode.proprio[0, 8:11]])
    pixels, z = project(flanges, head.viewmats[0], Ks=head.Ks[0])
    assert (z > 0.2).all() and (pixels > -100).all() and (pixels < torch.tensor([740.0, 580.0])).all()
    assert pixels[0, 0] < pixels[1, 0], "the left arm is on the left"
    assert recordings["evac_0"].read().views["head"].rgb.std() > 0.05 and fingerprint(folder) == before


FAULTS = {
    "a camera less": (lambda f: np.save(f / "intr_list.npy", np.stack([K] * 2)), DataFormatError, "R_list.npy"),
    "an image less": (lambda f: (f / "img_1.png").unlink(), DataFormatError, "2 images, 3 cameras"),
    "no poses": (lambda f: (f / "t_list.npy").unlink(), DataFormatError, "t_list.npy: is missing"),
    "objects": (lambda f: np.save(f / "t_list.npy", np.array([{}], object)), SecurityError, "pickled"),
    "cut": (lambda f: (f / "t_list.npy").write_bytes(b"\x93NUMPY\x01"), DataFormatError, "t_list.npy"),
    "NaN": (lambda f: np.save(f / "t_list.npy", np.full((3, 3), np.nan)), DataFormatError, "finite"),
    "mirrored": (lambda f: np.save(f / "R_list.npy", -np.stack([np.eye(3)] * 3)), CalibrationError, "det -1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(listed, name):
    assert_refused_when_spoiled(listed, FAULTS[name])
