"""TUM RGB-D folders: rgb.txt, depth.txt and groundtruth.txt, each with its own clock readings, brought together.

Depth is 16-bit PNG at 5000 steps a metre, registered to colour. Poses are camera-to-world, OpenCV axes, quaternions
x y z w. K counts pixels by their index (ROS), so half a pixel is added. World z is up (motion capture).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from scene4d.data.cameras.calibration import PIXEL_CENTRE, read_numbers
from scene4d.data.cameras.lens import Lens, lens_or_none
from scene4d.data.files.paths import inside_folder, regular_file
from scene4d.data.files.text_files import text_lines
from scene4d.data.formats.rgbd.rgbd import K_FILES, RGBDFiles, need_all, rgbd_recording, those_there
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.data.timeline.resync import nearest_stamps
from scene4d.errors import CalibrationError, DataFormatError, DepthError, TimestampError
from scene4d.geometry.rotation import matrices_from_xyzw
from scene4d.ledger import LeftOut, with_left_out

METRES_PER_STEP = 1 / 5000
MAX_APART = 0.02  # s between a colour image and its depth or pose, as the data set's own tools have it
# fx fy cx cy, then k1 k2 p1 p2 k3. Source: the data set's file-format page; the third camera's images are undistorted.
FREIBURG = {
    "1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "3": ((535.4, 539.2, 320.1, 247.6), (0.0, 0.0, 0.0, 0.0, 0.0)),
}


def is_tum(folder: Path) -> bool:
    """Whether a folder holds rgb.txt and groundtruth.txt or depth.txt."""
    names = ("depth.txt", "groundtruth.txt")
    return (folder / "rgb.txt").is_file() and any((folder / name).is_file() for name in names)


def open_tum(folder: Path) -> TableRecording:
    """Open a TUM folder; a colour image without depth or pose within 0.02 s is left out and counted in `info`.

    Raises:
        DataFormatError: lists that cannot be read. DepthError: no depth.txt, or images that it names are missing.
        CalibrationError: no groundtruth.txt, or no K.txt where the folder's name tells no Freiburg camera.
        TimestampError: the clocks never meet. SecurityError: a list names a file outside the folder.
    """
    colors = _listing(folder / "rgb.txt", error=DataFormatError, what="images")
    depths = _listing(folder / "depth.txt", error=DepthError, what="depth")
    stamps, poses = _trajectory(folder / "groundtruth.txt")
    times = np.array([t for t, _ in colors])
    depth_index, depth_apart = nearest_stamps(np.array([t for t, _ in depths]), times)
    pose_index, pose_apart = nearest_stamps(stamps, times)
    together = (depth_apart <= MAX_APART) & (pose_apart <= MAX_APART)
    if not together.any():
        problem = f"no colour image has depth and a pose within {MAX_APART} s"
        found = f"at best {depth_apart.min():.3f} s to depth, {pose_apart.min():.3f} s to a pose"
        fix = "are the three lists of one recording and one clock?"
        raise TimestampError(problem, file=folder / "rgb.txt", field="timestamp", found=found, fix=fix)
    kept = np.flatnonzero(together)
    color_files, depth_files = [colors[i][1] for i in kept], [depths[depth_index[i]][1] for i in kept]
    need_all(color_files, folder, error=DataFormatError, what="image", fix="copy rgb/ again")
    there = those_there(depth_files, folder, fix="copy depth/ again")
    K, K_file, lens = _intrinsics(folder)
    files = RGBDFiles(
        names=[p.stem for p in color_files],
        colors=color_files,
        depths=there,
        world_from_cam=poses[pose_index[kept]],
        unit=METRES_PER_STEP,
        times=times[kept],
    )
    recording = rgbd_recording(folder, files, K=K, K_file=K_file, source="TUM RGB-D", lens=lens)
    reason, fix = "no depth and pose near this image: it is left out", "copy depth/ and the trajectory again"
    alone = tuple(colors[i][1].name for i in np.flatnonzero(~together))
    return replace(
        recording, info=with_left_out(recording.info, LeftOut("unmatched_images", "times", alone, reason, fix))
    )


def _intrinsics(folder: Path) -> tuple[np.ndarray, Path, Lens | None]:
    for name in K_FILES:
        if regular_file(folder / name, root=folder):
            return read_numbers(folder / name, what="3x3"), folder / name, None
    number = re.search(r"freiburg([123])", folder.resolve().name)
    if number is None:
        problem = "no intrinsics: the layout has no place for them and the folder's name tells no Freiburg camera"
        fix = "write K.txt in pixels (the data set's nominal camera: 525 0 320 / 0 525 240 / 0 0 1)"
        raise CalibrationError(problem, file=folder / "K.txt", field="K of camera", fix=fix)
    (fx, fy, cx, cy), distortion = FREIBURG[number.group(1)]
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) + PIXEL_CENTRE, folder, lens_or_none(distortion)


def _listing(path: Path, *, error: type, what: str) -> list[tuple[float, Path]]:
    """Clock reading and file of each line."""
    try:
        lines = [line.split() for line in text_lines(path)]
        rows = [(float(line[0]), line[1]) for line in lines if line and not line[0].startswith("#")]
    except FileNotFoundError as missing:
        raise error(f"no {what}", file=path, fix="copy the whole folder") from missing
    except (OSError, ValueError, IndexError) as broken:
        fix = "each line is: seconds file"
        raise DataFormatError("is no list of files", file=path, found=str(broken)[:80], fix=fix) from broken
    if not rows:
        raise error(f"no {what}", file=path, found="an empty list", fix="copy the whole folder")
    stamps = np.array([t for t, _ in rows])
    steps = np.diff(stamps)
    if not np.isfinite(stamps).all() or not (steps > 0).all():
        k = int((~(steps > 0)).argmax()) + 1
        raise TimestampError("times do not increase", file=path, field="timestamp", frame=k, found=rows[k][0])
    return [(t, inside_folder(path.parent, name, file=path)) for t, name in rows]


def _trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Clock readings [n] and world-from-camera matrices [n 4 4]."""
    if not regular_file(path, root=path.parent):
        raise CalibrationError("no poses", file=path, field="pose", fix="lines of: seconds tx ty tz qx qy qz qw")
    rows = read_numbers(path, what="8 numbers a line: seconds tx ty tz qx qy qz qw")
    if rows.shape[1] != 8:
        raise DataFormatError("is no trajectory", file=path, found=f"{rows.shape[1]} numbers a line", expected=8)
    length = np.linalg.norm(rows[:, 4:], axis=1)
    if not (length > 1e-6).all():
        frame = int((~(length > 1e-6)).argmax())
        raise CalibrationError("a quaternion is zero or not finite", file=path, field="quaternion", frame=frame)
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3, :3] = matrices_from_xyzw(rows[:, 4:])
    matrices[:, :3, 3] = rows[:, 1:4]
    order = np.argsort(rows[:, 0], kind="stable")
    return rows[order, 0], matrices[order]
