"""Faults 17-19, 21-28 and 55 of the catalogue: depth and calibration that cannot be, and odd file names."""

import json
import os

import numpy as np
import pytest
import torch
from data_fixtures import HEIGHT, LENGTH, WIDTH, K, assert_refused, lerobot_set, rgbd_folder
from left_out_names import left_out_names
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.data.video.depth_codec import LogDepth
from scene4d.errors import CalibrationError, DataFormatError, DepthError


@pytest.fixture
def folder(tmp_path):
    return rgbd_folder(tmp_path / "room")


def reading(folder):
    return lambda: [r.read() for r in open_recordings(folder)]


def save_depth(folder, codes, *, frame=2):
    Image.fromarray(np.broadcast_to(np.asarray(codes, np.uint16), (HEIGHT, WIDTH)).copy()).save(
        folder / f"depth/{frame:03d}.png"
    )


def test_17_a_hole_does_not_decode_to_the_nearest_depth():
    """Golden values of LeRobot's codes: 0 is a hole; unmasked it would be a wall 10 mm away."""
    codec = LogDepth()
    codes = np.array([[0, 1, 4, 5, 1000, 2048, 4095]])
    metres = codec.decode(codes)[0]
    exact = np.exp(np.log(3.51) + codes[0] / 4095 * (np.log(13.5) - np.log(3.51))) - 3.5
    assert metres[:3].tolist() == [0, 0, 0] and np.allclose(metres[3:], exact[3:], rtol=1e-6)
    assert metres[-1] == pytest.approx(10.0, abs=1e-5) and metres[4] == pytest.approx(1.37720, abs=1e-4)


def test_18_what_is_no_depth_is_masked(folder):
    codes = np.full((HEIGHT, WIDTH), 1500, np.uint16)
    codes[0], codes[1] = 0, 65535
    save_depth(folder, codes)
    depth = open_recordings(folder)[0].read().views["camera"].depth[2]
    assert (depth[:2] == 0).all() and torch.allclose(depth[2:], torch.tensor(1.5))


def test_18_hardly_any_depth(folder):
    codes = np.zeros((HEIGHT, WIDTH), np.uint16)
    codes[0, :5] = 1000
    save_depth(folder, codes)
    error = assert_refused(folder, reading(folder), kind=DepthError, file="depth/002.png", words="not measured")
    assert error.frame == "002"


@pytest.mark.parametrize("code", [1, 2, 5])
def test_19_metres_read_as_millimetres(folder, code):
    save_depth(folder, code)
    error = assert_refused(folder, reading(folder), kind=DepthError, file="depth/002.png", words="another unit")
    assert f"median {code / 1000:.4g} m" in error.found and "millimetres" in error.fix


def test_21_depth_of_another_size(folder):
    Image.fromarray(np.full((2 * HEIGHT, WIDTH), 1000, np.uint16)).save(folder / "depth/002.png")
    error = assert_refused(folder, reading(folder), kind=CalibrationError, file="depth/002.png", field="depth")
    assert error.expected == (WIDTH, HEIGHT) and "register" in error.fix


def test_22_no_intrinsics(folder, tmp_path):
    (folder / "K.txt").unlink()
    error = assert_refused(folder, reading(folder), kind=CalibrationError, file="room", words="no intrinsics")
    assert "K.txt" in error.fix
    root = lerobot_set(tmp_path / "set")
    (root / "meta/cameras.json").unlink()
    error = assert_refused(root, reading(root), kind=CalibrationError, file="meta/cameras.json", field="cameras")
    assert "template" in error.fix and "field of view" in error.fix and "observation.images.front" in error.found
    guessed = open_recordings(root, fov_deg=60)[0]
    assert guessed.info["calibration"].startswith("approximate")
    half = guessed.read(0, 1).views["front"].cameras
    assert 2 * np.degrees(np.arctan(WIDTH / 2 / float(half.Ks[0, 0, 0]))) == pytest.approx(60, rel=1e-5)


