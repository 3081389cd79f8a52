"""Replica renderings as SLAM benchmarks have them: results/frameN.jpg, results/depthN.png, traj.txt, cam_params.json.

Depth is 16-bit PNG at 6553.5 steps a metre (or as in cam_params.json). Poses are camera-to-world, OpenCV axes. K
counts pixels by their index, so half a pixel is added.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene4d.data.cameras.calibration import PIXEL_CENTRE, read_numbers
from scene4d.data.files.json_files import number_in, read_json
from scene4d.data.files.paths import listed_files, regular_file
from scene4d.data.formats.rgbd.rgbd import RGBDFiles, need_all, rgbd_recording, those_there
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.data.video.depth_files import depth_file
from scene4d.data.video.images import image_size
from scene4d.errors import CalibrationError, DataFormatError, DepthError

STEPS_PER_METRE = 6553.5
KNOWN = {(1200, 680): (600.0, 600.0, 599.5, 339.5)}  # fx fy cx cy of every published rendering of this size


def is_replica(folder: Path) -> bool:
    """Whether a folder holds results/ with frameN images."""
    return (folder / "results").is_dir() and any((folder / "results").glob("frame*.[jp][pn]g"))


def open_replica(folder: Path) -> TableRecording:
    """Open a Replica sequence.

    Raises:
        DataFormatError: no images, or a table that cannot be read. DepthError: no depth.
        CalibrationError: no traj.txt, or of another length; no cam_params.json and an unknown size.
    """
    results = folder / "results"
    listed, passed = listed_files(results, root=folder, suffixes=(".jpg", ".png"))
    colors = [p for p in listed if p.name.startswith("frame")]
    numbers = [p.stem.removeprefix("frame") for p in colors]
    need_all(colors, folder, error=DataFormatError, what="image", fix="copy results/ again")
    depths = those_there([depth_file(results, f"depth{n}") for n in numbers], folder, fix="copy results/ again")
    trajectory = folder / "traj.txt"
    if not regular_file(trajectory, root=folder):
        fix = "one camera-to-world matrix a line (16 numbers)"
        raise CalibrationError("no poses", file=trajectory, field="pose", fix=fix)
    rows = read_numbers(trajectory, what="16 numbers a line")
    if rows.shape != (len(colors), 16):
        problem = "images and poses differ in number"
        found, fix = rows.shape, "give one pose an image"
        raise CalibrationError(problem, file=trajectory, field="pose", found=found, expected=(len(colors), 16), fix=fix)
    K, unit, file = _camera(folder, size=image_size(colors[0]))
    poses = rows.reshape(-1, 4, 4)
    passed = [name for name in passed if name.startswith("frame")]
    files = RGBDFiles(names=numbers, colors=colors, depths=depths, world_from_cam=poses, unit=unit, passed_over=passed)
    return rgbd_recording(folder, files, K=K, K_file=file, source="Replica")


def _camera(folder: Path, *, size: tuple[int, int]) -> tuple[np.ndarray, float, Path]:
    """K, metres a step of depth, and where they come from."""
    for path in (folder / "cam_params.json", folder.parent / "cam_params.json"):
        if path.is_file():
            camera = read_json(path, fix='write {"camera": {"w", "h", "fx", "fy", "cx", "cy", "scale"}}').get("camera")
            fx, fy, cx, cy, scale = (number_in(camera, key, file=path) for key in ("fx", "fy", "cx", "cy", "scale"))
            if not scale > 0:
                raise DepthError("is no depth scale", file=path, field="scale", found=scale, expected="steps a metre")
            return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) + PIXEL_CENTRE, 1 / scale, path
    if size not in KNOWN:
        fix = 'write {"camera": {"w": .., "h": .., "fx": .., "fy": .., "cx": .., "cy": .., "scale": 6553.5}}'
        raise CalibrationError("no intrinsics", file=folder / "cam_params.json", field="K of camera", fix=fix)
    fx, fy, cx, cy = KNOWN[size]
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) + PIXEL_CENTRE, 1 / STEPS_PER_METRE, folder
