"""Faults 70, 71, 87 and 89 of the catalogue: links, pipes and odd names in folders of pictures, and endless lines."""

import json
import os
import socket
import time

import numpy as np
import pytest
from data_fixtures import HEIGHT, LENGTH, WIDTH, K, assert_refused, rgbd_folder
from left_out_names import left_out_names
from PIL import Image

from scene4d.data.detect import open_recordings
from scene4d.data.files.paths import listed_files, natural_order, regular_file
from scene4d.errors import CalibrationError, DataFormatError, SecurityError

BY_INDEX = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
POSES = [np.block([[np.eye(3), np.full((3, 1), 0.1 * i)], [np.zeros(3), 1]]) for i in range(LENGTH)]


def picture(path, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8)).save(path)


def depth(path, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH), 1000 + i, np.uint16)).save(path)


def seven_scenes(folder):
    for i in range(LENGTH):
        picture(folder / f"frame-{i}.color.png", i)
        depth(folder / f"frame-{i}.depth.png", i)
        np.savetxt(folder / f"frame-{i}.pose.txt", POSES[i])
    np.savetxt(folder / "camera-intrinsics.txt", K)
    return folder


def scannet(folder):
    for i in range(LENGTH):
        picture(folder / f"color/{i}.png", i)
        depth(folder / f"depth/{i}.png", i)
        (folder / "pose").mkdir(exist_ok=True)
        np.savetxt(folder / f"pose/{i}.txt", POSES[i])
    (folder / "intrinsic").mkdir()
    matrix = np.eye(4)
    matrix[:3, :3] = K
    np.savetxt(folder / "intrinsic/intrinsic_color.txt", matrix)
    return folder


def open3d(folder):
    for i in range(LENGTH):
        picture(folder / f"color/{i}.png", i)
        depth(folder / f"depth/{i}.png", i)
    values = {"width": WIDTH, "height": HEIGHT, "intrinsic_matrix": BY_INDEX.T.ravel().tolist()}
    (folder / "camera_intrinsic.json").write_text(json.dumps(values))
    blocks = [f"{i} {i} {i + 1}\n" + "\n".join(" ".join(map(str, r)) for r in POSES[i]) for i in range(LENGTH)]
    (folder / "trajectory.log").write_text("\n".join(blocks) + "\n")
    return folder


def replica(folder):
    for i in range(LENGTH):
        picture(folder / f"results/frame{i}.png", i)
        depth(folder / f"results/depth{i}.png", i)
    np.savetxt(folder / "traj.txt", np.stack([p.ravel() for p in POSES]))
    camera = dict(zip(("fx", "fy", "cx", "cy"), BY_INDEX[[0, 1, 0, 1], [0, 1, 2, 2]].tolist(), strict=True))
    (folder / "cam_params.json").write_text(json.dumps({"camera": {**camera, "w": WIDTH, "h": HEIGHT, "scale": 1000}}))
    return folder


def stray(folder):
    lines = ["timestamp, frame, x, y, z, qx, qy, qz, qw"]
    for i in range(LENGTH):
        picture(folder / f"imgs/{i:06d}.png", i)
        depth(folder / f"depth/{i:06d}.png", i)
        lines.append(f"{i / 60}, {i:06d}, {0.1 * i}, 0, 0, 0, 0, 0, 1")
    (folder / "odometry.csv").write_text("\n".join(lines) + "\n")
    np.savetxt(folder / "camera_matrix.csv", K, delimiter=",")
    return folder


def transforms(folder):
    frames = []
    for i in range(LENGTH):
        picture(folder / f"images/{i}.png", i)
        depth(folder / f"depth/{i}.png", i)
        matrix = (POSES[i] * [1, -1, -1, 1]).tolist()
        frames.append({"file_path": f"images/{i}.png", "depth_file_path": f"depth/{i}.png", "transform_matrix": matrix})
    top = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "w": WIDTH, "h": HEIGHT}
    (folder / "transforms.json").write_text(json.dumps({**top, "frames": frames}))
    return folder


