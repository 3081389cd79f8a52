"""The LeRobot v3.0 folder: paths, meta/info.json, and meta/cameras.json, which the format itself has no place for."""

from __future__ import annotations

import json
import math
import os
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.calibration import checked_intrinsics, checked_poses
from scene4d.data.depth_codec import DEPTH_UNIT
from scene4d.errors import CalibrationError, DataFormatError, SecurityError, VersionError

VERSION = "v3.0"
INFO, CAMERAS, STATS = "meta/info.json", "meta/cameras.json", "meta/stats.json"
TASKS, EPISODES = "meta/tasks.parquet", "meta/episodes"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CONVENTIONS = (
    "OpenCV axes (x right, y down, z forward); viewmat is camera-from-world, row by row, in metres; "
    "K in pixels with pixel centres at +0.5; depth is z-depth, depth_unit metres a step, 0 = not measured; "
    "segment ids are stored plus one, 0 = nothing there"
)
_TEMPLATE_FIELDS = {"chunk_index", "file_index", "video_key"}
_TEMPLATE = (
    '{"cameras": {"NAME": {"width": W, "height": H, "K": 3x3, "viewmat": 4x4 camera-from-world, "rgb": "FEATURE"}}}'
)


@dataclass(frozen=True)
class CameraEntry:
    """What meta/cameras.json says of one camera.

    viewmat is None when the camera moves: feature `viewmats` then holds [4 4] a frame; rgb, depth, segments are
    features too.
    """

    width: int
    height: int
    K: np.ndarray
    viewmat: np.ndarray | None
    viewmats: str | None
    rgb: str
    depth: str | None = None
    depth_unit: float = DEPTH_UNIT
    segments: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the fields that are not there."""
        values = {"width": self.width, "height": self.height, "K": self.K.tolist(), "rgb": self.rgb}
        values |= {"viewmats": self.viewmats} if self.viewmat is None else {"viewmat": self.viewmat.tolist()}
        values |= {"depth": self.depth, "depth_unit": self.depth_unit} if self.depth else {}
        return values | ({"segments": self.segments} if self.segments else {})


def read_json(path: Path, *, fix: str) -> dict[str, Any]:
    """A JSON object; NaN and Infinity are refused, as the standard wants.

    Raises:
        DataFormatError: missing, not JSON (with line and column), or not an object.
    """

    def refuse(word: str) -> None:
        raise DataFormatError("holds a number that JSON does not have", file=path, found=word)

    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError as error:
        raise DataFormatError("is missing", file=path, fix=fix) from error
    except json.JSONDecodeError as error:
        raise DataFormatError(
            "is not JSON", file=path, found=f"{error.msg} at line {error.lineno} column {error.colno}", fix=fix
        ) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataFormatError("cannot be read", file=path, found=error, fix=fix) from error
    if not isinstance(value, dict):
        raise DataFormatError("is not a JSON object", file=path, found=type(value).__name__)
    return value


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json of a v3 data set, checked.

    Raises:
        DataFormatError: missing, not JSON, or with an impossible field.
        VersionError: another version of the format.
    """
    path = root / INFO
    info = read_json(path, fix=f"is {root} the folder that holds meta/, data/ and videos/?")
    version = str(info.get("codebase_version"))
    if not version.startswith("v3."):
        fix = "convert it: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 (v2.0 needs v2.1 first)"
        raise VersionError(
            "is of a version that cannot be read",
            file=path,
            field="codebase_version",
            found=version,
            expected="v3.x",
            fix=fix,
        )
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not (math.isfinite(fps) and fps > 0):
        raise DataFormatError("is no frame rate", file=path, field="fps", found=fps, expected="> 0")
    for key, kind in (("features", dict), ("data_path", str), ("total_episodes", int), ("total_frames", int)):
        if not isinstance(info.get(key), kind):
            raise DataFormatError(
                "is missing or of the wrong type", file=path, field=key, found=info.get(key), expected=kind.__name__
            )
    bad = [
        name
        for name, feature in info["features"].items()
        if not isinstance(feature, dict) or not isinstance(feature.get("shape"), list | tuple)
    ]
    if bad:
        raise DataFormatError("has no shape", file=path, field=f"features.{bad[0]}", expected="a dtype and a shape")
    return info


