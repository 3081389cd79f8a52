"""Raw data of Polycam: keyframes/ with images, depth, confidence and a camera JSON a frame.

Poses are camera-to-world with OpenGL axes in a world whose y is up, t_ij row by row. The corrected images are without
distortion and come with corrected cameras: they are preferred. Depth is 16-bit in millimetres, smaller than colour;
confidence is 0 (low), 54 or 127 (medium), 255 (high). Names are clock readings in microseconds.
Source: the format's page, github.com/PolyCam/polyform.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import CV_FROM_GL
from scene4d.data.files.json_files import number_in, read_json
from scene4d.data.files.paths import natural_order
from scene4d.data.formats.phones.phone_frames import (
    IMAGES,
    PhoneFrames,
    clock_or_count,
    files_by_stem,
    others_in,
    phone_recording,
)
from scene4d.data.timeline.frame_table import NOMINAL_FPS, TableRecording
from scene4d.data.video.depth_files import SUFFIXES
from scene4d.data.video.images import image_size
from scene4d.data.video.pictures import ColorFiles, same_aspect
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import LeftOut, missing_images

FOLDER = "keyframes"
PAIRS = (("corrected_cameras", "corrected_images"), ("cameras", "images"))
ENTRIES = tuple(f"t_{row}{column}" for row in range(3) for column in range(4))
MAX_SECONDS_APART = 60.0


def is_polycam(folder: Path) -> bool:
    """Whether a folder holds keyframes/ with cameras and images, or is that folder."""
    return _keyframes(folder) is not None


def open_polycam(folder: Path) -> TableRecording:
    """Open an export of raw data.

    Raises:
        DataFormatError: no frame has both a camera and an image, or a camera cannot be read.
        CalibrationError: impossible intrinsics or poses. SecurityError: a file lies outside the folder.
    """
    place = _keyframes(folder)
    if place is None:
        raise DataFormatError("holds no keyframes", file=folder, expected="keyframes/images, keyframes/cameras")
    cameras_in, images_in = next(p for p in PAIRS if all((place / name).is_dir() for name in p))
    cameras = files_by_stem(place / cameras_in, root=folder, suffixes=(".json",))
    images = files_by_stem(place / images_in, root=folder, suffixes=IMAGES)
    names = [name for name in images if name in cameras]
    if not names:
        found = f"{len(cameras)} cameras, {len(images)} images"
        raise DataFormatError("no image has a camera", file=place, field="cameras", found=found)
    size = image_size(images[names[0]])
    calibrated = [_camera(cameras[name], size=size) for name in names]
    depths = files_by_stem(place / "depth", root=folder, suffixes=SUFFIXES)
    levels = files_by_stem(place / "confidence", root=folder, suffixes=(".png",))
    clock = [int(n) * 1e-6 if n.isascii() and n.isdigit() and len(n) < 20 else np.nan for n in names]
    times, note = clock_or_count(np.array(clock), fps=NOMINAL_FPS)
    if np.diff(times).size and (np.diff(times).max() > MAX_SECONDS_APART or np.median(np.diff(times)) < 5e-3):
        times, note = clock_or_count(np.full(len(names), np.nan), fps=NOMINAL_FPS)  # names that are no clock
    frames = PhoneFrames(
        names=names,
        color=ColorFiles([images[name] for name in names], size=size),
        size=size,
        depths=[depths.get(name) for name in names],
        confidences=[levels.get(name) for name in names],
        Ks=np.stack([K for K, _ in calibrated]),
        world_from_cam=np.stack([pose for _, pose in calibrated]),
        times=times,
    )
    alone = tuple(sorted((n for n in images if n not in cameras), key=natural_order))
    uncalibrated = LeftOut("no_calibration", "images", alone, "no camera of this name", "export again")
    entries = [missing_images([n for n in cameras if n not in images]), uncalibrated]
    entries.append(others_in(place, (cameras_in, images_in, "depth", "confidence")))
    info = {"source": "Polycam", "times": note, "images": images_in}
    return phone_recording(folder, frames, K_file=place / cameras_in, info=info, entries=entries)


def _keyframes(folder: Path) -> Path | None:
    for place in (folder / FOLDER, folder):
        if any(all((place / name).is_dir() for name in pair) for pair in PAIRS):
            return place
    return None


def _camera(path: Path, *, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """K for images of `size` and world-from-camera, OpenCV axes; not finite where tracking was lost."""
    values = read_json(path, fix="export again", loose_numbers=True)
    fx, fy, cx, cy = (number_in(values, key, file=path) for key in ("fx", "fy", "cx", "cy"))
    width = number_in(values, "width", file=path, default=size[0])
    height = number_in(values, "height", file=path, default=size[1])
    if not (width > 0 and height > 0 and same_aspect((int(width), int(height)), size)):
        problem, found = "the calibration is for another image size", (width, height)
        raise CalibrationError(problem, file=path, field="width, height", found=found, expected=size)
    scale = np.array([[size[0] / width], [size[1] / height], [1.0]])
    pose = np.eye(4)
    pose[:3] = np.array([_entry(values, key, path=path) for key in ENTRIES]).reshape(3, 4)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) * scale, pose * CV_FROM_GL


def _entry(values: dict[str, Any], key: str, *, path: Path) -> float:
    """A number of a pose, which may be NaN where tracking was lost."""
    value = values.get(key)
    return value if isinstance(value, float) else number_in(values, key, file=path)
