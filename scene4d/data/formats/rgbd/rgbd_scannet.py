"""ScanNet folders as exported by its reader: color/N.jpg, depth/N.png, pose/N.txt, intrinsic/.

Depth is smaller than colour and has its own K; the two cameras stand so close that the data set counts them as one.
Colour is reduced to depth's size, and K is depth's. A pose of -inf means that tracking was lost: the frame is dropped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene4d.data.cameras.calibration import read_numbers
from scene4d.data.files.paths import listed_files, regular_file
from scene4d.data.formats.rgbd.rgbd import (
    IMAGE_SUFFIXES,
    RGBDFiles,
    need_all,
    pose_from,
    rgbd_recording,
    those_there,
)
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.data.video.depth_files import depth_file, depth_size
from scene4d.data.video.images import image_size
from scene4d.errors import CalibrationError, DataFormatError

MAX_SCALE_ERROR = 0.03


def is_scannet(folder: Path) -> bool:
    """Whether a folder holds color/ and pose/."""
    return (folder / "color").is_dir() and (folder / "pose").is_dir()


def open_scannet(folder: Path) -> TableRecording:
    """Open an exported ScanNet scene.

    Raises:
        DataFormatError: no images. DepthError: no depth.
        CalibrationError: no or impossible intrinsics or poses, or K of colour and depth that do not belong together.
    """
    colors, passed = listed_files(folder / "color", root=folder, suffixes=IMAGE_SUFFIXES)
    if not colors:
        raise DataFormatError("holds no images", file=folder / "color", expected="0.jpg, 1.jpg, ...")
    listed = [depth_file(folder / "depth", p.stem) for p in colors]
    poses = [folder / "pose" / f"{p.stem}.txt" for p in colors]
    depths = those_there(listed, folder, fix="export depth images too")
    need_all(poses, folder, error=CalibrationError, what="pose", fix="export the poses too")
    colored, size = image_size(colors[0]), depth_size(next(d for d in depths if d is not None))
    K, K_file = _intrinsics(folder, "depth" if size != colored else "color", "depth")
    if size != colored:
        _check_scale(folder, K, colored=colored, size=size)
    names, matrices = [p.stem for p in colors], np.stack([pose_from(p) for p in poses])
    files = RGBDFiles(
        names=names, colors=colors, depths=depths, world_from_cam=matrices, depth_size=size, passed_over=passed
    )
    return rgbd_recording(folder, files, K=K, K_file=K_file, source="ScanNet")


def _intrinsics(folder: Path, *kinds: str) -> tuple[np.ndarray, Path]:
    """K [3 3] of the first kind of camera that there is a file for."""
    places = [folder / where / f"intrinsic_{kind}.txt" for kind in kinds for where in ("intrinsic", "")]
    for path in places:
        if regular_file(path, root=folder):
            return read_numbers(path, what="4x4")[:3, :3], path
    fix = "export the intrinsics too: a 4x4 matrix with fx 0 cx / 0 fy cy in pixels"
    raise CalibrationError("no intrinsics", file=places[0], field="K of camera", fix=fix)


def _check_scale(folder: Path, K: np.ndarray, *, colored: tuple[int, int], size: tuple[int, int]) -> None:
    """Colour's K, reduced to depth's size, must be depth's K: else one cannot stand in for the other."""
    try:
        color_K, path = _intrinsics(folder, "color")
    except CalibrationError:
        return
    reduced = color_K[:2] * np.array([[size[0] / colored[0]], [size[1] / colored[1]]])
    apart = np.abs(reduced - K[:2])[[0, 1, 0, 1], [0, 1, 2, 2]] / [size[0], size[1], size[0], size[1]]
    if not (apart < MAX_SCALE_ERROR).all():
        problem = "colour and depth do not see the same: depth is not aligned to colour"
        found = np.round(reduced, 1).tolist()
        expected, fix = np.round(K[:2], 1).tolist(), "register depth to the colour camera first"
        raise CalibrationError(problem, file=path, field="K of camera", found=found, expected=expected, fix=fix)
