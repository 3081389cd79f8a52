"""Depth files of every kind in every layout of folders: floats in metres, other scales, missing ones, order."""

import json
import os
import zipfile

import numpy as np
import pytest
from floor_scene import HEIGHT, WIDTH, K, assert_true_to_the_floor, photograph, pose
from left_out_names import left_out_names
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.data.video.depth_files import depth_size, read_depth
from scene4d.errors import DataFormatError, DepthError, SecurityError
from scene4d.ledger import left_out

COUNT = 12
BY_INDEX = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
GL = np.diag([1.0, -1.0, -1.0, 1.0])


def png(path, metres):
    Image.fromarray(np.round(metres * 1000).astype(np.uint16)).save(path.with_suffix(".png"))


def npy(path, metres):
    np.save(path.with_suffix(".npy"), metres.astype(np.float64)[..., None])


def npz(path, metres):
    np.savez_compressed(path.with_suffix(".npz"), depth=metres, other=metres * 2)


def tif(path, metres):
    Image.fromarray(metres).save(path.with_suffix(".tif"))


def tif16(path, metres):
    Image.fromarray(np.round(metres * 1000).astype(np.uint16)).save(path.with_suffix(".tiff"))


def exr(path, metres):
    library = pytest.importorskip("OpenEXR")
    header = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
    library.File(header, {"Z": metres, "A": metres * 0}).write(str(path.with_suffix(".exr")))


KINDS = {"png": png, "npy": npy, "npz": npz, "tif": tif, "tif16": tif16, "exr": exr}


def colour(path, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(i)[0]).save(path)


