"""Open3D reconstruction folders: color/ (or image/), depth/, an intrinsic JSON (column by column), a trajectory.

Trajectories are camera-to-world (.log) or camera-from-world (.json), OpenCV axes. K counts pixels by their index, so
half a pixel is added.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from scene4d.data.cameras.calibration import PIXEL_CENTRE, inverse_poses
from scene4d.data.files.json_files import matrix_of, number_in, read_json
from scene4d.data.files.paths import listed_files, regular_file
from scene4d.data.files.text_files import text_lines
from scene4d.data.formats.rgbd.rgbd import IMAGE_SUFFIXES, RGBDFiles, rgbd_recording
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.data.video.depth_files import SUFFIXES
from scene4d.errors import CalibrationError, DataFormatError, DepthError
from scene4d.ledger import unused_files, with_left_out

COLOR_FOLDERS = ("color", "image", "rgb")
K_FILES = ("camera_intrinsic.json", "intrinsic.json", "camera.json")
TRAJECTORIES = ("trajectory.log", "scene/trajectory.log", "trajectory.json", "camera_trajectory.json")


def is_open3d(folder: Path) -> bool:
    """Whether a folder holds an Open3D intrinsic file or trajectory beside depth/."""
    return (folder / "depth").is_dir() and any((folder / name).is_file() for name in (*K_FILES, *TRAJECTORIES))


def open_open3d(folder: Path) -> TableRecording:
    """Open an Open3D folder; images and depth go together by their names, or else by the order of these.

    Raises:
        DataFormatError: no images, or a table that cannot be read. DepthError: no depth.
        CalibrationError: no or impossible intrinsics or trajectory.
    """
    images = next((folder / name for name in COLOR_FOLDERS if (folder / name).is_dir()), folder / COLOR_FOLDERS[0])
    colors, passed = listed_files(images, root=folder, suffixes=IMAGE_SUFFIXES)
    found, lost = listed_files(folder / "depth", root=folder, suffixes=SUFFIXES)
    if not colors:
        raise DataFormatError("holds no images", file=images, expected=list(COLOR_FOLDERS))
    depths = _paired(colors, found, folder=folder / "depth")
    file = next((folder / name for name in K_FILES if regular_file(folder / name, root=folder)), None)
    if file is None:
        fix = 'write {"width", "height", "intrinsic_matrix": [fx 0 0 0 fy 0 cx cy 1]}'
        raise CalibrationError("no intrinsics", file=folder / K_FILES[0], field="K of camera", fix=fix)
    values = read_json(file, fix="save it with open3d.io.write_pinhole_camera_intrinsic")
    K = matrix_of(values.get("intrinsic_matrix"))
    if K.shape not in ((9,), (3, 3)):
        raise CalibrationError("is no 3x3 matrix", file=file, field="intrinsic_matrix", found=K.shape, expected=9)
    K = K.reshape(3, 3).T if K.ndim == 1 else K
    scale = number_in(values, "depth_scale", file=file, default=1000.0)
    if not scale > 0:
        raise DepthError("is no depth scale", file=file, field="depth_scale", found=scale, expected="steps a metre")
    poses = _trajectory(folder, count=len(colors))
    names = [p.stem for p in colors]
    passed = [*passed, *lost]
    files = RGBDFiles(
        names=names, colors=colors, depths=depths, world_from_cam=poses, unit=1 / scale, passed_over=passed
    )
    recording = rgbd_recording(folder, files, K=K + PIXEL_CENTRE, K_file=file, source="Open3D")
    alone = unused_files(sorted({p.name for p in found} - {p.name for p in depths if p is not None}))
    return replace(recording, info=with_left_out(recording.info, alone))


def _paired(colors: list[Path], depths: list[Path], *, folder: Path) -> list[Path | None]:
    """The depth of each image: of its name, of the number that ends its name, or of its place in the order."""
    if not depths:
        raise DepthError("no depth", file=folder, field="depth", fix="give one depth image a colour image")
    for key in (_stem, _number):
        known, wanted = {key(path): path for path in depths}, {key(path) for path in colors}
        unlike = None in known or len(known) < len(depths) or len(wanted) < len(colors)
        if not unlike and (known.keys() <= wanted or known.keys() >= wanted):
            return [known.get(key(path)) for path in colors]
    if len(depths) != len(colors):
        problem = "images and depth differ in number"
        found, fix = len(depths), "give one depth image a colour image"
        raise DepthError(problem, file=folder, field="depth", found=found, expected=len(colors), fix=fix)
    return list(depths)


def _stem(path: Path) -> str | None:
    return path.stem


def _number(path: Path) -> str | None:
    """The number that ends a name, without its zeros in front."""
    found = re.search(r"[0-9]+$", path.stem)
    return None if found is None else found[0].lstrip("0")


def _trajectory(folder: Path, *, count: int) -> np.ndarray:
    """World-from-camera [t 4 4]."""
    path = next((folder / name for name in TRAJECTORIES if regular_file(folder / name, root=folder)), None)
    if path is None:
        fix = "write trajectory.log: for each image a line of three numbers, then its 4x4 camera-to-world matrix"
        raise CalibrationError("no poses", file=folder / TRAJECTORIES[0], field="pose", fix=fix)
    if path.suffix == ".json":
        rows = read_json(path, fix="save it with open3d.io.write_pinhole_camera_trajectory").get("parameters")
        rows = rows if isinstance(rows, list) else []
        flat = [matrix_of(row.get("extrinsic") if isinstance(row, dict) else None) for row in rows]
        if any(m.shape != (16,) for m in flat):
            raise CalibrationError("is no list of matrices", file=path, field="extrinsic", expected="16 numbers each")
        poses = inverse_poses(np.array(flat).reshape(-1, 4, 4).swapaxes(1, 2))
    else:
        try:
            numbers = np.array([word for line in text_lines(path) for word in line.split()], np.float64)
        except (OSError, ValueError) as error:
            raise DataFormatError("cannot be read as numbers", file=path, found=str(error)[:80]) from error
        if len(numbers) % 19:
            found = f"{len(numbers)} numbers"
            raise DataFormatError("is no trajectory", file=path, found=found, expected="3 + 16 each")
        poses = numbers.reshape(-1, 19)[:, 3:].reshape(-1, 4, 4)
    if len(poses) != count:
        problem, fix = "images and poses differ in number", "give one pose an image"
        raise CalibrationError(problem, file=path, field="pose", found=len(poses), expected=count, fix=fix)
    return poses
