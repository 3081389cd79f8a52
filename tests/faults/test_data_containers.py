"""Faults 20, 31, 57-59 and 61 of the catalogue: containers of other projects; links, objects, missing libraries."""

import json
import sys

import numpy as np
import pytest
from data_fixtures import HEIGHT, LENGTH, WIDTH, K, assert_refused
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.errors import (
    EXIT_RESOURCE,
    CalibrationError,
    DataFormatError,
    DepthError,
    EnvError,
    ResourceError,
    SecurityError,
)

CAMERA = {"width": WIDTH, "height": HEIGHT, "K": K.tolist(), "viewmat": np.eye(4).tolist(), "rgb": "rgb", "depth": "z"}


def hdf5_file(folder, **arrays):
    """One episode described by a field map."""
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    content = {
        "rgb": np.full((LENGTH, HEIGHT, WIDTH, 3), 99, np.uint8),
        "z": np.full((LENGTH, HEIGHT, WIDTH), 1.5, np.float32),
        "action": np.zeros((LENGTH, 2)),
    } | arrays
    with h5py.File(folder / "run.hdf5", "w") as file:
        for name, value in content.items():
            if callable(value):
                value(file)
            else:
                file[name] = value
    fields = {"actions": "action", "fps": 10}
    (folder / "cameras.json").write_text(json.dumps({"cameras": {"front": CAMERA}, "fields": fields}))
    return folder


def reading(folder):
    return lambda: [r.read() for r in open_recordings(folder)]


def test_20_z_buffer(tmp_path):
    """Refused where nothing tells its planes, exact where cameras.json does."""
    metres = np.linspace(0.4, 3, LENGTH * HEIGHT * WIDTH, dtype=np.float64).reshape(LENGTH, HEIGHT, WIDTH)
    near, far = 0.01, 50.0
    folder = hdf5_file(tmp_path / "run", z=((1 - near / metres) / (1 - near / far)).astype(np.float32))
    error = assert_refused(folder, reading(folder), kind=DepthError, file="run.hdf5", field="z", words="z-buffer")
    assert "near_far" in error.fix
    table = json.loads((folder / "cameras.json").read_text())
    table["cameras"]["front"]["near_far"] = [near, far]
    (folder / "cameras.json").write_text(json.dumps(table))
    depth = open_recordings(folder)[0].read().views["front"].depth
    assert np.allclose(depth.numpy(), metres, rtol=2e-3)


@pytest.mark.parametrize("quat", ["0 0 0 0", "nan 0 0 1"])
def test_31_quaternions(tmp_path, quat):
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.txt").write_text(f"1.0 {name}/0.png\n")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "rgb/0.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 5000, np.uint16)).save(tmp_path / "depth/0.png")
    np.savetxt(tmp_path / "K.txt", K)
    (tmp_path / "groundtruth.txt").write_text(f"1.0 0 0 0 {quat}\n")
    error = assert_refused(
        tmp_path, reading(tmp_path), kind=CalibrationError, file="groundtruth.txt", field="quaternion"
    )
    assert error.frame == 0
    (tmp_path / "groundtruth.txt").write_text("1.0 0 0 0 0 0 0 -2.0\n")  # not of length 1: still a rotation
    viewmats = open_recordings(tmp_path)[0].read().views["camera"].cameras.viewmats
    assert np.allclose(viewmats[0], np.eye(4))


def test_57_external_links(tmp_path):
    h5py = pytest.importorskip("h5py")
    link = lambda file: file.__setitem__("action", h5py.ExternalLink("/etc/hostname", "/x"))
    folder = hdf5_file(tmp_path / "run", action=link)
    assert_refused(folder, reading(folder), kind=SecurityError, file="run.hdf5", field="action", words="not opened")


def test_57_data_in_other_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "raw.bin").write_bytes(bytes(16 * LENGTH))
    outside = [(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
    make = lambda file: file.create_dataset("action", (LENGTH, 2), "f8", external=outside)
    folder = hdf5_file(tmp_path / "run", action=make)
    assert_refused(folder, reading(folder), kind=SecurityError, file="run.hdf5", field="action", words="other files")


def test_57_objects_and_huge_frames(tmp_path):
    words = np.array([b"a", b"bcd"] * (LENGTH // 2), object)
    folder = hdf5_file(tmp_path / "objects", action=words)
    assert_refused(folder, reading(folder), kind=DataFormatError, file="run.hdf5", field="action", words="objects")
    big = lambda file: file.create_dataset("action", (LENGTH, 1 << 20, 1 << 10), "f8", chunks=(1, 1 << 10, 1))
    folder = hdf5_file(tmp_path / "huge", action=big)
    assert_refused(folder, reading(folder), kind=ResourceError, file="run.hdf5", field="action", code=EXIT_RESOURCE)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_57_cut_short(tmp_path, share):
    folder = hdf5_file(tmp_path / "run")
    data = (folder / "run.hdf5").read_bytes()
    (folder / "run.hdf5").write_bytes(data[: int(share * len(data))])
    assert_refused(folder, reading(folder), kind=DataFormatError, file="run.hdf5")


def test_58_arrays_of_objects(tmp_path):
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "frame.png")
    np.save(tmp_path / "intrinsics.npy", K)
    np.save(tmp_path / "extrinsics.npy", np.array([{"a": 1}], object))
    assert_refused(tmp_path, reading(tmp_path), kind=SecurityError, file="extrinsics.npy", words="not opened")


def test_59_mcap_cut_short(tmp_path):
    writer = pytest.importorskip("mcap_ros2.writer")
    with (tmp_path / "run.mcap").open("wb") as file:
        out = writer.Writer(file, chunk_size=200)
        schema = out.register_msgdef("std_msgs/msg/String", "string data")
        for i in range(60):
            out.write_message("/chatter", schema, {"data": "x" * 50}, log_time=i * 10**9)
        out.finish()
    data = (tmp_path / "run.mcap").read_bytes()
    (tmp_path / "run.mcap").write_bytes(data[: len(data) // 2])
    error = assert_refused(tmp_path, reading(tmp_path), kind=DataFormatError, file="run.mcap", field="/chatter at ")
    assert "mcap recover" in error.fix


@pytest.mark.parametrize(
    ("module", "extra", "files"),
    [
        ("h5py", "hdf5", ["run.h5"]),
        ("mcap.reader", "mcap", ["run.mcap"]),
        ("pycolmap", "colmap", ["cameras.txt", "images.txt"]),
    ],
)
def test_61_missing_libraries(tmp_path, monkeypatch, module, extra, files):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvError) as caught:
        open_recordings(tmp_path)
    error = caught.value
    assert error.fix == f'pip install "scene4d[{extra}]"' and error.exit_code == 3 and error.field == module