# What makes it, and the colour and depth file of its frame 3.
LAYOUTS = {
    "images_depth": (rgbd_folder, "images/003.png", "depth/003.png"),
    "seven_scenes": (seven_scenes, "frame-3.color.png", "frame-3.depth.png"),
    "scannet": (scannet, "color/3.png", "depth/3.png"),
    "open3d": (open3d, "color/3.png", "depth/3.png"),
    "replica": (replica, "results/frame3.png", "results/depth3.png"),
    "stray": (stray, "imgs/000003.png", "depth/000003.png"),
    "transforms": (transforms, "images/3.png", "depth/3.png"),
}


def pipe(path):
    os.mkfifo(path)


def listening(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the whole path may be too long for a socket
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def link_to_itself(path):
    path.symlink_to(path.name)


def device(path):
    path.symlink_to("/dev/zero")


ODD = {"pipe": pipe, "socket": listening, "a link to itself": link_to_itself}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_70_an_odd_entry_in_place_of_depth_is_named(tmp_path, layout, odd):
    make, _, place = LAYOUTS[layout]
    folder = make(tmp_path / "set")
    (folder / place).unlink()
    ODD[odd](folder / place)
    recording = open_recordings(folder)[0]
    assert len(left_out_names(recording, "missing_depth")) == 1
    measured = (recording.read().views["camera"].depth > 0).any(-1).any(-1).tolist()
    assert measured == [i != 3 for i in range(LENGTH)]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_70_an_odd_entry_in_place_of_colour_is_named_or_refused(tmp_path, layout, odd):
    """A frame less is named; where poses lie in one list, they are one too many then."""
    make, place, _ = LAYOUTS[layout]
    folder = make(tmp_path / "set")
    (folder / place).unlink()
    ODD[odd](folder / place)
    start = time.monotonic()
    try:
        recording = open_recordings(folder)[0]
    except CalibrationError as error:
        assert "differ in number" in str(error) and error.exit_code == 3
    else:
        names = [*left_out_names(recording, "no_regular_files"), *left_out_names(recording, "missing_images")]
        names += left_out_names(recording, "frame_counts")
        assert names and recording.read().batch_shape == (LENGTH - 1,)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", [1, 2])
def test_89_a_picture_that_is_a_link_out_of_the_tree(tmp_path, layout, which):
    folder = LAYOUTS[layout][0](tmp_path / "set")
    place = folder / LAYOUTS[layout][which]
    place.rename(tmp_path / "elsewhere.png")
    place.symlink_to(tmp_path / "elsewhere.png")
    assert_refused(folder, lambda: open_recordings(folder)[0].read(), kind=SecurityError, file="set", words="leads out")


@pytest.mark.parametrize("layout", ["images_depth", "scannet", "open3d", "replica", "stray"])
def test_89_a_folder_that_is_a_link_out_of_the_tree(tmp_path, layout):
    folder = LAYOUTS[layout][0](tmp_path / "set")
    place = (folder / LAYOUTS[layout][2]).parent
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert_refused(folder, lambda: open_recordings(folder)[0].read(), kind=SecurityError, file="set", words="leads out")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_89_links_inside_the_tree_are_followed(tmp_path, layout):
    make, *places = LAYOUTS[layout]
    folder = make(tmp_path / "set")
    (folder / "store").mkdir()
    for k, place in enumerate(places):
        (folder / place).rename(folder / f"store/{k}")
        (folder / place).symlink_to(folder / f"store/{k}")
    recording = open_recordings(folder)[0]
    assert recording.read().batch_shape == (LENGTH,) and not left_out_names(recording, "missing_depth")


def test_70_a_device_is_a_link_out_of_the_tree(tmp_path):
    folder = rgbd_folder(tmp_path / "set")
    (folder / "depth/003.png").unlink()
    device(folder / "depth/003.png")
    assert_refused(folder, lambda: open_recordings(folder), kind=SecurityError, file="003.png")


@pytest.mark.parametrize("name", ["K.txt", "poses.txt"])
def test_70_a_pipe_in_place_of_a_table(tmp_path, name):
    folder = rgbd_folder(tmp_path / "set")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    error = assert_refused(folder, lambda: open_recordings(folder), kind=CalibrationError, file="set", field="camera")
    assert name in error.fix


def test_70_other_odd_entries_stop_nothing(tmp_path):
    folder = rgbd_folder(tmp_path / "set")
    for k, make in enumerate([pipe, listening, link_to_itself, device]):
        for place in (folder, folder / "images"):
            make(place / f"odd{k}.txt")
    recording = open_recordings(folder)[0]
    assert recording.read().batch_shape == (LENGTH,)


ODD_NAMES = [
    "²",
    "frame³",
    "٣",
    "a\u202eb",
    "two\nlines",
    "tab\tbed",
    "é" * 120,
    "x" * 251,
    "  spaces  ",
    "9" * 200,
    "%s{}",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=[ascii(name)[:12] for name in ODD_NAMES])
def test_71_odd_names_are_read(tmp_path, name):
    folder = rgbd_folder(tmp_path / "set")
    for kind in ("images", "depth"):
        (folder / kind / "003.png").rename(folder / kind / f"{name}.png")
    np.savetxt(folder / "poses.txt", np.stack([p.ravel() for p in POSES]))
    recording = open_recordings(folder)[0]
    episode = recording.read()
    assert episode.batch_shape == (LENGTH,) and name in episode.info["frames"]
    assert np.isfinite(episode.times.numpy()).all() and (episode.times.diff() > 0).all()
    json.dumps(recording.info)


def test_71_an_odd_name_in_an_error_is_one_line(tmp_path):
    folder = rgbd_folder(tmp_path / "set")
    (folder / "images/003.png").rename(folder / "images/two\nlines.png")
    (folder / "images/two\nlines.png").write_bytes(b"nothing")
    error = assert_refused(folder, lambda: open_recordings(folder)[0].read(), kind=DataFormatError, file="two")
    assert "\n" not in error.line()


def test_71_numbers_of_any_length_and_script_have_an_order():
    names = ["a10", "a9", "a²", "a" + "9" * 5000, "a٣", "a1b2", "a1b10", "", "a01"]
    ordered = sorted(names, key=natural_order)
    assert [n for n in ordered if n in ("a9", "a10", "a1b2", "a1b10")] == ["a1b2", "a1b10", "a9", "a10"]
    assert sorted(ordered) == sorted(names) and ordered.index("a" + "9" * 5000) > ordered.index("a10")


LONG = {
    "K.txt": "one line",
    "poses.txt": "one line",
    "frames.txt": "one line",
}


@pytest.mark.parametrize("name", LONG)
def test_87_a_line_of_forty_megabytes_is_refused_early(tmp_path, name):
    folder = rgbd_folder(tmp_path / "set")
    with (folder / name).open("w") as file:
        for _ in range(10):
            file.write("0.12345 " * (1 << 19))
    start = time.monotonic()
    error = assert_refused(folder, lambda: open_recordings(folder), kind=DataFormatError, file=name, words="too long")
    assert "bytes" in str(error.expected) and time.monotonic() - start < 2 + 1


def test_87_more_lines_than_a_recording_has(tmp_path):
    folder = open3d(tmp_path / "set")
    with (folder / "trajectory.log").open("w") as file:
        for _ in range(70):
            file.write("0.12345 0.12345 0.12345 0\n" * (1 << 15) + "0 0 0 0\n" * (1 << 15))
    error = assert_refused(folder, lambda: open_recordings(folder), kind=DataFormatError, file="trajectory.log")
    assert "too long" in str(error)


def test_listing_is_of_regular_files_in_order(tmp_path):
    for name in ("10.png", "9.png", "a.txt", "1.PNG"):
        (tmp_path / name).write_bytes(b"")
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").mkdir()
    (tmp_path / "4.png").symlink_to("nowhere.png")
    files, passed = listed_files(tmp_path, root=tmp_path, suffixes=(".png",))
    assert [p.name for p in files] == ["1.PNG", "9.png", "10.png"] and passed == ["2.png", "4.png"]
    assert listed_files(tmp_path / "none", root=tmp_path, suffixes=(".png",)) == ([], [])
    assert regular_file(tmp_path / "9.png", root=tmp_path) and not regular_file(tmp_path / "2.png", root=tmp_path)
