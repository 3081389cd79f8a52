"""Captures as people have them: missing files, several sizes and models, Windows paths, lost poses, tags."""

import json
import os

import numpy as np
import pytest
import torch
from floor_scene import HEIGHT, WIDTH, assert_true_to_the_floor, photograph, pose
from left_out_names import left_out_names
from PIL import Image
from scipy.spatial.transform import Rotation

from scene4d.data.detect import open_recordings
from scene4d.data.formats.posed.picture_sizes import grouped_sizes
from scene4d.errors import DataFormatError, SecurityError
from scene4d.ledger import left_out

GL = np.diag([1.0, -1.0, -1.0, 1.0])
COUNT = 12
SIZES = [(WIDTH, HEIGHT), (WIDTH + 1, HEIGHT), (WIDTH, HEIGHT - 2), (HEIGHT, WIDTH)]  # the last is upright


def matrix_for(size):
    return np.array([[36.0, 0, size[0] / 2 - 1], [0, 34.0, size[1] / 2 + 1], [0, 0, 1]])


def camera_of(size):
    matrix = matrix_for(size)
    return {"w": size[0], "h": size[1], "fl_x": 36.0, "fl_y": 34.0, "cx": matrix[0, 2], "cy": matrix[1, 2]}


def save(path, values, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **how)


