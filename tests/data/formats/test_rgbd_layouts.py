"""TUM, ScanNet, Replica and Open3D folders of a painted floor: units, clocks, pixel centres and poses come out true."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from floor_scene import HEIGHT, WIDTH, K, assert_true_to_the_floor, photograph, pose
from left_out_names import left_out_names
from PIL import Image
from scipy.spatial.transform import Rotation

from scene4d.data.detect import open_recordings
from scene4d.data.formats.rgbd.rgbd_tum import open_tum
from scene4d.errors import CalibrationError, DataFormatError, DepthError, SecurityError, TimestampError

COUNT = 6
BY_INDEX = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # the same camera, pixels counted by their index


def save(color: Path, depth: Path, index: int, *, steps: float, size=None) -> None:
    for path in (color, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    picture, metres = photograph(index)
    image = Image.fromarray(picture)
    (image.resize(size, Image.Resampling.BICUBIC) if size else image).save(color, quality=100, subsampling=0)
    Image.fromarray(np.round(metres * steps).clip(0, 65534).astype(np.uint16)).save(depth)


def tum(folder):
    start = 1305031102.0  # wall-clock stamps: single precision would place them a minute apart
    lists = {"rgb": ["# color"], "depth": ["# depth"], "groundtruth": ["# timestamp tx ty tz qx qy qz qw"]}
    for i in range(COUNT):
        t = start + i / 30
        save(folder / f"rgb/{i}.png", folder / f"depth/{i}.png", i, steps=5000)
        lists["rgb"].append(f"{t:.6f} rgb/{i}.png")
        lists["depth"].append(f"{t + 0.011:.6f} depth/{i}.png")
        matrix = pose(i)
        quat = Rotation.from_matrix(matrix[:3, :3]).as_quat() * -1
        lists["groundtruth"].append(" ".join(f"{v:.9f}" for v in (t - 0.004, *matrix[:3, 3], *quat)))
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    np.savetxt(folder / "K.txt", K)
    return folder


def scannet(folder):
    for i in range(COUNT):
        save(folder / f"color/{i}.jpg", folder / f"depth/{i}.png", i, steps=1000, size=(2 * WIDTH, 2 * HEIGHT))
        (folder / "pose").mkdir(exist_ok=True)
        np.savetxt(folder / f"pose/{i}.txt", pose(i) if i != 2 else np.full((4, 4), -np.inf))
    (folder / "intrinsic").mkdir()
    matrix = np.eye(4)
    matrix[:3, :3] = K
    np.savetxt(folder / "intrinsic/intrinsic_depth.txt", matrix)
    np.savetxt(folder / "intrinsic/intrinsic_color.txt", np.diag([2, 2, 1, 1]) @ matrix)
    return folder


def replica(folder):
    for i in range(COUNT):
        save(folder / f"results/frame{i:06d}.png", folder / f"results/depth{i:06d}.png", i, steps=6553.5)
    np.savetxt(folder / "traj.txt", np.stack([pose(i).ravel() for i in range(COUNT)]))
    camera = dict(zip(("fx", "fy", "cx", "cy"), BY_INDEX[[0, 1, 0, 1], [0, 1, 2, 2]].tolist(), strict=True))
    camera |= {"w": WIDTH, "h": HEIGHT, "scale": 6553.5}
    (folder / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return folder


def open3d(folder):
    for i in range(COUNT):
        save(folder / f"color/{i:05d}.png", folder / f"depth/{i:05d}.png", i, steps=2000)
    values = {"width": WIDTH, "height": HEIGHT, "intrinsic_matrix": BY_INDEX.T.ravel().tolist(), "depth_scale": 2000}
    (folder / "camera_intrinsic.json").write_text(json.dumps(values))
    blocks = [f"{i} {i} {i + 1}\n" + "\n".join(" ".join(map(str, r)) for r in pose(i)) for i in range(COUNT)]
    (folder / "trajectory.log").write_text("\n".join(blocks) + "\n")
    return folder


LAYOUTS = {"TUM RGB-D": tum, "ScanNet": scannet, "Replica": replica, "Open3D": open3d}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_floor_is_as_it_was_painted(tmp_path, name):
    recording = open_recordings(LAYOUTS[name](tmp_path))[0]
    assert recording.info["source"] == name and recording.sizes == {"camera": (WIDTH, HEIGHT)}
    assert recording.num_frames == (5 if name == "ScanNet" else COUNT) and recording.fps == pytest.approx(30, rel=0.01)
    episode = pickle.loads(pickle.dumps(recording)).read()
    assert_true_to_the_floor(episode, tolerance=0.06 if name == "ScanNet" else 0.02)
    assert episode.times.dtype == torch.float64 and episode.times[0] == 0
    apart = episode.views["camera"].depth[1] - torch.from_numpy(photograph(1)[1])
    assert apart.abs().max() < 6e-4


def test_scannet_drops_the_lost_instant_and_keeps_time(tmp_path):
    recording = open_recordings(scannet(tmp_path))[0]
    assert left_out_names(recording, "lost_poses") == ["2"]
    assert recording.read().times.tolist() == [k / 30 for k in (0, 1, 3, 4, 5)]


def test_open3d_trajectory_as_json(tmp_path):
    open3d(tmp_path)
    (tmp_path / "trajectory.log").unlink()
    rows = [{"extrinsic": np.linalg.inv(pose(i)).T.ravel().tolist()} for i in range(COUNT)]
    (tmp_path / "trajectory.json").write_text(json.dumps({"parameters": rows}))
    assert_true_to_the_floor(open_recordings(tmp_path)[0].read())


def test_tum_clocks(tmp_path):
    """An image whose depth or pose comes too late is left out, and the others keep their own times."""
    tum(tmp_path)
    lines = (tmp_path / "depth.txt").read_text().splitlines()
    (tmp_path / "depth.txt").write_text("\n".join(line for line in lines if "depth/3" not in line))
    recording = open_recordings(tmp_path)[0]
    assert recording.num_frames == 5 and len(left_out_names(recording, "unmatched_images")) == 1
    episode = recording.read()
    assert torch.allclose(episode.times, torch.tensor([0, 1, 2, 4, 5]).double() / 30, atol=2e-6)
    assert_true_to_the_floor(episode)


def test_tum_cameras_by_name(tmp_path):
    folder = tum(tmp_path / "rgbd_dataset_freiburg1_desk")
    (folder / "K.txt").unlink()
    with pytest.raises(CalibrationError, match="does not fit"):  # the floor's pictures are not a Freiburg camera's
        open_tum(folder)
    (tmp_path / "rgbd_dataset_freiburg1_desk").rename(tmp_path / "desk")
    with pytest.raises(CalibrationError, match=r"no intrinsics.*525"):
        open_recordings(tmp_path / "desk")


def test_replica_known_size(tmp_path):
    replica(tmp_path)
    (tmp_path / "cam_params.json").unlink()
    with pytest.raises(CalibrationError, match="cam_params"):
        open_recordings(tmp_path)


def remove(*names):
    return lambda folder: [(folder / n).unlink() for n in names]


def rewrite(name, old, new):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def k_of_color(folder):
    matrix = np.eye(4)
    matrix[:3, :3] = K
    np.savetxt(folder / "intrinsic/intrinsic_color.txt", matrix)


FAULTS = {
    "tum: no depth list": (tum, remove("depth.txt"), DepthError, "depth.txt"),
    "tum: no poses": (tum, remove("groundtruth.txt"), CalibrationError, "no poses"),
    "tum: all depth is gone": (tum, remove(*(f"depth/{i}.png" for i in range(6))), DepthError, "no depth for 6 of 6"),
    "tum: doubled stamp": (tum, rewrite("rgb.txt", "102.033333", "102.000000"), TimestampError, "frame 1"),
    "tum: another clock": (tum, rewrite("groundtruth.txt", "13050311", "13060311"), TimestampError, "one clock"),
    "tum: path out": (tum, rewrite("rgb.txt", "rgb/3.png", "../../3.png"), SecurityError, "leads out"),
    "tum: words": (tum, rewrite("rgb.txt", "1305031102.066667", "soon"), DataFormatError, "rgb.txt"),
    "tum: seven numbers": (tum, lambda f: np.savetxt(f / "groundtruth.txt", np.ones((3, 7))), DataFormatError, "7"),
    "tum: zero quaternion": (
        tum,
        lambda f: np.savetxt(f / "groundtruth.txt", [[1.3e9, 0, 0, 0, 0, 0, 0, 0]]),
        CalibrationError,
        "quaternion",
    ),
    "scannet: no pose": (scannet, remove("pose/3.txt"), CalibrationError, "no pose for 1 of 6"),
    "scannet: no depth": (scannet, remove(*(f"depth/{i}.png" for i in range(6))), DepthError, "no depth for 6 of 6"),
    "scannet: no K": (scannet, remove("intrinsic/intrinsic_depth.txt"), CalibrationError, "intrinsic_depth"),
    "scannet: depth not aligned": (scannet, k_of_color, CalibrationError, "not aligned.*register"),
    "scannet: two poses lost": (
        scannet,
        lambda f: np.savetxt(f / "pose/3.txt", np.full((4, 4), -np.inf)),
        CalibrationError,
        r"frame 2\.\.3: 2 of 6 poses",
    ),
    "replica: no trajectory": (replica, remove("traj.txt"), CalibrationError, "no poses"),
    "replica: a pose less": (
        replica,
        lambda f: np.savetxt(f / "traj.txt", np.ones((5, 16))),
        CalibrationError,
        "differ in number",
    ),
    "replica: no scale": (replica, rewrite("cam_params.json", "6553.5", "0"), DepthError, "scale"),
    "replica: no fx": (replica, rewrite("cam_params.json", '"fx"', '"f"'), DataFormatError, "fx"),
    "open3d: no trajectory": (open3d, remove("trajectory.log"), CalibrationError, "no poses"),
    "open3d: cut trajectory": (open3d, rewrite("trajectory.log", "5 5 6", "5 5"), DataFormatError, "trajectory"),
    "open3d: K row by row": (
        open3d,
        lambda f: (f / "camera_intrinsic.json").write_text(json.dumps({"intrinsic_matrix": K.ravel().tolist()})),
        CalibrationError,
        "no pinhole|transposed",
    ),
    "open3d: eight numbers": (
        open3d,
        lambda f: (f / "camera_intrinsic.json").write_text(json.dumps({"intrinsic_matrix": [1.0] * 8})),
        CalibrationError,
        "intrinsic_matrix",
    ),
    "open3d: depth of other names": (
        open3d,
        lambda f: [(f / "depth/00003.png").unlink(), (f / "depth/00004.png").rename(f / "depth/left.png")],
        DepthError,
        "differ in number",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    make, spoil, error, words = FAULTS[name]
    spoil(make(tmp_path))
    with pytest.raises(error, match=words) as caught:
        open_recordings(tmp_path)[0].read()
    assert caught.value.exit_code == 3 and str(tmp_path) in caught.value.file
