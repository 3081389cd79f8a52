"""Record3D, exported as EXR + RGB or unpacked: metadata.json (or metadata), rgb/N.jpg, depth/N.exr, confidence.

The metadata hold K (column by column), w, h, poses (x y z w quaternion and position, camera-to-world, OpenGL axes, y
up), fps, frameTimestamps and perFrameIntrinsicCoeffs (fx fy cx cy). Depth is in metres, smaller than colour; confidence
is 0, 1 or 2. The packed .r3d file compresses depth by LZFSE, which is not read here.
Source: what public readers of the format agree on (nerfstudio, viser).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import CV_FROM_GL
from scene4d.data.files.json_files import matrix_of, number_in, read_json
from scene4d.data.formats.phones.phone_frames import (
    IMAGES,
    PhoneFrames,
    clock_or_count,
    files_by_stem,
    others_in,
    phone_recording,
    rigid_matrices,
)
from scene4d.data.timeline.frame_table import TableRecording
from scene4d.data.video.depth_files import SUFFIXES
from scene4d.data.video.images import image_size
from scene4d.data.video.pictures import ColorFiles, same_aspect
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import LeftOut, frame_counts

TABLES = ("metadata.json", "metadata")
FOLDERS = ("rgb", "rgbd", "images")
LEVELS = ("confidence", "conf")
MAX_BYTES = 1 << 26


def is_record3d(folder: Path) -> bool:
    """Whether a folder holds the metadata of Record3D beside a folder of pictures."""
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if not tables or not any((folder / name).is_dir() for name in FOLDERS):
        return False
    with tables[0].open("rb") as file:
        text = file.read(MAX_BYTES)
    return all(key in text for key in (b'"poses"', b'"K"'))  # other programs write metadata.json too


def open_record3d(folder: Path) -> TableRecording:
    """Open an export; pictures, depth and poses go together by the numbers of the frames.

    Raises:
        DataFormatError: no pictures, or metadata of another kind. CalibrationError: impossible intrinsics or poses.
        SecurityError: a file lies outside the folder. EnvError: EXR depth without its library.
    """
    path = next(folder / name for name in TABLES if (folder / name).is_file())
    values = read_json(path, fix="export again", loose_numbers=True)
    poses = matrix_of(values.get("poses"))
    if poses.ndim != 2 or poses.shape[1] != 7:
        found, expected = poses.shape, "7 numbers a frame"
        raise CalibrationError("is no list of poses", file=path, field="poses", found=found, expected=expected)
    place = next(folder / name for name in FOLDERS if (folder / name).is_dir())
    images = files_by_stem(place, root=folder, suffixes=IMAGES)
    if not images:
        raise DataFormatError("holds no pictures", file=place, expected="0.jpg, 1.jpg, ...", fix="export again")
    names = list(images)[: len(poses)]
    used, size = len(names), image_size(images[names[0]])
    counts = {"poses": len(poses), "pictures": len(images)}
    entries = [frame_counts(counts, used=used)] if len(poses) != len(images) else []
    depths = files_by_stem(folder / "depth", root=folder, suffixes=SUFFIXES)
    levels = {}
    for name in LEVELS:
        levels |= files_by_stem(folder / name, root=folder, suffixes=(".png",))
    packed = tuple(sorted(p.name for p in place.glob("*.depth")))
    reason, fix = "LZFSE is not read: these frames have no depth", "export as EXR + RGB"
    entries.append(LeftOut("packed_depth", "depth", packed, reason, fix))
    fps = number_in(values, "fps", file=path, default=30.0)
    if not fps > 0:
        raise DataFormatError("is no rate", file=path, field="fps", found=fps, expected="above 0")
    clock = matrix_of(values.get("frameTimestamps"))
    clock = clock[:used] if clock.ndim == 1 and len(clock) >= used else np.full(used, np.nan)
    times, note = clock_or_count(clock, fps=fps)
    turned = rigid_matrices(poses[:used, :4], poses[:used, 4:], file=path)
    frames = PhoneFrames(
        names=names,
        color=ColorFiles([images[name] for name in names], size=size),
        size=size,
        depths=[depths.get(name) for name in names],
        confidences=[levels.get(name) for name in names],
        Ks=_intrinsics(values, size=size, count=used, path=path),
        world_from_cam=turned * CV_FROM_GL,
        times=times,
    )
    entries.append(others_in(folder, (path.name, place.name, "depth", *LEVELS)))
    info = {"source": "Record3D", "times": note}
    return phone_recording(folder, frames, K_file=path, info=info, entries=entries)


def _intrinsics(values: dict[str, Any], *, size: tuple[int, int], count: int, path: Path) -> np.ndarray:
    """K [t 3 3] for pictures of `size`: of each frame where it is there, else the one of all."""
    width, height = (number_in(values, key, file=path, default=n) for key, n in zip("wh", size, strict=True))
    if not (width > 0 and height > 0 and same_aspect((int(width), int(height)), size)):
        problem, found = "the calibration is for another image size", (width, height)
        raise CalibrationError(problem, file=path, field="w, h", found=found, expected=size)
    scale = np.array([[size[0] / width], [size[1] / height], [1.0]])
    own = matrix_of(values.get("perFrameIntrinsicCoeffs"))
    if own.ndim == 2 and own.shape[1] == 4 and len(own) >= count:
        Ks = np.tile(np.eye(3), (count, 1, 1))
        Ks[:, [0, 1, 0, 1], [0, 1, 2, 2]] = own[:count]
        return Ks * scale
    K = matrix_of(values.get("K"))
    if K.shape not in ((9,), (3, 3)):
        raise CalibrationError("is no 3x3 matrix", file=path, field="K", found=K.shape, expected=9)
    K = K.reshape(3, 3).T if K.ndim == 1 else K
    return np.broadcast_to(K * scale, (count, 3, 3))
