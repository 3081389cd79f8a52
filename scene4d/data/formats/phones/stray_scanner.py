"""Stray Scanner: rgb.mp4 (or a folder of images), depth/, confidence/, odometry.csv, camera_matrix.csv.

Poses are camera-to-world with OpenCV axes, quaternions x y z w, in a world whose y is up; newer files add fx, fy, cx,
cy to each row. Depth is 16-bit in millimetres, smaller than colour; confidence is 0, 1 or 2.
Source: docs/format.md of github.com/strayrobots/scanner.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene4d.data.cameras.calibration import read_numbers
from scene4d.data.files.paths import regular_file
from scene4d.data.files.text_files import text_lines
from scene4d.data.formats.phones.phone_frames import (
    IMAGES,
    PhoneFrames,
    clock_or_count,
    files_by_stem,
    others_in,
    phone_recording,
    rigid_matrices,
)
from scene4d.data.timeline.frame_table import Pictures, TableRecording
from scene4d.data.video.depth_files import SUFFIXES
from scene4d.data.video.images import image_size
from scene4d.data.video.pictures import ColorFiles, VideoFrames
from scene4d.data.video.video import count_frames, video_facts
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import LeftOut, frame_counts

ODOMETRY, MATRIX, VIDEO = "odometry.csv", "camera_matrix.csv", "rgb.mp4"
FOLDERS = ("imgs", "images", "rgb")
POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
OWN_K = ("fx", "fy", "cx", "cy")
FPS = 60.0  # of the app, where times do not increase


def is_stray_scanner(folder: Path) -> bool:
    """Whether a folder holds odometry.csv beside camera_matrix.csv or rgb.mp4."""
    return (folder / ODOMETRY).is_file() and any((folder / name).is_file() for name in (MATRIX, VIDEO))


def open_stray_scanner(folder: Path) -> TableRecording:
    """Open a folder of Stray Scanner; row i of the odometry, picture i and depth i are of one frame.

    Raises:
        DataFormatError: no pictures, or a table that cannot be read. CalibrationError: impossible intrinsics or poses.
        VideoError: the video cannot be read. SecurityError: a file lies outside the folder.
    """
    path = folder / ODOMETRY
    columns = _table(path)
    names, color, size, count = _pictures(folder)
    depths = files_by_stem(folder / "depth", root=folder, suffixes=SUFFIXES)
    levels = files_by_stem(folder / "confidence", root=folder, suffixes=(".png",))
    rows = len(columns["x"])
    used = min(rows, count)
    counts = {"poses": rows, "pictures": count}
    entries = [frame_counts(counts, used=used)] if rows != count else []
    numbers = np.arange(used)
    if "frame" in columns and np.isfinite(columns["frame"]).all():
        numbers = columns["frame"][:used].astype(np.int64)
    stems = [names[i] if names else f"{numbers[i]:06d}" for i in range(used)]
    pose = np.stack([columns[key][:used] for key in POSE], 1)
    times, note = clock_or_count(columns.get("timestamp", np.full(rows, np.nan))[:used], fps=FPS)
    frames = PhoneFrames(
        names=stems,
        color=color,
        size=size,
        depths=[depths.get(stem) for stem in stems],
        confidences=[levels.get(stem) for stem in stems],
        Ks=_intrinsics(folder, columns, count=used),
        world_from_cam=rigid_matrices(pose[:, 3:], pose[:, :3], file=path),
        times=times,
    )
    known = (ODOMETRY, MATRIX, VIDEO, *FOLDERS, "depth", "confidence", "distortion")
    entries += [others_in(folder, known), _lens_tables(folder)]
    info = {"source": "Stray Scanner", "times": note}
    K_file = folder / MATRIX if (folder / MATRIX).is_file() else path
    return phone_recording(folder, frames, K_file=K_file, info=info, entries=entries)


def _table(path: Path) -> dict[str, np.ndarray]:
    """Columns [t] by the names of the first line."""
    try:
        lines = [line.split(",") for line in text_lines(path) if line.strip()]
        head = [word.strip().lower() for word in lines[0]] if lines else []
        rows = np.array([[float(word) for word in line] for line in lines[1:]], np.float64)
    except (OSError, ValueError) as error:
        fix = "copy it again"
        raise DataFormatError("is no table of numbers", file=path, found=str(error)[:80], fix=fix) from error
    missing = [name for name in POSE if name not in head]
    if missing or rows.ndim != 2 or rows.shape[1] != len(head):
        found = f"{head}, rows of shape {rows.shape}"
        raise DataFormatError("lacks columns or rows", file=path, field=", ".join(missing) or None, found=found)
    return {name: rows[:, i] for i, name in enumerate(head)}


def _pictures(folder: Path) -> tuple[list[str], Pictures, tuple[int, int], int]:
    """Names (none for a video), pictures, their size (width, height) and number."""
    if regular_file(folder / VIDEO, root=folder):
        facts = video_facts(folder / VIDEO)
        return [], VideoFrames(folder / VIDEO), (facts.width, facts.height), count_frames(folder / VIDEO)
    place = next((folder / name for name in FOLDERS if (folder / name).is_dir()), folder / FOLDERS[0])
    images = files_by_stem(place, root=folder, suffixes=IMAGES)
    if not images:
        raise DataFormatError("holds no pictures", file=folder, expected=[VIDEO, *FOLDERS], fix="copy the whole folder")
    size = image_size(next(iter(images.values())))
    return list(images), ColorFiles(list(images.values()), size=size), size, len(images)


def _intrinsics(folder: Path, columns: dict[str, np.ndarray], *, count: int) -> np.ndarray:
    """K [t 3 3]: of each row where it is there, else the one of the folder."""
    if all(name in columns for name in OWN_K):
        Ks = np.tile(np.eye(3), (count, 1, 1))
        for (row, column), name in zip(((0, 0), (1, 1), (0, 2), (1, 2)), OWN_K, strict=True):
            Ks[:, row, column] = columns[name][:count]
        return Ks
    if not regular_file(folder / MATRIX, root=folder):
        fix = "copy camera_matrix.csv too"
        raise CalibrationError("no intrinsics", file=folder / MATRIX, field="K of camera", fix=fix)
    K = read_numbers(folder / MATRIX, what="3x3")
    if K.shape != (3, 3):
        raise CalibrationError("is no 3x3 matrix", file=folder / MATRIX, field="K of camera", found=K.shape)
    return np.broadcast_to(K, (count, 3, 3))


def _lens_tables(folder: Path) -> LeftOut:
    names = ("distortion",) if (folder / "distortion").is_dir() else ()
    reason = "tables of the lens are not read: pictures stay as they were recorded"
    return LeftOut("lens_tables", "lens", names, reason, "undistort the pictures with them")
