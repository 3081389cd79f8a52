"""Exports of phones, written after the pages of their formats: the floor must look as it was painted, z up."""

import json

import numpy as np
import pytest
from floor_scene import HEIGHT, WIDTH, K, assert_true_to_the_floor, photograph, pose
from left_out_names import left_out_names
from PIL import Image
from scipy.spatial.transform import Rotation

from scene4d.data.detect import open_recordings
from scene4d.data.video.video import encode_video
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import left_out

COUNT = 12
GL = np.diag([1.0, -1.0, -1.0, 1.0])
Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # a phone's world from one whose z is up


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def depth_codes(i, *, small=1):
    """Millimetres of every `small`-th pixel: LiDAR sees less than the camera."""
    return np.round(
        photograph(i, matrix=np.diag([1 / small, 1 / small, 1]) @ K, size=(WIDTH // small, HEIGHT // small))[1] * 1000
    )


def levels(values=(0, 1, 2)):
    """A confidence map whose left third is low."""
    return np.repeat(np.array([values[0], values[1], values[2]], np.uint8), WIDTH // 3 + 1)[None, :WIDTH].repeat(
        HEIGHT, 0
    )


def polycam(folder, *, corrected=True, lost=()):
    cameras, images = ("corrected_cameras", "corrected_images") if corrected else ("cameras", "images")
    for i in range(COUNT):
        name = str(900_000 + 250_000 * i)  # microseconds; the names grow longer on the way
        save(folder / f"keyframes/{images}/{name}.png", photograph(i)[0])
        save(folder / f"keyframes/depth/{name}.png", depth_codes(i).astype(np.uint16))
        matrix = Y_UP @ pose(i) @ GL
        values = {f"t_{r}{c}": float(matrix[r, c]) for r in range(3) for c in range(4)}
        values |= {"fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "width": WIDTH, "height": HEIGHT}
        values |= {"t_03": float("nan")} if i in lost else {}
        path = folder / f"keyframes/{cameras}/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**values, "blur_score": 1.0}))
    (folder / "raw.glb").write_bytes(b"")
    return folder


def stray(folder, *, video=False, own_K=False, rows=COUNT, own_frames=range(COUNT)):
    folder.mkdir(exist_ok=True)
    head = ["timestamp", "frame", "x", "y", "z", "qx", "qy", "qz", "qw", *(["fx", "fy", "cx", "cy"] if own_K else [])]
    lines = [", ".join(head)]
    for i in range(rows):
        matrix = Y_UP @ pose(i)
        numbers = [*matrix[:3, 3], *Rotation.from_matrix(matrix[:3, :3]).as_quat()]
        numbers += [K[0, 0], K[1, 1], K[0, 2], K[1, 2]] if own_K else []
        lines.append(", ".join([f"{5000 + i / 60:.6f}", f"{i:06d}", *(f"{n:.9f}" for n in numbers)]))
    (folder / "odometry.csv").write_text("\n".join(lines) + "\n")
    np.savetxt(folder / "camera_matrix.csv", K if not own_K else 2 * K, delimiter=",")
    (folder / "imu.csv").write_text("timestamp\n")
    for i in own_frames:
        save(folder / f"depth/{i:06d}.png", depth_codes(i).astype(np.uint16))
        if not video:
            save(folder / f"imgs/{i:06d}.png", photograph(i)[0])
    if video:
        encode_video(folder / "rgb.mp4", [photograph(i)[0] for i in range(COUNT)], fps=60, crf=0)
    return folder


def record3d(folder, *, kind="npy", name="metadata.json", own_K=False):
    poses = []
    for i in range(COUNT):  # 0, 1, 10, 11, 2 in the order of text
        save(folder / f"rgb/{i}.png", photograph(i)[0])
        metres = photograph(i)[1]
        (folder / "depth").mkdir(exist_ok=True)
        if kind == "exr":
            library = pytest.importorskip("OpenEXR")
            header = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
            library.File(header, {"R": metres}).write(str(folder / f"depth/{i}.exr"))
        else:
            np.save(folder / f"depth/{i}.npy", metres)
        matrix = Y_UP @ pose(i) @ GL
        poses.append([*Rotation.from_matrix(matrix[:3, :3]).as_quat(), *matrix[:3, 3]])
    values = {"w": WIDTH, "h": HEIGHT, "fps": 60, "K": K.T.ravel().tolist(), "poses": poses, "dw": WIDTH, "dh": HEIGHT}
    if own_K:
        values |= {
            "K": (2 * K).T.ravel().tolist(),
            "perFrameIntrinsicCoeffs": [K[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()] * COUNT,
        }
    (folder / name).write_text(json.dumps(values))
    return folder


EXPORTS = {
    "polycam": (polycam, {}),
    "polycam, not corrected": (polycam, {"corrected": False}),
    "stray scanner, images": (stray, {}),
    "stray scanner, video": (stray, {"video": True}),
    "stray scanner, a K a frame": (stray, {"own_K": True}),
    "record3d, npy": (record3d, {}),
    "record3d, EXR": (record3d, {"kind": "exr"}),
    "record3d, unpacked": (record3d, {"name": "metadata"}),
    "record3d, a K a frame": (record3d, {"own_K": True}),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_floor_is_as_it_was_painted(tmp_path, name):
    make, how = EXPORTS[name]
    recording = open_recordings(make(tmp_path, **how))[0]
    assert recording.num_frames == COUNT and recording.depth_cameras == ("camera",)
    assert recording.info["source"].lower() == name.split(",")[0]
    assert_true_to_the_floor(recording.read(), tolerance=0.06 if how.get("video") else 0.02)
    assert not [entry for entry in left_out(recording.info) if entry.lost], "all of it is read"


def test_times_are_those_of_the_phone(tmp_path):
    assert open_recordings(polycam(tmp_path / "a"))[0].fps == pytest.approx(4)
    assert open_recordings(stray(tmp_path / "b"))[0].fps == pytest.approx(60, rel=1e-3)
    assert open_recordings(record3d(tmp_path / "c"))[0].fps == pytest.approx(60)


def test_small_depth_lies_over_its_colour(tmp_path):
    folder = stray(tmp_path)
    for i in range(COUNT):
        save(folder / f"depth/{i:06d}.png", depth_codes(i, small=2).astype(np.uint16))
    recording = open_recordings(folder)[0]
    assert left_out_names(recording, "depth_size") == [f"{WIDTH // 2}x{HEIGHT // 2}"]
    depth = recording.read(0, 1).views["camera"].depth[0].numpy()
    true = photograph(0)[1]
    both = (depth > 0) & (true > 0)
    assert depth.shape == true.shape and np.abs(depth - true)[both].mean() < 0.04


def test_depth_of_the_lowest_confidence_is_not_measured(tmp_path):
    folder = polycam(tmp_path / "a")
    for path in (folder / "keyframes/depth").iterdir():
        save(folder / "keyframes/confidence" / path.name, levels((0, 54, 255)))
    recording = open_recordings(folder)[0]
    depth = recording.read(0, 1).views["camera"].depth[0]
    third = WIDTH // 3 + 1
    assert (depth[:, :third] == 0).all() and (depth[:, third:] > 0).float().mean() > 0.5
    entry = next(e for e in left_out(recording.info) if e.kind == "low_confidence")
    assert entry.names == (f"{COUNT} maps",) and not entry.lost


def test_a_missing_depth_is_named(tmp_path):
    folder = stray(tmp_path)
    (folder / "depth/000003.png").unlink()
    recording = open_recordings(folder)[0]
    assert left_out_names(recording, "missing_depth") == ["000003"]
    depth = recording.read(2, 5).views["camera"].depth
    assert [bool((d > 0).any()) for d in depth] == [True, False, True]


def test_a_lost_pose_is_named(tmp_path):
    recording = open_recordings(polycam(tmp_path, lost=(3,)))[0]
    assert recording.num_frames == COUNT - 1 and left_out_names(recording, "lost_poses") == ["1650000"]
    assert_true_to_the_floor(recording.read())


def test_rows_without_a_picture_are_named(tmp_path):
    recording = open_recordings(stray(tmp_path, rows=COUNT, own_frames=range(COUNT - 2)))[0]
    assert recording.num_frames == COUNT - 2 and left_out_names(recording, "frame_counts") == [
        "poses 12",
        "pictures 10",
    ]


def test_tables_of_the_lens_are_named(tmp_path):
    (stray(tmp_path) / "distortion").mkdir()
    recording = open_recordings(tmp_path)[0]
    assert [e.lost for e in left_out(recording.info) if e.kind == "lens_tables"] == [True]


def test_packed_depth_is_named(tmp_path):
    folder = record3d(tmp_path)
    (folder / "rgb/0.depth").write_bytes(b"bvx2")
    assert left_out_names(open_recordings(folder)[0], "packed_depth") == ["0.depth"]


FAULTS = {
    "polycam: K of another size": (
        polycam,
        lambda f: edit(f / "keyframes/corrected_cameras/900000.json", width=99),
        CalibrationError,
        "another image size",
    ),
    "polycam: no number": (
        polycam,
        lambda f: edit(f / "keyframes/corrected_cameras/900000.json", t_11="x"),
        DataFormatError,
        "t_11",
    ),
    "stray: a column less": (
        stray,
        lambda f: (f / "odometry.csv").write_text((f / "odometry.csv").read_text().replace("qw", "w")),
        DataFormatError,
        "qw",
    ),
    "stray: no K": (stray, lambda f: (f / "camera_matrix.csv").write_text("1,2\n"), CalibrationError, "3x3"),
    "record3d: six numbers": (
        record3d,
        lambda f: edit(f / "metadata.json", poses=[[0.0] * 6] * COUNT),
        CalibrationError,
        "poses",
    ),
    "record3d: no rotation": (
        record3d,
        lambda f: edit(f / "metadata.json", poses=[[0.0] * 7] * COUNT),
        CalibrationError,
        "quaternion",
    ),
}


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tmp_path, name):
    make, spoil, kind, words = FAULTS[name]
    spoil(make(tmp_path))
    with pytest.raises(kind, match=words) as caught:
        open_recordings(tmp_path)[0].read()
    assert str(tmp_path) in caught.value.file and caught.value.exit_code == 3


def test_a_packed_file_says_how_to_export(tmp_path):
    (tmp_path / "scan.r3d").write_bytes(b"PK")
    with pytest.raises(DataFormatError) as caught:
        open_recordings(tmp_path / "scan.r3d")
    assert "EXR + RGB" in caught.value.fix
