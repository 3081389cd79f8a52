"""transforms.json in its dialects: a painted floor must look, through the cameras read, as it was painted."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from floor_scene import HEIGHT, WIDTH, K, assert_true_to_the_floor, photograph, pose
from left_out_names import left_out_names
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.errors import CalibrationError, DataFormatError, SecurityError, TimestampError
from scene4d.geometry.camera import unproject

GL = np.diag([1.0, -1.0, -1.0, 1.0])
GLOBAL = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "w": WIDTH, "h": HEIGHT}


def write(folder, *, name="transforms.json", top=GLOBAL, frame=lambda i: {}, suffix=".png", depth=False, **how):
    """A capture of the floor; `frame` adds entries to each frame."""
    frames = []
    for i in range(how.pop("count", 4)):
        picture, metres = photograph(i, **how)
        path = folder / "images" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        entry = {"file_path": f"images/{i:03d}{suffix}", "transform_matrix": (pose(i) @ GL).tolist()}
        if depth:
            Image.fromarray(np.round(metres * 1000).astype(np.uint16)).save(folder / f"{i:03d}_depth.png")
            entry["depth_file_path"] = f"{i:03d}_depth.png"
        frames.append(entry | frame(i))
    (folder / name).write_text(json.dumps({**top, "frames": frames}))
    return folder


def edit(folder, **changes):
    table = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps({**table, **changes}))


def test_nerfstudio_with_depth(tmp_path):
    recording = open_recordings(write(tmp_path, depth=True))[0]
    assert recording.sizes == {"camera": (WIDTH, HEIGHT)} and recording.depth_cameras == ("camera",)
    assert_true_to_the_floor(recording.read())
    half = recording.read(1, 4, stride=2, size=(WIDTH // 2, HEIGHT // 2))
    assert half.times.tolist() == [1 / 30, 3 / 30] and half.info["frames"] == ["001", "003"]
    color = half.views["camera"].replace(depth=None)
    assert_true_to_the_floor(half.replace(views={"camera": color}), tolerance=0.06)


def test_opencv_axes_would_be_noticed(tmp_path):
    write(tmp_path, frame=lambda i: {"transform_matrix": pose(i).tolist()})
    with pytest.raises(AssertionError):
        assert_true_to_the_floor(open_recordings(tmp_path)[0].read())


def test_intrinsics_of_each_frame(tmp_path):
    other = np.array([[30.0, 0, 21], [0, 30.0, 14], [0, 0, 1]])

    def own(i):
        return {"fl_x": other[0, 0], "fl_y": other[1, 1], "cx": other[0, 2], "cy": other[1, 2]}

    write(tmp_path, frame=own, matrix=other)
    episode = open_recordings(tmp_path)[0].read()
    assert_true_to_the_floor(episode)
    assert episode.views["camera"].cameras.Ks[2, 0, 2] == 21


def test_distortion_is_removed(tmp_path):
    k1, k2, p1, p2 = -0.25, 0.05, 0.004, -0.003

    def bend(p):
        x, y = p[..., 0], p[..., 1]
        r = x * x + y * y
        radial = 1 + k1 * r + k2 * r * r
        return np.stack(
            [x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y], -1
        )

    write(tmp_path, top={**GLOBAL, "k1": k1, "k2": k2, "p1": p1, "p2": p2}, bend=bend)
    episode = open_recordings(tmp_path)[0].read()
    assert_true_to_the_floor(episode, tolerance=0.03)
    assert 0.5 < episode.views["camera"].alpha.mean() <= 1
    half = open_recordings(tmp_path)[0].read(size=(WIDTH // 2, HEIGHT // 2))
    assert_true_to_the_floor(half, tolerance=0.09)
    edit(tmp_path, k1=0, k2=0, p1=0, p2=0)
    with pytest.raises(AssertionError):
        assert_true_to_the_floor(open_recordings(tmp_path)[0].read(), tolerance=0.03)


def test_depth_is_undistorted_with_its_colour(tmp_path):
    """Depth is taken from the nearest recorded pixel: right to what it changes by from one pixel to the next."""
    k1, large, size = -0.25, K * [[4], [4], [1]], (4 * WIDTH, 4 * HEIGHT)
    top = {"fl_x": large[0, 0], "fl_y": large[1, 1], "cx": large[0, 2], "cy": large[1, 2], "k1": k1}
    bend = lambda p: p * (1 + k1 * (p * p).sum(-1, keepdims=True))
    write(tmp_path, top=top, bend=bend, depth=True, matrix=large, size=size)

    def off_the_floor(size):
        frames = open_recordings(tmp_path)[0].read(size=size).views["camera"]
        points = unproject(frames.depth.double(), frames.cameras.viewmats.double(), Ks=frames.cameras.Ks.double())
        seen = (frames.depth > 0) & (frames.depth < 2.5)
        assert seen.float().mean() > 0.4
        return float(points[..., 2][seen].abs().quantile(0.9))

    sizes = (None, (2 * WIDTH, 2 * HEIGHT))
    right = [off_the_floor(size) for size in sizes]
    edit(tmp_path, k1=0)
    wrong = [off_the_floor(size) for size in sizes]
    assert max(right) < 0.02 and all(2 * r < w for r, w in zip(right, wrong, strict=True)), (right, wrong)


def test_fisheye_is_removed(tmp_path):
    k1, k2 = 0.05, -0.02

    def bend(p):
        r = np.linalg.norm(p, axis=-1)
        a = np.arctan(r)
        return p * (a * (1 + k1 * a**2 + k2 * a**4) / np.maximum(r, 1e-9))[..., None]

    write(tmp_path, top={**GLOBAL, "k1": k1, "k2": k2, "camera_model": "OPENCV_FISHEYE"}, bend=bend)
    assert_true_to_the_floor(open_recordings(tmp_path)[0].read(), tolerance=0.03)


def test_blender_splits_and_alpha(tmp_path):
    square = np.array([[40.0, 0, 16], [0, 40.0, 16], [0, 0, 1]])
    angle = 2 * math.atan(16 / 40)
    for split in ("train", "val", "test"):
        name = f"transforms_{split}.json"
        write(tmp_path, name=name, top={"camera_angle_x": angle}, suffix="", matrix=square, size=(32, 32))
    picture = Image.open(tmp_path / "images/001.png").convert("RGBA")
    picture.putalpha(Image.new("L", (32, 32), 128))
    picture.save(tmp_path / "images/001.png")
    recordings = open_recordings(tmp_path)
    assert [r.info["split"] for r in recordings] == ["train", "val", "test"]
    episode = recordings[0].read()
    assert episode.views["camera"].alpha[1].mean() == pytest.approx(128 / 255)
    assert (episode.views["camera"].alpha[0] == 1).all()
    assert_true_to_the_floor(episode[[0, 2, 3]])


def test_times_of_dnerf(tmp_path):
    write(tmp_path, frame=lambda i: {"time": [0.5, 0.25, 0.0, 1.0][i]})
    recording = open_recordings(tmp_path)[0]
    episode = recording.read()
    assert episode.times.tolist() == [0.0, 0.25, 0.5, 1.0] and recording.info["source"] == "D-NeRF"
    assert episode.info["frames"] == ["002", "001", "000", "003"]
    assert_true_to_the_floor(episode)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    edit(tmp_path, frames=[{**frame, "time": 0.5} for frame in frames])
    with pytest.raises(TimestampError, match="folder of its own"):
        open_recordings(tmp_path)


def test_folders_that_share_their_times_are_cameras_of_a_rig(tmp_path):
    frames = []
    for camera in (0, 3):
        for i in range(3):
            path = tmp_path / f"cam{camera}" / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(photograph(camera)[0]).save(path)
            matrix = (pose(camera) @ GL).tolist()
            frames.append({"file_path": f"cam{camera}/{i}.png", "transform_matrix": matrix, "time": i * 0.1})
    (tmp_path / "transforms.json").write_text(json.dumps({**GLOBAL, "frames": frames}))
    recording = open_recordings(tmp_path)[0]
    assert recording.cameras == ("cam0", "cam3") and recording.num_frames == 3 and recording.fps == pytest.approx(10)
    assert_true_to_the_floor(recording.read())


def test_fox_reports_its_missing_images(shared_data):
    recording = open_recordings(shared_data / "mv_fox")[0]
    assert recording.num_frames == 50 and len(left_out_names(recording, "missing_images")) == 17
    assert "images/0005.jpg" in left_out_names(recording, "missing_images") and recording.depth_cameras == ()
    episode = recording.read(0, 2, size=(135, 240))
    frames = episode.views["camera"]
    assert frames.depth is None and 0.9 < frames.alpha.mean() < 1
    assert frames.cameras.Ks[0, 0, 0] == pytest.approx(1375.52 / 8, rel=1e-5)
    up = -frames.cameras.viewmats[:, 1, :3]  # the photographs were taken upright
    assert (up[:, 2] > 0.8).all()
    assert pickle.loads(pickle.dumps(recording)).num_frames == 50


def frames_with(**entries):
    def spoil(folder):
        table = json.loads((folder / "transforms.json").read_text())
        table["frames"][2] |= entries
        (folder / "transforms.json").write_text(json.dumps(table))

    return spoil


def without(*keys):
    def spoil(folder):
        table = json.loads((folder / "transforms.json").read_text())
        (folder / "transforms.json").write_text(json.dumps({k: v for k, v in table.items() if k not in keys}))

    return spoil


FAULTS = {
    "not JSON": (lambda f: (f / "transforms.json").write_text('{"frames": [}'), DataFormatError, "line 1 column"),
    "not UTF-8": (lambda f: (f / "transforms.json").write_bytes(b'{"a": "\xff"}'), DataFormatError, "cannot be read"),
    "NaN": (lambda f: edit(f, fl_x=math.nan), DataFormatError, "NaN"),
    "no frames": (lambda f: edit(f, frames=[]), DataFormatError, "frames"),
    "no images": (lambda f: [p.unlink() for p in (f / "images").iterdir()], DataFormatError, "none of the listed"),
    "no intrinsics": (without("fl_x"), CalibrationError, "no intrinsics.*camera_angle_x"),
    "words for a number": (lambda f: edit(f, cx="middle"), DataFormatError, "cx"),
    "another size": (lambda f: edit(f, w=WIDTH * 2), CalibrationError, "another image size"),
    "unknown lens": (lambda f: edit(f, camera_model="EQUIRECTANGULAR"), CalibrationError, "camera_model"),
    "folding lens": (lambda f: edit(f, k1=-3.0), CalibrationError, "folds"),
    "negative focal": (lambda f: edit(f, fl_x=-30), CalibrationError, "positive"),
    "scaled pose": (frames_with(transform_matrix=np.diag([2.0, 2, 2, 1]).tolist()), CalibrationError, "002"),
    "ragged pose": (frames_with(transform_matrix=[[1], [2, 3]]), CalibrationError, "transform_matrix"),
    "absolute path": (frames_with(file_path="/etc/passwd"), SecurityError, "leads out"),
    "path up": (frames_with(file_path="../../secret.png"), SecurityError, "leads out"),
    "path of a number": (frames_with(file_path=7), DataFormatError, "file_path"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    spoil, error, words = FAULTS[name]
    spoil(write(tmp_path))
    with pytest.raises(error, match=words) as caught:
        open_recordings(tmp_path)[0].read()
    assert caught.value.exit_code == 3 and "transforms.json" in caught.value.file


def test_one_lost_pose_is_left_out(tmp_path):
    write(tmp_path, count=6)
    table = json.loads((tmp_path / "transforms.json").read_text())
    table["frames"][2]["transform_matrix"][0][3] = 1e400
    (tmp_path / "transforms.json").write_text(json.dumps(table).replace("Infinity", "1e999"))
    recording = open_recordings(tmp_path)[0]
    assert recording.num_frames == 5 and left_out_names(recording, "lost_poses") == ["002"]
    assert torch.isfinite(recording.read().views["camera"].cameras.viewmats).all()
