"""Episodes to a LeRobot v3.0 folder with meta/cameras.json: a parquet file and a video a camera for each episode."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from scene4d.data.depth_codec import DEPTH_UNIT, encode_depth, encode_segments
from scene4d.data.formats import lerobot_layout as layout
from scene4d.data.sidecar import CONVENTIONS, CameraEntry
from scene4d.data.video import encode_video
from scene4d.errors import CalibrationError, DataFormatError, TimestampError
from scene4d.files import atomic_folder
from scene4d.types import Episode, Frames

_CHUNK_SIZE = 1000
_SEGMENT_STEP = 16  # the rows of observation.segment_poses are padded to a multiple of this: episodes share one shape
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index")


def write_lerobot(
    path: str | os.PathLike,
    episodes: Iterable[Episode],
    *,
    fps: float | None = None,
    depth_unit: float = DEPTH_UNIT,
    crf: int = 6,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write episodes [t] one after another; the folder appears when all are written.

    Colour is H.264 (near lossless), depth and segments are PNG columns (exact up to `depth_unit` m), everything else is
    exact. Not written: alpha, and extras other than segments. The first episode fixes cameras, columns and sizes.

    Args:
        fps: frames a second; by default from the times of the first episode.
        crf: quality of the video, see `encode_video`.
        progress: called with the number of episodes written.
    Returns:
        {"path", "episodes", "frames", "bytes"}.
    Raises:
        DataFormatError: there is no episode, or one has other columns than the first.
        CalibrationError: a camera's size, K or fixed pose changes.
        TimestampError: frames are not evenly spaced in time.
        DepthError: a depth does not fit the unit.
        ResourceError: the folder exists already, or cannot be written.
    """
    with atomic_folder(path) as root:
        writer = None
        for number, episode in enumerate(episodes):
            if writer is None:
                writer = _Writer(root, episode, fps=fps, depth_unit=depth_unit, crf=crf)
            writer.add(episode)
            if progress is not None:
                progress(number + 1)
        if writer is None:
            raise DataFormatError("there is no episode to write", file=path)
        writer.finish()
        size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    return {"path": str(path), "episodes": len(writer.rows), "frames": writer.num_frames, "bytes": size}


