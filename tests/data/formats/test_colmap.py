"""COLMAP models written by pycolmap itself, binary and text."""

import struct
import sys

import numpy as np
import pytest
from floor_scene import (
    HEIGHT,
    WIDTH,
    K,
    assert_refused_when_spoiled,
    assert_true_to_the_floor,
    photograph,
    pose,
)
from PIL import Image

pycolmap = pytest.importorskip("pycolmap")

from left_out_names import left_out_names

from scene4d.data.detect import open_recordings
from scene4d.errors import CalibrationError, DataFormatError, EnvError, SecurityError

DISTORTED = [-0.2, 0.03, 0.003, -0.002]


def bend(p):
    k1, k2, p1, p2 = DISTORTED
    x, y = p[..., 0], p[..., 1]
    r = x * x + y * y
    radial = 1 + k1 * r + k2 * r * r
    dx, dy = 2 * p1 * x * y + p2 * (r + 2 * x * x), p1 * (r + 2 * y * y) + 2 * p2 * x * y
    return np.stack([x * radial + dx, y * radial + dy], -1)


def model(folder, *, kind="PINHOLE", params=None, text=False, names=None, size=(WIDTH, HEIGHT), place="sparse/0"):
    scene = pycolmap.Reconstruction()
    params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]] if params is None else params
    scene.add_camera_with_trivial_rig(
        pycolmap.Camera(model=kind, width=size[0], height=size[1], params=params, camera_id=1)
    )
    (folder / "images").mkdir(exist_ok=True)
    for i in range(4):
        name = names[i] if names else f"{3 - i}.png"  # ids and names in different orders
        Image.fromarray(photograph(i, bend=bend if kind == "OPENCV" else None)[0]).save(folder / f"images/{3 - i}.png")
        viewmat = np.linalg.inv(pose(i))
        rigid = pycolmap.Rigid3d(pycolmap.Rotation3d(viewmat[:3, :3]), viewmat[:3, 3])
        scene.add_image_with_trivial_frame(pycolmap.Image(name=name, camera_id=1, image_id=i + 1), rigid)
    out = folder / place
    out.mkdir(parents=True, exist_ok=True)
    (scene.write_text if text else scene.write_binary)(str(out))
    return folder


@pytest.mark.parametrize("text", [False, True])
def test_floor(tmp_path, text):
    recording = open_recordings(model(tmp_path, text=text))[0]
    assert recording.info["source"] == "COLMAP" and recording.num_frames == 4
    episode = recording.read()
    assert episode.info["frames"] == ["0.png", "1.png", "2.png", "3.png"]
    assert_true_to_the_floor(episode)


def test_lens_is_removed(tmp_path):
    model(tmp_path, kind="OPENCV", params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2], *DISTORTED], place="colmap/sparse/0")
    assert_true_to_the_floor(open_recordings(tmp_path)[0].read(), tolerance=0.03)


def test_missing_images_are_named_and_smaller_copies_read(tmp_path):
    model(tmp_path)
    (tmp_path / "images/2.png").unlink()
    for path in (tmp_path / "images").iterdir():
        Image.open(path).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BOX).save(path)
    recording = open_recordings(tmp_path)[0]
    assert left_out_names(recording, "missing_images") == ["2.png"]
    assert recording.sizes == {"camera": (WIDTH // 2, HEIGHT // 2)}
    assert_true_to_the_floor(recording.read(), tolerance=0.06)


def overwrite(name, change):
    def spoil(folder):
        file = model(folder) / "sparse/0" / name
        file.write_bytes(change(file.read_bytes()))

    return spoil


FAULTS = {
    "count lies": (overwrite("images.bin", lambda d: struct.pack("<Q", 10**9) + d[8:]), DataFormatError, "lies"),
    "cut header": (overwrite("cameras.bin", lambda d: d[:5]), DataFormatError, "cut short"),
    "cut body": (overwrite("images.bin", lambda d: d[:90]), DataFormatError, "cut short|no COLMAP model"),
    "unknown lens": (lambda f: model(f, kind="FOV", params=[36, 34, 19, 16, 0.1]), CalibrationError, "known lens.*FOV"),
    "another size": (lambda f: model(f, size=(WIDTH, WIDTH)), CalibrationError, "another image size"),
    "negative focal": (lambda f: model(f, params=[-36, -34, 19, 16]), CalibrationError, "positive"),
    "path out": (lambda f: model(f, names=[f"../../{i}.png" for i in range(4)]), SecurityError, "leads out"),
    "no images": (
        lambda f: [p.unlink() for p in (model(f) / "images").iterdir()],
        DataFormatError,
        "none of the registered",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    assert_refused_when_spoiled(tmp_path, FAULTS[name])


def test_without_pycolmap_the_extra_is_named(tmp_path, monkeypatch):
    model(tmp_path)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(EnvError, match=r'pip install "scene4d\[colmap\]"'):
        open_recordings(tmp_path)