def depth(path, i, kind, *, small=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = np.diag([1 / small, 1 / small, 1]) @ K
    KINDS[kind](path, photograph(i, matrix=matrix, size=(WIDTH // small, HEIGHT // small))[1])


def poses_txt(folder, name="poses.txt"):
    np.savetxt(folder / name, np.stack([pose(i).ravel() for i in range(COUNT)]))


def images_depth(folder, kind, **how):
    for i in range(COUNT):  # 0, 1, 10, 11, 2 in the order of text
        colour(folder / f"images/{i}.png", i)
        depth(folder / f"depth/{i}", i, kind, **how)
    np.savetxt(folder / "K.txt", K)
    poses_txt(folder)


def seven_scenes(folder, kind, **how):
    for i in range(COUNT):
        colour(folder / f"frame-{i}.color.png", i)
        depth(folder / f"frame-{i}.depth.x", i, kind, **how)
        np.savetxt(folder / f"frame-{i}.pose.txt", pose(i))
    np.savetxt(folder / "camera-intrinsics.txt", K)


def scannet(folder, kind, **how):
    for i in range(COUNT):
        colour(folder / f"color/{i}.png", i)
        depth(folder / f"depth/{i}", i, kind, **how)
        (folder / "pose").mkdir(exist_ok=True)
        np.savetxt(folder / f"pose/{i}.txt", pose(i))
    (folder / "intrinsic").mkdir()
    matrix = np.eye(4)
    matrix[:3, :3] = K
    for what in ("color", "depth"):
        np.savetxt(folder / f"intrinsic/intrinsic_{what}.txt", matrix)


def replica(folder, kind, **how):
    for i in range(COUNT):
        colour(folder / f"results/frame{i}.png", i)
        depth(folder / f"results/depth{i}", i, kind, **how)
    poses_txt(folder, "traj.txt")
    camera = dict(zip(("fx", "fy", "cx", "cy"), BY_INDEX[[0, 1, 0, 1], [0, 1, 2, 2]].tolist(), strict=True))
    (folder / "cam_params.json").write_text(json.dumps({"camera": {**camera, "w": WIDTH, "h": HEIGHT, "scale": 1000}}))


def open3d(folder, kind, **how):
    for i in range(COUNT):
        colour(folder / f"color/{i}.png", i)
        depth(folder / f"depth/{i}", i, kind, **how)
    values = {"width": WIDTH, "height": HEIGHT, "intrinsic_matrix": BY_INDEX.T.ravel().tolist()}
    (folder / "camera_intrinsic.json").write_text(json.dumps(values))
    blocks = [f"{i} {i} {i + 1}\n" + "\n".join(" ".join(map(str, r)) for r in pose(i)) for i in range(COUNT)]
    (folder / "trajectory.log").write_text("\n".join(blocks) + "\n")


def transforms(folder, kind, **how):
    frames = []
    for i in range(COUNT):
        colour(folder / f"images/{i}.png", i)
        depth(folder / f"depth/{i}", i, kind, **how)
        name = next((folder / "depth").glob(f"{i}.*")).name
        matrix = (pose(i) @ GL).tolist()
        frames.append({"file_path": f"images/{i}.png", "depth_file_path": f"depth/{name}", "transform_matrix": matrix})
    top = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "w": WIDTH, "h": HEIGHT}
    (folder / "transforms.json").write_text(json.dumps({**top, "frames": frames}))


LAYOUTS = {f.__name__: f for f in (images_depth, seven_scenes, scannet, replica, open3d, transforms)}
IN_STEPS = ("png", "tif16")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_floor_is_as_it_was_painted(tmp_path, layout, kind):
    LAYOUTS[layout](tmp_path, kind)
    recording = open_recordings(tmp_path)[0]
    episode = recording.read()
    assert recording.num_frames == COUNT and recording.depth_cameras == ("camera",)
    assert_true_to_the_floor(episode)
    assert not [entry for entry in left_out(recording.info) if entry.lost]
    apart = episode.views["camera"].depth[5].numpy() - photograph(5)[1]
    assert np.abs(apart).max() < (6e-4 if kind in IN_STEPS else 1e-6)


@pytest.mark.parametrize("layout", sorted({*LAYOUTS} - {"scannet"}))  # whose colour is reduced to depth instead
def test_smaller_depth_lies_over_its_colour(tmp_path, layout):
    LAYOUTS[layout](tmp_path, "png", small=2)
    recording = open_recordings(tmp_path)[0]
    assert left_out_names(recording, "depth_size") == [f"{WIDTH // 2}x{HEIGHT // 2}"]
    metres, true = recording.read(0, 1).views["camera"].depth[0].numpy(), photograph(0)[1]
    both = (metres > 0) & (true > 0)
    assert metres.shape == true.shape
    assert np.median(np.abs(metres - true)[both]) < np.median(np.abs(np.roll(metres, 2, 0) - true)[both]) / 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_missing_depth_is_named_and_takes_no_other(tmp_path, layout):
    LAYOUTS[layout](tmp_path, "png")
    depths = [p for p in tmp_path.rglob("*.png") if "depth" in str(p.relative_to(tmp_path))]
    next(p for p in depths if p.name.removesuffix(".png").removesuffix(".depth").endswith("3")).unlink()
    recording = open_recordings(tmp_path)[0]
    names = left_out_names(recording, "missing_depth")
    assert len(names) == 1 and names[0].endswith("3")
    measured = (recording.read().views["camera"].depth > 0).any(-1).any(-1)
    assert measured.tolist() == [i != 3 for i in range(COUNT)]


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("depth.npy", "w") as file:
        file.write(bytes(np.lib.format.MAGIC_PREFIX) + b"\x01\x00")
        for _ in range(600):
            file.write(bytes(1 << 20))


def cut(path, write):
    write(path, np.ones((90, 90), np.float32))
    path.write_bytes(path.read_bytes()[:500])


BROKEN = {
    "pickled": ("000.npy", lambda p: np.save(p, np.array([{}], object), allow_pickle=True), SecurityError),
    "three axes": ("000.npy", lambda p: np.save(p, np.ones((4, 5, 3))), DepthError),
    "words": ("000.npy", lambda p: np.save(p, np.array([["a"]])), DepthError),
    "huge": ("000.npy", lambda p: np.lib.format.open_memmap(p, "w+", "u1", (12_000, 12_000)), DepthError),
    "cut npy": ("000.npy", lambda p: cut(p, npy), DataFormatError),
    "two arrays": ("000.npz", lambda p: np.savez(p, a=np.ones((4, 5)), b=np.ones((4, 5))), DataFormatError),
    "an archive that swells": ("000.npz", bomb, DataFormatError),
    "no archive": ("000.npz", lambda p: p.write_bytes(b"PK\x03\x04"), DataFormatError),
    "no EXR": ("000.exr", lambda p: p.write_bytes(b"\x76\x2f\x31\x01" + bytes(400)), DataFormatError),
    "cut EXR": ("000.exr", lambda p: cut(p, exr), DataFormatError),
    "colour": ("000.tif", lambda p: Image.new("RGB", (9, 9)).save(p), DepthError),
    "pipe": ("000.npy", os.mkfifo, DataFormatError),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_depth_is_refused(tmp_path, name):
    file, write, kind = BROKEN[name]
    if file.endswith("exr"):
        pytest.importorskip("OpenEXR")
    write(tmp_path / file)
    with pytest.raises(kind) as caught:
        read_depth(tmp_path / file, unit=1e-3)
    assert type(caught.value) is kind and caught.value.file == str(tmp_path / file) and caught.value.exit_code == 3


@pytest.mark.parametrize("kind", KINDS)
def test_size_without_reading(tmp_path, kind):
    depth(tmp_path / "0", 0, kind)
    assert depth_size(next(tmp_path.iterdir())) == (WIDTH, HEIGHT)