IMPOSSIBLE_K = {
    "zero focal": ([[0, 0, 12], [0, 20, 8], [0, 0, 1]], "positive"),
    "negative focal": ([[-20, 0, 12], [0, -20, 8], [0, 0, 1]], "positive"),
    "NaN": ([[np.nan, 0, 12], [0, 20, 8], [0, 0, 1]], "finite"),
    "centre outside": ([[20, 0, 40], [0, 20, 8], [0, 0, 1]], "does not fit"),
    "skewed": ([[20, 3, 12], [0, 20, 8], [0, 0, 1]], "skewed"),
    "transposed": (K.T, "transposed"),
    "last row": ([[20, 0, 12], [0, 20, 8], [0, 0, 2]], "pinhole"),
    "twice the size": (K * [[2], [2], [1]], "K for about 48x32"),
    "half the size": (K * [[0.5], [0.5], [1]], "K for about 12x8"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE_K)
def test_23_24_impossible_intrinsics(folder, name):
    matrix, words = IMPOSSIBLE_K[name]
    np.savetxt(folder / "K.txt", np.asarray(matrix, float))
    error = assert_refused(folder, reading(folder), kind=CalibrationError, file="K.txt", field="K of", words=words)
    assert error.fix or error.expected
    assert name not in ("twice the size", "half the size") or "deg" in error.problem


@pytest.mark.parametrize(
    ("lens", "words"),
    [
        ({"lens": "mirror", "distortion": [0.1]}, "no known distortion"),
        ({"distortion": [[0.1]]}, "no known distortion"),
        ({"distortion": [-5.0, 0, 0, 0]}, "folds"),
        ({"distortion": [1e9, 0, 0, 0]}, "folds"),
        ({"lens": "fisheye", "distortion": [-3.0, 0, 0, 0]}, "folds"),
    ],
)
def test_25_distortion(tmp_path, lens, words):
    root = lerobot_set(tmp_path / "set")
    table = json.loads((root / "meta/cameras.json").read_text())
    table["cameras"]["front"] |= lens
    (root / "meta/cameras.json").write_text(json.dumps(table))
    assert_refused(root, reading(root), kind=CalibrationError, file="cameras.json", field="distortion", words=words)


def spoil_pose(folder, change, *, frame=3):
    rows = np.loadtxt(folder / "poses.txt").reshape(-1, 4, 4)
    change(rows[frame])
    np.savetxt(folder / "poses.txt", rows.reshape(-1, 16), fmt="%.12g")


def mirror(m):
    m[:3, 0] *= -1


def stretch(m):
    m[:3, :3] *= 1.05


def last_row(m):
    m[3, 0] = 0.5


@pytest.mark.parametrize(("change", "words"), [(mirror, "det -1.0"), (stretch, "residual 0.1"), (last_row, "last row")])
def test_26_no_rigid_motion(folder, change, words):
    spoil_pose(folder, change)
    error = assert_refused(folder, reading(folder), kind=CalibrationError, file="room", field="pose", words=words)
    assert error.frame == "003" and "residual" in error.found


def test_26_rounding_is_removed(folder):
    def round_off(m):
        m[:3, :3] *= 1 + 4e-4

    spoil_pose(folder, round_off)
    turn = open_recordings(folder)[0].read().views["camera"].cameras.viewmats[:, :3, :3]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand(LENGTH, 3, 3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_28_lost_poses(folder, value):
    spoil_pose(folder, lambda m: m.fill(value))
    recording = open_recordings(folder)[0]
    assert recording.num_frames == LENGTH - 1 and left_out_names(recording, "lost_poses") == ["003"]
    spoil_pose(folder, lambda m: m.fill(value), frame=4)
    error = assert_refused(folder, reading(folder), kind=CalibrationError, file="room", field="pose")
    assert error.frame == "003..004" and "2 of 6" in error.problem


@pytest.mark.parametrize("name", ["with space", "ünï çødé", "%s {x} [0]", "a" * 200])
def test_55_odd_names(tmp_path, name):
    folder = rgbd_folder(tmp_path / name)
    os.symlink(tmp_path, folder / "loop")
    assert [r.num_frames for r in open_recordings(tmp_path)] == [LENGTH]


def test_55_names_that_are_not_text(tmp_path):
    folder = rgbd_folder(tmp_path / "room")
    odd = os.fsencode(tmp_path) + b"/bad\xff"
    os.rename(os.fsencode(folder), odd)
    found = open_recordings(os.fsdecode(odd))[0]
    assert found.num_frames == LENGTH
    (tmp_path / "list").mkdir()
    error = assert_refused(
        tmp_path, lambda: open_recordings(tmp_path / "list"), kind=DataFormatError, file="list", words="empty"
    )
    assert error.fix