def transforms(folder, *, sizes=((WIDTH, HEIGHT),), masks=False, suffix="png", entry=lambda i: {}, exif=None):
    frames = []
    for i in range(COUNT):
        size = sizes[i % len(sizes)]
        picture, metres = photograph(i, matrix=matrix_for(size), size=size)
        how = {"exif": exif, "quality": 100, "subsampling": 0} if suffix == "jpg" else {"exif": exif} if exif else {}
        save(folder / f"images/{i}.{suffix}", picture, **how)
        save(folder / f"depth/{i}.png", np.round(metres * 1000).astype(np.uint16))
        frame = {"file_path": f"images/{i}.{suffix}", "depth_file_path": f"depth/{i}.png"} | camera_of(size)
        if masks:
            save(folder / f"masks/{i}.png", np.tile(np.uint8([[0, 255]]), (HEIGHT, WIDTH // 2)))
            frame["mask_path"] = f"masks/{i}.png"
        frames.append({**frame, "transform_matrix": (pose(i) @ GL).tolist()} | entry(i))
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return folder


def colmap(folder, *, sizes=((WIDTH, HEIGHT),), names=lambda i: f"{i}.png", place="sparse/0", images="images", **how):
    """A text model; `first` and `count` choose its images."""
    model = folder / place
    model.mkdir(parents=True)
    cameras, rows = [], []
    for k, size in enumerate(sizes):
        scale = how.get("scale", 1)
        cx, cy = matrix_for(size)[:2, 2] * scale
        cameras.append(f"{k + 1} PINHOLE {size[0] * scale} {size[1] * scale} {36 * scale} {34 * scale} {cx} {cy}")
    for i in range(how.get("first", 0), how.get("count", COUNT)):
        size = sizes[i % len(sizes)]
        save(folder / images / names(i), photograph(i, matrix=matrix_for(size), size=size)[0])
        viewmat = np.linalg.inv(pose(i))
        x, y, z, w = Rotation.from_matrix(viewmat[:3, :3]).as_quat()
        numbers = " ".join(map(repr, map(float, (w, x, y, z, *viewmat[:3, 3]))))
        rows.append(f"{i + 1} {numbers} {i % len(sizes) + 1} {names(i)}\n")
    (model / "cameras.txt").write_text("# cameras\n" + "\n".join(cameras) + "\n")
    (model / "images.txt").write_text("# images\n" + "\n".join(rows) + "\n")
    (model / "points3D.txt").write_text("# points\n")
    return folder


def lost_entries(recording):
    return [entry.kind for entry in left_out(recording.info) if entry.lost]


@pytest.mark.parametrize("make", [transforms, colmap])
def test_pictures_of_about_one_size_are_one_recording(tmp_path, make):
    if make is colmap:
        pytest.importorskip("pycolmap")
    recordings = open_recordings(make(tmp_path, sizes=SIZES))
    assert len(recordings) == 1 and recordings[0].num_frames == COUNT and not lost_entries(recordings[0])
    assert recordings[0].sizes == {"camera": (WIDTH + 1, WIDTH)}
    episode = recordings[0].read()
    assert_true_to_the_floor(episode)
    frames = episode.views["camera"]
    for i, (width, height) in enumerate(SIZES):
        assert frames.alpha[i].sum() == width * height and (frames.alpha[i, :height, :width] == 1).all()
        torch.testing.assert_close(
            frames.cameras.Ks[i].double().numpy(), matrix_for((width, height)), rtol=0, atol=1e-5
        )
        assert frames.depth is None or (frames.depth[i] * (1 - frames.alpha[i])).abs().max() == 0
    assert len(left_out_names(recordings[0], "picture_sizes")) == len(SIZES)
    half = recordings[0].read(size=((WIDTH + 1) // 2, WIDTH // 2))
    assert half.views["camera"].rgb.shape[1:3] == (WIDTH // 2, (WIDTH + 1) // 2)


def test_sizes_that_differ_much_stay_apart():
    sizes = [(4000, 3000), (640, 480), (4001, 2999), (480, 640), (3000, 4000)]
    assert grouped_sizes(sizes) == [[0, 2, 4], [1, 3]]


def test_masks_that_are_missing_are_named(tmp_path):
    (transforms(tmp_path, masks=True) / "masks/2.png").unlink()
    recording = open_recordings(tmp_path)[0]
    assert left_out_names(recording, "missing_masks") == ["2"] == left_out_names(recording, "missing_masks")
    alpha = recording.read(1, 4).views["camera"].alpha.mean((1, 2)).tolist()
    assert alpha == [0.5, 1.0, 0.5]


def test_depth_and_masks_that_are_all_missing_are_named(tmp_path):
    transforms(tmp_path, masks=True)
    for path in [*(tmp_path / "masks").iterdir(), *(tmp_path / "depth").iterdir()]:
        path.unlink()
    recording = open_recordings(tmp_path)[0]
    assert len(left_out_names(recording, "missing_depth")) == len(left_out_names(recording, "missing_masks")) == COUNT
    assert recording.depth_cameras == ()


def test_paths_of_windows(tmp_path):
    names = lambda i: {"file_path": f"images\\{i}.png", "depth_file_path": f".\\depth\\{i}.png"}
    recording = open_recordings(transforms(tmp_path, entry=names))[0]
    assert recording.num_frames == COUNT and recording.depth_cameras and not lost_entries(recording)
    assert recording.read(3, 4).info["frames"] == ["3"]
    assert_true_to_the_floor(recording.read())


def test_windows_paths_that_lead_out(tmp_path):
    transforms(tmp_path / "set", entry=lambda i: {"file_path": "..\\..\\up.png"})
    with pytest.raises(SecurityError):
        open_recordings(tmp_path / "set")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_pose_that_is_not_finite_is_dropped_and_named(tmp_path, value):
    transforms(tmp_path)
    table = (tmp_path / "transforms.json").read_text()
    number = json.dumps(float((pose(4) @ GL)[0, 3]))
    assert table.count(number) == 1
    (tmp_path / "transforms.json").write_text(table.replace(number, value))
    recording = open_recordings(tmp_path)[0]
    assert recording.num_frames == COUNT - 1 and left_out_names(recording, "lost_poses") == ["4"]
    assert_true_to_the_floor(recording.read())


def test_a_focal_length_that_is_not_finite_is_refused(tmp_path):
    transforms(tmp_path, entry=lambda i: {"fl_x": float("nan")})
    with pytest.raises(DataFormatError) as caught:
        open_recordings(tmp_path)
    assert caught.value.field == "fl_x"


@pytest.mark.parametrize(("suffix", "tag"), [("jpg", 3), ("jpg", 6), ("jpg", 2), ("png", 8), ("webp", 3)])
def test_orientation_tags_are_named(tmp_path, suffix, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    recording = open_recordings(transforms(tmp_path, suffix=suffix, exif=exif))[0]
    assert len(left_out_names(recording, "orientation_tags")) == COUNT and "orientation_tags" in lost_entries(recording)
    entry = next(e for e in left_out(recording.info) if e.kind == "orientation_tags")
    assert "calibrated" in entry.reason and "remove the tag" in entry.fix
    assert recording.sizes == {"camera": (WIDTH, HEIGHT)}, "pixels are read as they lie"


def test_upright_tags_are_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 1
    assert not lost_entries(open_recordings(transforms(tmp_path, suffix="jpg", exif=exif))[0])


def test_the_largest_model_is_read_and_the_others_are_named(tmp_path):
    pytest.importorskip("pycolmap")
    for k, (first, count) in enumerate([(0, 2), (0, COUNT), (4, 7)]):
        colmap(tmp_path, place=f"sparse/{k}", first=first, count=count)
    recording = open_recordings(tmp_path)[0]
    assert recording.num_frames == COUNT
    assert left_out_names(recording, "other_models") == ["sparse/0: 2 images", "sparse/2: 3 images"]
    assert "other_models" in lost_entries(recording)
    for model, count in (("sparse/0", 2), ("sparse/2", 3)):
        chosen = open_recordings(tmp_path / model)[0]
        assert chosen.num_frames == count and not left_out(chosen.info)
        assert_true_to_the_floor(chosen.read())


def test_names_with_spaces_in_natural_order(tmp_path):
    pytest.importorskip("pycolmap")
    recording = open_recordings(colmap(tmp_path, names=lambda i: f"day 1/my shot ({i}).png"))[0]
    assert recording.read().info["frames"] == [f"day 1/my shot ({i}).png" for i in range(COUNT)]
    assert_true_to_the_floor(recording.read())


@pytest.mark.parametrize("step", [2, 4, 8])
def test_smaller_copies_have_their_own_K(tmp_path, step):
    pytest.importorskip("pycolmap")
    recording = open_recordings(colmap(tmp_path, images=f"images_{step}", scale=step))[0]
    assert recording.num_frames == COUNT and left_out_names(recording, "smaller_images") == [f"images_{step}"]
    episode = recording.read()
    torch.testing.assert_close(episode.views["camera"].cameras.Ks[0].double().numpy(), matrix_for((WIDTH, HEIGHT)))
    assert_true_to_the_floor(episode)
    assert not lost_entries(recording)


@pytest.mark.parametrize("spelling", ["{}.png.png", "{}.png"])
def test_masks_of_colmap(tmp_path, spelling):
    pytest.importorskip("pycolmap")
    colmap(tmp_path)
    for i in range(COUNT - 1):
        save(tmp_path / "masks" / spelling.format(i), np.tile(np.uint8([[0, 255]]), (HEIGHT, WIDTH // 2)))
    recording = open_recordings(tmp_path)[0]
    assert left_out_names(recording, "missing_masks") == [f"{COUNT - 1}.png"]
    alpha = recording.read().views["camera"].alpha.mean((1, 2)).tolist()
    assert alpha == [0.5] * (COUNT - 1) + [1.0]


def test_a_list_of_images_that_is_cut(tmp_path):
    pytest.importorskip("pycolmap")
    path = colmap(tmp_path) / "sparse/0/images.txt"
    path.write_text("\n".join(line[:30] for line in path.read_text().splitlines()))
    with pytest.raises(DataFormatError):
        open_recordings(tmp_path)


def test_a_pipe_among_the_images(tmp_path):
    pytest.importorskip("pycolmap")
    colmap(tmp_path)
    (tmp_path / "images/3.png").unlink()
    os.mkfifo(tmp_path / "images/3.png")
    recording = open_recordings(tmp_path)[0]
    assert recording.num_frames == COUNT - 1 and left_out_names(recording, "missing_images") == ["3.png"]


@pytest.mark.parametrize("name", ["images", "masks"])
def test_folders_of_colmap_that_are_links_out_of_the_tree(tmp_path, name):
    pytest.importorskip("pycolmap")
    folder = colmap(tmp_path / "set")
    save(folder / "masks/0.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(SecurityError):
        open_recordings(folder)
