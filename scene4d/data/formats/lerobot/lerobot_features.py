"""How a LeRobot v3.0 data set describes its columns, and columns as it stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from scene4d.data.cameras.sidecar import CameraEntry
from scene4d.data.video.depth_codec import LogDepth
from scene4d.errors import DataFormatError
from scene4d.types import Cameras, Episode

SEGMENT_STEP = 16  # the rows of observation.segment_poses are padded to a multiple of this: episodes share one shape
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MILLIMETRE = 1e-3
INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index")


def features_of(
    episode: Episode, *, cameras: Mapping[str, CameraEntry], fps: float, depth_video: LogDepth | None = None
) -> dict[str, dict[str, Any]]:
    """The "features" of info.json for episodes like this one, whose pictures are those of `cameras`.

    Depth is marked as such for lerobot where it is a video, or PNG in whole millimetres: it knows no finer unit.
    """

    def names(key: str, count: int) -> list[str]:
        spec = episode.info.get(key) or []
        return [str(row.get("name", i)) for i, row in enumerate(spec if len(spec) == count else [{}] * count)]

    proprio, actions = episode.proprio.shape[-1], episode.actions.shape[-1]
    features: dict[str, dict[str, Any]] = {
        "observation.state": {"dtype": "float32", "shape": [proprio], "names": names("proprio_spec", proprio)},
        "action": {"dtype": "float32", "shape": [actions], "names": names("action_spec", actions)},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    }
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in INDEX_COLUMNS}
    # A recording without a robot has neither; a feature of no columns would be none.
    features = {name: feature for name, feature in features.items() if feature["shape"] != [0]}
    if episode.rewards is not None:
        features["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    if episode.success is not None:
        features["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    features["next.done"] = {"dtype": "bool", "shape": [1], "names": None}
    if episode.segment_poses is not None:
        rows = -(-episode.segment_poses.shape[-2] // SEGMENT_STEP) * SEGMENT_STEP
        axes = ["segment", "qw qx qy qz x y z"]
        features["observation.segment_poses"] = {"dtype": "float32", "shape": [rows, 7], "names": axes}
    for camera in cameras.values():
        size, axes = [camera.height, camera.width], ["height", "width", "channels"]
        video = {"video.height": size[0], "video.width": size[1], "video.channels": 3, "video.fps": fps}
        video |= {"video.codec": "h264", "video.pix_fmt": "yuv444p", "video.is_depth_map": False, "has_audio": False}
        features[camera.rgb] = {"dtype": "video", "shape": [*size, 3], "names": axes, "info": video}
        for name in (camera.depth, camera.segments):
            if name is not None:
                features[name] = {"dtype": "image", "shape": [*size, 1], "names": axes}
        if camera.depth is not None and depth_video is not None:
            stored = {"video.channels": 1, "video.codec": "hevc", "video.pix_fmt": "gray12le", "depth_unit": "m"}
            marked = {k: v for k, v in video.items() if k != "video.is_depth_map"} | stored | depth_video.entry()
            features[camera.depth] |= {"dtype": "video", "info": {**marked, "is_depth_map": True}}
        elif camera.depth is not None and camera.depth_unit == MILLIMETRE:
            features[camera.depth]["info"] = {"is_depth_map": True, "depth_unit": "mm"}
        if camera.viewmats:
            features[camera.viewmats] = {"dtype": "float32", "shape": [4, 4], "names": ["row", "column"]}
        if camera.Ks:
            features[camera.Ks] = {"dtype": "float32", "shape": [3, 3], "names": ["row", "column"]}
    return features


def camera_entry(
    name: str, cameras: Cameras, *, unit: float, depth: bool, segments: bool, drawn: bool = False
) -> CameraEntry:
    """The entry of cameras.json for a camera [t]; it stands still when its pose never changes.

    Args:
        drawn: it is another camera in each episode: pose and K are kept of every frame.
    """
    viewmats = cameras.viewmats.detach().cpu()
    fixed = bool((viewmats == viewmats[:1]).all()) and not drawn
    return CameraEntry(
        width=cameras.width,
        height=cameras.height,
        K=cameras.Ks[0].detach().cpu().double().numpy(),
        viewmat=viewmats[0].double().numpy() if fixed else None,
        viewmats="" if fixed else f"observation.extrinsic.{name}",
        Ks=f"observation.intrinsic.{name}" if drawn else "",
        rgb=f"observation.images.{name}",
        depth=f"observation.depth.{name}" if depth else None,
        depth_unit=unit,
        segments=f"observation.segments.{name}" if segments else None,
    )


def image_column(images: list[bytes]) -> pa.Array:
    """Encoded images as LeRobot stores them."""
    return pa.array([{"bytes": data, "path": None} for data in images], IMAGE)


def number_column(values: np.ndarray, *, name: str) -> pa.Array:
    """Scalars, lists or lists of lists, as LeRobot stores features of shape [1], [a] and [a b]."""
    kind = np.float32 if values.dtype.kind == "f" else values.dtype
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataFormatError("holds numbers that are not finite", field=name)
    array = pa.array(np.ascontiguousarray(values, kind).reshape(-1))
    for size in reversed(values.shape[1:]):
        offsets = pa.array(np.arange(0, len(array) + 1, size, dtype=np.int32))
        array = pa.ListArray.from_arrays(offsets, array)
    return array


def task_table(tasks: list[str]) -> pa.Table:
    """The tasks as pandas would write them with the text as index: that is how LeRobot reads them."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": tasks})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def stats_of(values: np.ndarray) -> dict[str, Any]:
    """The "stats" of a column [n c]."""
    values = values.astype(np.float64)
    moments = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    return {name: moment.tolist() for name, moment in moments.items()} | {"count": [len(values)]}


class PictureMoments:
    """The "stats" of a picture column as LeRobot has them, [c 1 1] over all pixels, grown picture by picture."""

    def __init__(self, *, step: float) -> None:
        self.step, self.frames = step, 0
        self.counts = np.zeros((0, 0), np.int64)  # [c v]: pixels of each channel with each value

    def add(self, pictures: np.ndarray) -> None:
        """Count pictures [t h w c] of whole numbers >= 0 in, worth `step` each."""
        self.frames += len(pictures)
        found = [np.bincount(pictures[..., c].reshape(-1)) for c in range(pictures.shape[-1])]
        width = max(self.counts.shape[1], *(len(f) for f in found))
        counts = np.zeros((len(found), width), np.int64)
        counts[:, : self.counts.shape[1]] = self.counts if len(self.counts) else 0
        for c, more in enumerate(found):
            counts[c, : len(more)] += more
        self.counts = counts

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values, shares = np.arange(self.counts.shape[1]) * self.step, self.counts / self.counts.sum(1, keepdims=True)
        mean = shares @ values
        std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
        last = self.counts.shape[1] - 1 - (self.counts[:, ::-1] > 0).argmax(1)
        moments = {"min": values[(self.counts > 0).argmax(1)], "max": values[last], "mean": mean, "std": std}
        return {k: v.reshape(-1, 1, 1).tolist() for k, v in moments.items()} | {"count": [self.frames]}