class _Writer:
    """One data set being written; the first episode fixes what all of them hold."""

    def __init__(self, root: Path, first: Episode, *, fps: float | None, depth_unit: float, crf: int):
        self.root, self.crf = root, crf
        self.fps = float(fps) if fps is not None else _fps_of(first.times)
        self.cameras = {name: _camera_entry(name, frames, unit=depth_unit) for name, frames in first.views.items()}
        self.features = _features(first, cameras=self.cameras, fps=self.fps)
        self.robot = first.info.get("robot")
        self.rows: list[dict[str, Any]] = []
        self.tasks: list[str] = []
        self.moments: dict[str, list[np.ndarray]] = {"observation.state": [], "action": []}
        self.num_frames = 0

    def add(self, episode: Episode) -> None:
        """Write one episode's files."""
        if not episode.valid.all():
            episode = episode[episode.valid]
        length, number = len(episode.times), len(self.rows)
        _check_times(episode.times, fps=self.fps, number=number)
        where = {"chunk_index": number // _CHUNK_SIZE, "file_index": number % _CHUNK_SIZE}
        columns = self._columns(episode, number=number)
        self._check_columns(columns, number=number)
        file = self.root / layout.DATA_PATH.format(**where)
        file.parent.mkdir(parents=True, exist_ok=True)
        # Pages large enough to hold many images: what stands still between frames is stored once.
        table = pa.table({name: columns[name] for name in self.features if name in columns})
        pq.write_table(
            table, file, compression="zstd", compression_level=9, data_page_size=1 << 24, use_dictionary=False
        )
        row = {"episode_index": number, "tasks": [self.tasks[columns["task_index"][0].as_py()]], "length": length}
        row |= {f"data/{key}": value for key, value in where.items()}
        row |= {"dataset_from_index": self.num_frames, "dataset_to_index": self.num_frames + length}
        for name, camera in self.cameras.items():
            file = self.root / layout.VIDEO_PATH.format(video_key=camera.rgb, **where)
            file.parent.mkdir(parents=True, exist_ok=True)
            rgb = (episode.views[name].rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            encode_video(file, rgb, fps=self.fps, crf=self.crf)
            row |= {f"videos/{camera.rgb}/{key}": value for key, value in where.items()}
            row |= {f"videos/{camera.rgb}/from_timestamp": 0.0, f"videos/{camera.rgb}/to_timestamp": length / self.fps}
        segments = None if episode.segment_poses is None else episode.segment_poses.shape[-2]
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {"scene4d/num_segments": segments, "scene4d/info": json.dumps(dict(episode.info))}
        self.rows.append(row)
        self.num_frames += length

    def finish(self) -> None:
        """Write meta/."""
        meta = self.root / layout.EPISODES / "chunk-000"
        meta.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self.rows), meta / "file-000.parquet")
        pq.write_table(_task_table(self.tasks), self.root / layout.TASKS)
        info = {
            "codebase_version": layout.VERSION,
            "robot_type": self.robot,
            "total_episodes": len(self.rows),
            "total_frames": self.num_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": _CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(self.fps) if self.fps == int(self.fps) else self.fps,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH,
            "features": self.features,
        }
        cameras = {name: camera.as_dict() for name, camera in self.cameras.items()}
        stats = {name: _stats(np.concatenate(parts)) for name, parts in self.moments.items() if parts}
        for file, value in (
            (layout.INFO, info),
            (layout.CAMERAS, {"conventions": CONVENTIONS, "cameras": cameras}),
            (layout.STATS, stats),
        ):
            (self.root / file).write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def _columns(self, episode: Episode, *, number: int) -> dict[str, pa.Array]:
        length = len(episode.times)
        task = str(episode.info.get("task", ""))
        if task not in self.tasks:
            self.tasks.append(task)
        frame = np.arange(length)
        numbers = {
            "observation.state": episode.proprio,
            "action": episode.actions,
            "timestamp": frame / self.fps,
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": self.num_frames + frame,
            "task_index": np.full(length, self.tasks.index(task)),
            "next.reward": episode.rewards,
            "next.success": episode.success,
            "next.done": frame == length - 1,
            "observation.segment_poses": episode.segment_poses,
        }
        columns = {}
        for name, values in numbers.items():
            if values is None or name not in self.features:
                continue
            values = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
            if name in self.moments:
                self.moments[name].append(values)
            if name == "observation.segment_poses":
                values = self._padded(values, number=number)
            columns[name] = _number_column(values, name=name)
        for name, camera in self.cameras.items():
            columns |= _view_columns(episode.views.get(name), name=name, camera=camera, number=number)
        if set(episode.views) != set(self.cameras):
            expected = list(self.cameras)
            raise DataFormatError(
                "the cameras differ between episodes", frame=number, found=list(episode.views), expected=expected
            )
        return columns

    def _padded(self, poses: np.ndarray, *, number: int) -> np.ndarray:
        feature = self.features.get("observation.segment_poses")
        rows = feature["shape"][0] if feature else 0
        if poses.shape[1] > rows:
            fix = "write episodes with more segments to a data set of their own"
            where = {"field": "segment_poses", "frame": number}
            raise DataFormatError("too many segments", **where, found=poses.shape[1], expected=f"<= {rows}", fix=fix)
        extra = np.zeros((len(poses), rows - poses.shape[1], 7), poses.dtype)
        extra[..., 0] = 1
        return np.concatenate([poses, extra], 1)

    def _check_columns(self, columns: Mapping[str, pa.Array], *, number: int) -> None:
        expected = {name for name, feature in self.features.items() if feature["dtype"] != "video"}
        if set(columns) != expected:
            found = sorted(set(columns) ^ expected)
            raise DataFormatError("holds other data than the first", field="episode", frame=number, found=found)
        for name in {"action", "observation.state"} & expected:
            width = len(columns[name][0])
            if width != self.features[name]["shape"][0]:
                expected_width = self.features[name]["shape"][0]
                raise DataFormatError(
                    "has another width", field=name, frame=number, found=width, expected=expected_width
                )