def file_path(root: Path, template: str, **values: Any) -> Path:
    """The file a path template names, which must lie inside `root`.

    Raises:
        SecurityError: the template or a link leads out of `root`, or asks for more than chunk, file and video names.
        DataFormatError: the template cannot be filled.
    """
    try:
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise DataFormatError("is no path template", file=root / INFO, found=template) from error
    if any(name not in _TEMPLATE_FIELDS or len(spec or "") > 4 for name, spec in fields):
        raise SecurityError(
            "a path template asks for something else",
            file=root / INFO,
            found=template,
            expected=sorted(_TEMPLATE_FIELDS),
        )
    try:
        relative = template.format(**values)
    except (KeyError, ValueError) as error:
        raise DataFormatError("a path template cannot be filled", file=root / INFO, found=template) from error
    path = root / relative
    inside = root.resolve()
    if os.path.isabs(relative) or ".." in Path(relative).parts or not path.resolve().is_relative_to(inside):
        raise SecurityError(
            "a path leads out of the data set; it was not opened",
            file=root / INFO,
            found=relative,
            expected=f"inside {root}",
        )
    return path


def read_cameras(root: Path, info: Mapping[str, Any]) -> dict[str, CameraEntry]:
    """meta/cameras.json by camera name, checked against the features of info.json.

    Raises:
        CalibrationError: missing, or an entry is impossible; says how to supply one.
    """
    path = root / CAMERAS
    videos = [name for name, feature in info["features"].items() if feature.get("dtype") in ("video", "image")]
    if not path.is_file():
        fix = f"write {path} with {_TEMPLATE}; features of this data set: {', '.join(videos) or 'none'}"
        raise CalibrationError("there is no calibration: the LeRobot format has no place for it", file=path, fix=fix)
    entries = read_json(path, fix=f"write it as {_TEMPLATE}").get("cameras")
    if not isinstance(entries, dict) or not entries:
        raise CalibrationError("names no camera", file=path, field="cameras", fix=f"write it as {_TEMPLATE}")
    return {name: _camera_entry(name, entry, info=info, path=path) for name, entry in entries.items()}


def _camera_entry(name: str, entry: Any, *, info: Mapping[str, Any], path: Path) -> CameraEntry:
    field = f"cameras.{name}"
    if not isinstance(entry, dict):
        raise CalibrationError("is no camera", file=path, field=field, fix=f"write it as {_TEMPLATE}")
    features = info["features"]
    for key in ("rgb", "depth", "segments", "viewmats"):
        feature = entry.get(key)
        if (feature is None and key == "rgb") or (feature is not None and feature not in features):
            where = {"file": path, "field": f"{field}.{key}"}
            raise CalibrationError("names no feature of info.json", **where, found=feature, expected=list(features))
    width, height, shape = entry.get("width"), entry.get("height"), features[entry["rgb"]]["shape"]
    if not isinstance(width, int) or not isinstance(height, int) or not {width, height} <= set(shape):
        problem, fix = "the calibration is for another image size", "scale K, width and height to the images"
        raise CalibrationError(problem, file=path, field=field, found=(width, height), expected=shape, fix=fix)
    K = checked_intrinsics(_matrix(entry.get("K")), width=width, height=height, file=path, camera=name)
    viewmat = None
    if entry.get("viewmats") is None:
        viewmat = _matrix(entry.get("viewmat"))
        if viewmat.shape != (4, 4):
            fix = "give the camera-from-world matrix, or name the feature that holds one a frame as viewmats"
            raise CalibrationError(
                "has no pose", file=path, field=f"{field}.viewmat", found=entry.get("viewmat"), fix=fix
            )
        checked_poses(viewmat[None], names=[name], file=path)
    unit = entry.get("depth_unit", DEPTH_UNIT)
    if not isinstance(unit, int | float) or not 0 < unit < 1:
        where = {"file": path, "field": f"{field}.depth_unit"}
        raise CalibrationError("is no depth unit", **where, found=unit, expected="metres a step, such as 0.001")
    return CameraEntry(
        width=width,
        height=height,
        K=K,
        viewmat=viewmat,
        viewmats=entry.get("viewmats"),
        rgb=entry["rgb"],
        depth=entry.get("depth"),
        depth_unit=float(unit),
        segments=entry.get("segments"),
    )


def _matrix(value: Any) -> np.ndarray:
    """The numbers as an array, empty where they are none: the checks that follow name what is wrong."""
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError):
        return np.empty(0)
