"""What transforms.json says of cameras: K and lens of a frame, and which of its entries nobody reads.

Terms of a lens that is not ours are refused by name: a picture undistorted by half of its terms is wrong everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics
from scene4d.data.cameras.lens import Lens, checked_lens, lens_from_names
from scene4d.data.files.json_files import number_in
from scene4d.errors import CalibrationError
from scene4d.ledger import LeftOut

PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "PERSPECTIVE")
FISHEYES = ("OPENCV_FISHEYE", "FISHEYE")
RATIONAL = "FULL_OPENCV"
K_KEYS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "camera_model", "is_fisheye")
TERMS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
CAMERA_KEYS = (*K_KEYS, *TERMS)
# Terms of other lenses: k7, thin prism s1.., tilt, affinity b1.., and lists of coefficients under any name.
DISTORTION = re.compile(r"[kps]\d+|b[12]|tau_?[xy]?|sk|skew|dist|\w*distort\w*|\w*coef\w*", re.I)
# Words of what bears on where a ray goes: an entry of such a name that nobody reads leaves the recording in doubt.
CAMERA_WORDS = re.compile(r"shutter|focal|fov|lens|intrin|extrin|aspect|pixel|baseline", re.I)
FILE_KEYS = ("frames", "integer_depth_scale")
FRAME_KEYS = ("file_path", "transform_matrix", "depth_file_path", "depth_path", "mask_path", "time")


def frame_camera(
    values: Mapping[str, Any], *, size: tuple[int, int], path: Path, name: str
) -> tuple[np.ndarray, Lens | None]:
    """K [3 3] px and lens of one frame's entries over the file's, for pictures of `size` (width, height).

    Raises:
        CalibrationError: no or impossible intrinsics, an unknown lens or terms of one, or another image size.
        DataFormatError: what should be a number is none.
    """
    width = number_in(values, "w", file=path, default=size[0])
    height = number_in(values, "h", file=path, default=size[1])
    if not (width > 0 and height > 0) or abs(width / height * size[1] / size[0] - 1) > 0.01:
        problem = "the calibration is for another image size"
        found, fix = (width, height), "scale K, w and h to the images"
        raise CalibrationError(problem, file=path, field="w, h", frame=name, found=found, expected=size, fix=fix)
    if "fl_x" in values:
        fx = number_in(values, "fl_x", file=path)
        fy = number_in(values, "fl_y", file=path, default=fx)
    elif "camera_angle_x" in values:
        fx = 0.5 * width / math.tan(0.5 * number_in(values, "camera_angle_x", file=path))
        angle_y = values.get("camera_angle_y")
        fy = fx if angle_y is None else 0.5 * height / math.tan(0.5 * number_in(values, "camera_angle_y", file=path))
    else:
        fix = "give fl_x, fl_y, cx, cy in pixels, or camera_angle_x in radians"
        raise CalibrationError("no intrinsics", file=path, field="fl_x", frame=name, fix=fix)
    cx = number_in(values, "cx", file=path, default=0.5 * width)
    cy = number_in(values, "cy", file=path, default=0.5 * height)
    # Downscaled copies of a capture keep the file of the original: the aspect tells that they are the same pictures.
    scale_x, scale_y = size[0] / width, size[1] / height
    K = np.array([[fx * scale_x, 0, cx * scale_x], [0, fy * scale_y, cy * scale_y], [0, 0, 1]])
    K = checked_intrinsics(K, width=size[0], height=size[1], file=path, camera=name)
    return K, checked_lens(_lens(values, path=path, name=name), K, size=size, file=path, camera=name)


def _lens(values: Mapping[str, Any], *, path: Path, name: str) -> Lens | None:
    model = str(values.get("camera_model", "OPENCV")).upper()
    fisheye = bool(values.get("is_fisheye")) or model in FISHEYES
    if not fisheye and model not in PINHOLES:
        known = [*PINHOLES, *FISHEYES]
        problem = "is no known lens"
        raise CalibrationError(problem, file=path, field="camera_model", frame=name, found=model, expected=known)
    terms = {key: number_in(values, key, file=path, default=0.0) for key in TERMS}
    rational = model == RATIONAL or terms["k5"] != 0 or terms["k6"] != 0
    used = ("k1", "k2", "k3", "k4") if fisheye else TERMS if rational else ("k1", "k2", "p1", "p2", "k3")
    foreign = {key: value for key, value in values.items() if DISTORTION.fullmatch(key) and key not in TERMS}
    foreign |= {key: value for key, value in terms.items() if key not in used}
    for key, value in foreign.items():
        if _bends(value):
            problem = f"is no term of the lens {'OPENCV_FISHEYE' if fisheye else RATIONAL if rational else 'OPENCV'}"
            fix = "give the terms of OpenCV's models (FULL_OPENCV for k4 to k6), or undistort the images"
            where = {"file": path, "field": key, "frame": name}
            raise CalibrationError(problem, **where, found=value, expected=list(used), fix=fix)
    return lens_from_names({key: terms[key] for key in used}, fisheye=fisheye)


def _bends(value: Any) -> bool:
    """Whether an entry holds a number other than 0, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_bends, value))
    return isinstance(value, int | float) and not isinstance(value, bool) and value != 0


def unread_keys(table: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> tuple[LeftOut, LeftOut]:
    """Entries that nobody reads: those that bear on cameras, and the others."""
    known = {*CAMERA_KEYS, *FILE_KEYS, *FRAME_KEYS}
    names = {*table, *(key for frame in frames for key in frame)} - known
    doubtful = sorted(name for name in names if CAMERA_WORDS.search(name))
    others = sorted(names - set(doubtful))
    return (
        LeftOut(
            "unknown_camera_keys", "camera", tuple(doubtful), "not known: they are not used", "see what wrote them"
        ),
        LeftOut("unused_keys", "keys", tuple(others), "not read", lost=False),
    )