def _features(episode: Episode, *, cameras: Mapping[str, CameraEntry], fps: float) -> dict[str, dict[str, Any]]:
    def names(key: str, count: int) -> list[str]:
        spec = episode.info.get(key) or []
        return (
            [str(row.get("name", i)) for i, row in enumerate(spec)]
            if len(spec) == count
            else [str(i) for i in range(count)]
        )

    proprio, actions = episode.proprio.shape[-1], episode.actions.shape[-1]
    features: dict[str, dict[str, Any]] = {
        "observation.state": {"dtype": "float32", "shape": [proprio], "names": names("proprio_spec", proprio)},
        "action": {"dtype": "float32", "shape": [actions], "names": names("action_spec", actions)},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    }
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in _INDEX_COLUMNS}
    # A recording without a robot has neither; a feature of no columns would be none.
    features = {name: feature for name, feature in features.items() if feature["shape"] != [0]}
    if episode.rewards is not None:
        features["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    if episode.success is not None:
        features["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    features["next.done"] = {"dtype": "bool", "shape": [1], "names": None}
    if episode.segment_poses is not None:
        rows = -(-episode.segment_poses.shape[-2] // _SEGMENT_STEP) * _SEGMENT_STEP
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
        if camera.viewmats is not None:
            features[camera.viewmats] = {"dtype": "float32", "shape": [4, 4], "names": ["row", "column"]}
    return features


def _camera_entry(name: str, frames: Frames, *, unit: float) -> CameraEntry:
    viewmats = frames.cameras.viewmats.detach().cpu()
    fixed = bool((viewmats == viewmats[:1]).all())
    return CameraEntry(
        width=frames.cameras.width,
        height=frames.cameras.height,
        K=frames.cameras.Ks[0].detach().cpu().double().numpy(),
        viewmat=viewmats[0].double().numpy() if fixed else None,
        viewmats=None if fixed else f"observation.extrinsic.{name}",
        rgb=f"observation.images.{name}",
        depth=None if frames.depth is None else f"observation.depth.{name}",
        depth_unit=unit,
        segments=f"observation.segments.{name}" if "segments" in frames.extras else None,
    )


def _view_columns(frames: Frames | None, *, name: str, camera: CameraEntry, number: int) -> dict[str, pa.Array]:
    """A camera's columns; the video is written apart."""
    if frames is None:
        return {}
    viewmats, Ks = frames.cameras.viewmats.detach().cpu(), frames.cameras.Ks.detach().cpu().double().numpy()
    changed = None
    if (frames.cameras.width, frames.cameras.height) != (camera.width, camera.height):
        changed = "size"
    elif not (Ks == camera.K).all():
        changed = "K"
    elif camera.viewmat is not None and not (viewmats.double().numpy() == camera.viewmat).all():
        changed = "pose"
    if changed:
        problem, fix = f"the {changed} of a camera changes", "write such episodes to a data set of their own"
        raise CalibrationError(problem, field=f"cameras.{name}", frame=number, fix=fix)
    columns = {}
    if camera.depth is not None and frames.depth is not None:
        images = [encode_depth(depth, unit=camera.depth_unit) for depth in frames.depth.detach().cpu().numpy()]
        columns[camera.depth] = _image_column(images)
    if camera.segments is not None and "segments" in frames.extras:
        segments = frames.extras["segments"][..., 0].detach().cpu().numpy()
        columns[camera.segments] = _image_column([encode_segments(ids) for ids in segments])
    if camera.viewmats is not None:
        columns[camera.viewmats] = _number_column(viewmats.numpy(), name=camera.viewmats)
    return columns


def _image_column(images: list[bytes]) -> pa.Array:
    return pa.array([{"bytes": data, "path": None} for data in images], _IMAGE)


def _number_column(values: np.ndarray, *, name: str) -> pa.Array:
    """Scalars, lists or lists of lists, as LeRobot stores features of shape [1], [a] and [a b]."""
    kind = np.float32 if values.dtype.kind == "f" else values.dtype
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataFormatError("holds numbers that are not finite", field=name)
    array = pa.array(np.ascontiguousarray(values, kind).reshape(-1))
    for size in reversed(values.shape[1:]):
        offsets = pa.array(np.arange(0, len(array) + 1, size, dtype=np.int32))
        array = pa.ListArray.from_arrays(offsets, array)
    return array


def _task_table(tasks: list[str]) -> pa.Table:
    """The tasks as pandas would write them with the text as index: that is how LeRobot reads them."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": tasks})
    columns = [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _stats(values: np.ndarray) -> dict[str, list[float]]:
    values = values.astype(np.float64)
    moments = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    return {name: moment.tolist() for name, moment in moments.items()} | {"count": [len(values)]}


def _fps_of(times: torch.Tensor) -> float:
    """Frames a second of evenly spaced times; a whole number where it is one but for rounding."""
    if len(times) < 2:
        raise TimestampError("one frame has no frame rate", field="times", fix="give fps")
    fps = 1 / float(times.diff().median())
    return float(round(fps)) if abs(fps - round(fps)) < 1e-3 else fps


def _check_times(times: torch.Tensor, *, fps: float, number: int) -> None:
    drift = (times - times[0] - torch.arange(len(times), dtype=times.dtype) / fps).abs()
    if not bool((drift < 1e-3).all()):
        frame = int((~(drift < 1e-3)).int().argmax())
        fix = "give the fps they have, or resample them"
        found, expected = f"{float(times[frame]):.4f} s", f"{float(times[0]) + frame / fps:.4f} s"
        problem = f"frames of episode {number} are not evenly spaced"
        raise TimestampError(problem, field="times", frame=frame, found=found, expected=expected, fix=fix)
