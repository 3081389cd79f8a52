"""Fault 79: a Git LFS pointer in place of a file, whatever reader meets it."""

import json

import numpy as np
import pytest
from data_fixtures import TABLE, VIDEO, lerobot_set, rgbd_folder, tree_hash
from PIL import Image

from scene4d.apps.cli import main
from scene4d.data.detect import open_recordings
from scene4d.errors import EXIT_INPUT, CheckpointError, DataFormatError, ResourceError
from scene4d.gaussians.formats.ply import read_ply
from scene4d.gaussians.formats.points import read_point_cloud
from scene4d.gaussians.s4d.s4d import load_s4d
from scene4d.train.checkpoint import load_tensors
from scene4d.unreadable import naming_pointers

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'5' * 64}\nsize 123456\n"


def spoil(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(POINTER)
    return path


def transforms_folder(root):
    """Two posed views, calibrated."""
    frames = []
    for i in range(2):
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 24, 3), 90 * i, np.uint8)).save(root / f"images/{i}.png")
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": np.eye(4).tolist()})
    size = {"fl_x": 20.0, "fl_y": 20.0, "cx": 12.0, "cy": 8.0, "w": 24, "h": 16}
    (root / "transforms.json").write_text(json.dumps({**size, "frames": frames}))
    return root


def hdf5_folder(root):
    pytest.importorskip("h5py")
    spoil(root / "run.hdf5")
    return root


def mcap_folder(root):
    pytest.importorskip("mcap_ros2.decoder")
    spoil(root / "run.mcap")
    return root


CASES = {
    "picture": (transforms_folder, "images/1.png"),
    "every picture": (transforms_folder, "images/0.png"),
    "json": (transforms_folder, "transforms.json"),
    "depth": (rgbd_folder, "depth/003.png"),
    "poses": (rgbd_folder, "poses.txt"),
    "table": (lerobot_set, TABLE),
    "video": (lerobot_set, VIDEO),
    "info": (lerobot_set, "meta/info.json"),
    "episodes": (lerobot_set, "meta/episodes/chunk-000/file-000.parquet"),
    "hdf5": (hdf5_folder, "run.hdf5"),
    "mcap": (mcap_folder, "run.mcap"),
    "of no known kind": (lambda root: spoil(root / "deep/recording.xyz").parents[1], "deep/recording.xyz"),
}


@pytest.mark.parametrize("name", CASES)
def test_79_recordings(tmp_path, capsys, name):
    make, part = CASES[name]
    root = make(tmp_path / "run")
    spoil(root / part)
    before = tree_hash(root)
    with pytest.raises(DataFormatError, match=r"is a Git LFS pointer.*run git lfs pull") as caught:
        [r.read() for r in open_recordings(root)]
    assert caught.value.file == str(root / part)
    assert main(["convert", str(root), "-o", str(tmp_path / "out")]) == EXIT_INPUT
    assert "Git LFS pointer" in capsys.readouterr().err and tree_hash(root) == before


@pytest.mark.parametrize(
    ("read", "name"),
    [(read_ply, "x.ply"), (read_point_cloud, "x.ply"), (load_tensors, "x.safetensors"), (load_s4d, "x.s4d")],
)
def test_79_splats_weights_and_scenes(tmp_path, read, name):
    file = spoil(tmp_path / name)
    with pytest.raises(DataFormatError, match="is a Git LFS pointer") as caught:
        read(file)
    assert caught.value.file == str(file) and caught.value.exit_code == EXIT_INPUT


def test_other_errors_stay_what_they_are(tmp_path):
    """Also beside a pointer that has nothing to do with them."""
    spoil(tmp_path / "a.bin")
    (tmp_path / "b.bin").write_text("no pointer")
    for error in (CheckpointError("x", file=tmp_path / "b.bin"), ResourceError("x", file=tmp_path / "a.bin")):
        with pytest.raises(type(error)) as caught, naming_pointers():
            raise error
        assert caught.value is error
