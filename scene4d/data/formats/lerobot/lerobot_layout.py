"""The LeRobot folder, v2.0 to v3.0: meta/info.json, path templates, sizes of images, and what nothing reads."""

from __future__ import annotations

import math
import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from scene4d.data.cameras.sidecar import CameraEntry
from scene4d.data.files.json_files import read_json
from scene4d.data.files.paths import inside_folder
from scene4d.data.formats.lerobot.lerobot_features import INDEX_COLUMNS, MILLIMETRE
from scene4d.errors import DataFormatError, SecurityError, VersionError
from scene4d.ledger import LeftOut

VERSION = "v3.0"
SUPPORTED = ("v2.0", "v2.1", "v3.0")
INFO, CAMERAS, STATS = "meta/info.json", "meta/cameras.json", "meta/stats.json"
TASKS, EPISODES = "meta/tasks.parquet", "meta/episodes"
EPISODE_TABLE = EPISODES + "/chunk-000/file-000.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_META = ("info.json", "cameras.json", "stats.json", "tasks.", "episodes", "episodes.", "episodes_stats.")
_TEMPLATE_FIELDS = {"chunk_index", "file_index", "video_key", "episode_chunk", "episode_index"}


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json of a data set, checked.

    Raises:
        DataFormatError: missing, not JSON, or with an impossible field.
        VersionError: another version of the format.
    """
    path = root / INFO
    info = read_json(path, fix=f"is {root} the folder that holds meta/, data/ and videos/?")
    version = str(info.get("codebase_version"))
    if not version.startswith(("v2.0", "v2.1", "v3.")):
        older = version.startswith("v1")
        fix = "convert it: python -m lerobot.datasets.v2.convert_dataset_v1_to_v2" if older else "update scene4d"
        problem, expected = "is of a version that cannot be read", ", ".join(SUPPORTED)
        raise VersionError(problem, file=path, field="codebase_version", found=version, expected=expected, fix=fix)
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not (math.isfinite(fps) and fps > 0):
        raise DataFormatError("is no frame rate", file=path, field="fps", found=fps, expected="> 0")
    for key, kind in (("features", dict), ("data_path", str), ("total_episodes", int), ("total_frames", int)):
        if not isinstance(info.get(key), kind):
            problem = "is missing or of the wrong type"
            raise DataFormatError(problem, file=path, field=key, found=info.get(key), expected=kind.__name__)
    for name, feature in info["features"].items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            where = {"file": path, "field": f"features.{name}"}
            raise DataFormatError("has no shape", **where, found=shape, expected="a dtype and a shape")
    return info


def image_sizes(info: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(width, height) px of each feature that holds colour images."""
    sizes = {}
    for name, feature in info["features"].items():
        shape, names = list(feature["shape"]), feature.get("names")
        if feature.get("dtype") not in ("video", "image") or len(shape) != 3 or is_depth_map(feature):
            continue
        names = [str(n) for n in names] if isinstance(names, list) else []
        first = names.index("height") if "height" in names else (1 if shape[0] in (1, 3, 4) else 0)
        second = names.index("width") if "width" in names else first + 1
        if second < 3 and shape[3 - first - second] != 1:
            sizes[name] = (shape[second], shape[first])
    return sizes


def video_entry(feature: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of info.json for a feature's video, without the prefix that some versions write."""
    entry: dict[str, Any] = {}
    for key in ("video_info", "info"):
        values = feature.get(key)
        entry |= {str(k).removeprefix("video."): v for k, v in values.items()} if isinstance(values, dict) else {}
    return entry


def is_depth_map(feature: Mapping[str, Any]) -> bool:
    """Whether a feature is marked as depth."""
    return video_entry(feature).get("is_depth_map") is True


def depth_unit(feature: Mapping[str, Any], *, default: float) -> float:
    """Metres a step of depth pictures, where the feature tells its unit ("m" or "mm"), as lerobot writes it."""
    return {"m": 1.0, "mm": MILLIMETRE}.get(str(video_entry(feature).get("depth_unit")), default)


def unused_parts(
    root: Path, features: Mapping[str, Any], *, cameras: Mapping[str, CameraEntry], read: Collection[str]
) -> list[LeftOut]:
    """Features that no camera names and no column is made of (`read` are those of which one is), and files of meta/."""
    named = {n for c in cameras.values() for n in (c.rgb, c.depth, c.segments, c.viewmats, c.Ks) if n}
    rest = [n for n in features if n not in {*read, *named, *INDEX_COLUMNS, "timestamp", "next.done"}]
    pictures = [n for n in rest if features[n].get("dtype") in ("video", "image")]
    depth = tuple(n for n in pictures if is_depth_map(features[n]) or "depth" in n)
    odd = tuple(n for n in pictures if n not in depth)
    actions = tuple(n for n in rest if n.startswith("action") and "action" not in features)
    states = tuple(n for n in rest if n.startswith("observation.state") and "observation.state" not in features)
    columns = tuple(n for n in rest if n not in {*pictures, *actions, *states})
    files = sorted(p.name for p in (root / "meta").iterdir() if not p.name.startswith((*_META, ".")))
    name_it = "name it as depth of a camera in cameras.json, if it is registered to its colour"
    one = "write them as one column"
    return [
        LeftOut("depth_without_camera", "depth", depth, "no camera in cameras.json has this depth", name_it),
        LeftOut("unknown_pictures", "images", odd, "pictures without height, width and colours: left out"),
        LeftOut("columns", "actions", actions, "there is no feature action: these are not read", f"{one} action"),
        LeftOut("columns", "proprio", states, "there is no observation.state", f"{one} observation.state"),
        LeftOut("columns", "columns", columns, "neither state, action, reward nor picture: not read", lost=False),
        LeftOut("files", "meta", tuple(files), "not read", lost=False),
    ]


def file_path(root: Path, info: Mapping[str, Any], *, field: str, **values: Any) -> Path:
    """The file that a path template of info.json ("data_path", "video_path") names, which must lie inside `root`.

    Raises:
        SecurityError: the template or a link leads out of `root`, names a protocol, or asks for more than chunk, file
            and video names. DataFormatError: there is no template, or it cannot be filled.
    """
    template, where = info.get(field), {"file": root / INFO, "field": field}
    if not isinstance(template, str):
        raise DataFormatError("is missing", **where, found=template)
    try:
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise DataFormatError("is no path template", **where, found=template) from error
    if any(name not in _TEMPLATE_FIELDS or len(spec or "") > 4 for name, spec in fields):
        problem = "a path template asks for something else"
        raise SecurityError(problem, **where, found=template, expected=sorted(_TEMPLATE_FIELDS))
    try:
        relative = template.format(**values)
    except (KeyError, ValueError) as error:
        raise DataFormatError("a path template cannot be filled", **where, found=template) from error
    return inside_folder(root, relative, **where)
