"""Cameras that a stored MuJoCo model (MJCF) fixes to the world: OpenGL axes, a vertical field of view, depth planes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from scipy.spatial.transform import Rotation

from scene4d.data.cameras.calibration import CV_FROM_GL, inverse_poses
from scene4d.errors import CalibrationError, SecurityError

MAX_BYTES = 1 << 24
DEFAULTS = {"fovy": 45.0, "znear": 0.01, "zfar": 50.0}


@dataclass(frozen=True)
class ModelCamera:
    """A camera of a model."""

    viewmat: np.ndarray  # [4 4] camera-from-world, OpenCV
    fov_y: float  # rad

    def intrinsics(self, *, width: int, height: int) -> np.ndarray:
        """K [3 3] px: square pixels, centred."""
        focal = 0.5 * height / math.tan(0.5 * self.fov_y)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def fixed_cameras(text: Any, *, file: Path) -> tuple[dict[str, ModelCamera], tuple[float, float] | None]:
    """The world's cameras of a model by name, and its near and far plane in m where it states its extent.

    Cameras that are fixed to a body are left out: where they are depends on the robot's state.

    Raises:
        CalibrationError: no XML, or numbers that are none. SecurityError: it defines entities.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str) or len(text) > MAX_BYTES:
        return {}, None
    if "<!ENTITY" in text:
        raise SecurityError("the stored model defines entities; it was not read", file=file, field="model_file")
    try:
        model = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise CalibrationError("the stored model is no XML", file=file, field="model_file", found=str(error)) from error
    cameras = {}
    for camera in model.findall("worldbody/camera"):
        if camera.get("mode", "fixed") == "fixed":
            cameras[camera.get("name", "")] = _camera(camera.attrib, file=file)
    planes, extent = model.find("visual/map"), model.find("statistic")
    size = None if extent is None or not extent.get("extent") else extent.get("extent")
    if size is None:
        return cameras, None
    attributes = {} if planes is None else planes.attrib
    near, far = (_numbers(attributes, key, count=1, file=file)[0] for key in ("znear", "zfar"))
    size = _numbers({"extent": size}, "extent", count=1, file=file)[0]
    if not 0 < near * size < far * size:
        raise CalibrationError("near and far are no range", file=file, field="model_file", found=(near, far, size))
    return cameras, (near * size, far * size)


def _camera(attributes: Mapping[str, str], *, file: Path) -> ModelCamera:
    position = _numbers(attributes, "pos", count=3, file=file, default=(0, 0, 0))
    quat = _numbers(attributes, "quat", count=4, file=file, default=(1, 0, 0, 0))
    fov_deg = _numbers(attributes, "fovy", count=1, file=file)[0]
    if not np.linalg.norm(quat) > 1e-6 or not 0 < fov_deg < 180:
        where = {"file": file, "field": f"camera {attributes.get('name')}"}
        raise CalibrationError("is no camera", **where, found=f"quat {quat.tolist()}, fovy {fov_deg}")
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = Rotation.from_quat(quat[[1, 2, 3, 0]]).as_matrix()
    world_from_cam[:3, 3] = position
    return ModelCamera(viewmat=inverse_poses(world_from_cam * CV_FROM_GL), fov_y=math.radians(fov_deg))


def _numbers(
    attributes: Mapping[str, str], key: str, *, count: int, file: Path, default: tuple[float, ...] | None = None
) -> np.ndarray:
    if key not in attributes:
        return np.array((DEFAULTS[key],) if default is None else default, np.float64)
    try:
        values = np.array(attributes[key].split(), np.float64)
    except ValueError:
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        where = {"file": file, "field": f"model_file {attributes.get('name', '')} {key}"}
        raise CalibrationError("is no number, or not so many", **where, found=attributes[key], expected=count)
    return values
