"""LeRobot data sets v2.0 to v3.0 with meta/cameras.json, read lazily: metadata at once, images when they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses
from scene4d.data.cameras.sidecar import NOTHING_SUPPLIED, CameraEntry, Supplied, find_cameras
from scene4d.data.formats.lerobot import lerobot_layout as layout
from scene4d.data.formats.lerobot.lerobot_index import EpisodeIndex, read_index
from scene4d.data.formats.lerobot.lerobot_tables import images_of, numbers_of, open_parquet, times_of
from scene4d.data.formats.lerobot.lerobot_tasks import joined_tasks, task_notes
from scene4d.data.formats.lerobot.lerobot_write import write_lerobot
from scene4d.data.timeline.frame_table import FrameTable, Pictures, TableReader, View
from scene4d.data.video.depth_codec import LogDepth, decode_color, decode_depth, decode_segments
from scene4d.data.video.images import checked_depth
from scene4d.data.video.pictures import VideoFrames
from scene4d.data.video.video import iterate_frames
from scene4d.errors import DataFormatError, DepthError
from scene4d.ledger import joined_info, missing_images, with_left_out

pc: Any = pyarrow.compute  # its functions are made when it is imported, so no type is known of them

__all__ = ["LeRobotRecording", "open_lerobot", "write_lerobot"]

_STATE, _ACTION, _POSES = "observation.state", "action", "observation.segment_poses"
_REWARD, _SUCCESS = "next.reward", "next.success"
MAX_NAMES = 10_000
_WANTED = (_STATE, _ACTION, _POSES, _REWARD, _SUCCESS)


def open_lerobot(path: str | os.PathLike, *, supplied: Supplied = NOTHING_SUPPLIED) -> list[LeRobotRecording]:
    """The episodes of a LeRobot data set (v2.0, v2.1 or v3.0); only metadata is read.

    Raises:
        DataFormatError: meta/ is incomplete or contradicts itself or the tables.
        VersionError: another version of the format.
        CalibrationError: meta/cameras.json is missing (the message tells how to supply it) or impossible.
        SecurityError: a path leads out of the folder.
    """
    root = Path(path)
    info = layout.read_info(root)
    index = read_index(root, info)
    sizes = listed = layout.image_sizes(info)
    if supplied.fov_deg is not None:  # no file names the cameras: only those whose videos are there are meant
        sizes = {k: v for k, v in sizes.items() if index.has_images(0, k)}
    places, what = [root / layout.CAMERAS], "the LeRobot format"
    cameras, known = find_cameras(
        places, sizes=sizes, columns=info["features"], supplied=supplied, what=what, changing_K=True
    )
    absent = missing_images(sorted(set(listed) - set(sizes)))
    unused = layout.unused_parts(root, info["features"], cameras=cameras, read={*_WANTED, *listed})
    known = with_left_out(known, *index.notes, absent, *unused)
    data = _Dataset(index=index, cameras=cameras, known=known, loose_times=supplied.loose_times)
    return [LeRobotRecording(data, row) for row in range(len(index.table))]


class LeRobotRecording(TableReader):
    """One episode of a data set on disk."""

    def __init__(self, data: _Dataset, row: int):
        self._data, self._row = data, row
        self.path, self.fps = str(data.index.root), float(data.index.info["fps"])
        self.cameras, self.sizes, self.depth_cameras = tuple(data.cameras), data.sizes, data.depth_cameras

    @property
    def num_frames(self) -> int:
        """Frames of this episode."""
        return int(self._data.index.value(self._row, "length"))

    @property
    def info(self) -> dict[str, Any]:
        """What was written with the episode, else what the format itself holds."""
        return self._data.episode_info(self._row)

    def table(self, cameras: Sequence[str]) -> FrameTable:
        """The episode's columns, those of these cameras included."""
        return self._data.frame_table(self._row, cameras=cameras)


@dataclass
class _Dataset:
    index: EpisodeIndex
    cameras: Mapping[str, CameraEntry]
    known: Mapping[str, Any]
    loose_times: bool = False

    def __post_init__(self) -> None:
        self.sizes = {name: (entry.width, entry.height) for name, entry in self.cameras.items()}
        self.depth_cameras = tuple(name for name, entry in self.cameras.items() if entry.depth)
        self.features: Mapping[str, Any] = self.index.info["features"]

    def episode_info(self, row: int) -> dict[str, Any]:
        """JSON-ready facts of an episode."""
        known = {
            "robot": self.index.info.get("robot_type"),
            "source": "lerobot",
            "version": self.index.info["codebase_version"],
            "action_spec": self._spec(_ACTION),
            "proprio_spec": self._spec(_STATE),
            "task": joined_tasks(self._tasks(row)),
        }
        try:
            own = json.loads(self.index.value(row, "scene4d/info") or "{}")
        except (ValueError, RecursionError):
            own = {}
        own = own if isinstance(own, dict) else {}
        return {**known, **own, **self.known, "episode_index": self.index.value(row, "episode_index")}

    def _tasks(self, row: int) -> list[str]:
        """The tasks that an episode is listed with; the only one there is where it is listed with none."""
        every = list(self.index.tasks.values())
        return self.index.value(row, "tasks") or (every if len(every) == 1 else [])

    def _spec(self, name: str) -> list[dict[str, Any]]:
        feature = self.features.get(name, {})
        width, names = (feature.get("shape") or [0])[0], feature.get("names")
        if isinstance(names, dict):
            names = [n for group in names.values() for n in (group if isinstance(group, list) else [group])]
        names = names if isinstance(names, list) and len(names) == width else range(min(width, MAX_NAMES))
        return [{"name": str(name), "unit": None, "frame": None} for name in names]

    def frame_table(self, row: int, *, cameras: Sequence[str]) -> FrameTable:
        """The columns of one episode; videos are looked up, not decoded."""
        entries = {name: self.cameras[name] for name in cameras}
        table, rows = self._table(row, entries)
        file = rows.file
        notes = task_notes(table, self.index.tasks, listed=self._tasks(row), file=file)
        views = {name: self._view(row, entry, table=table, rows=rows, notes=notes) for name, entry in entries.items()}
        poses = self._column(table, _POSES, file=file)
        segments = self.index.value(row, "scene4d/num_segments")
        return FrameTable(
            views=views,
            times=times_of(table, fps=float(self.index.info["fps"]), file=file, loose=self.loose_times),
            actions=self._column(table, _ACTION, file=file),
            proprio=self._column(table, _STATE, file=file),
            rewards=self._column(table, _REWARD, file=file),
            success=self._column(table, _SUCCESS, file=file),
            segment_poses=poses[:, :segments] if poses is not None and segments else poses,
            notes=notes,
        )

    def _column(self, table: pa.Table, name: str, *, file: Path) -> np.ndarray | None:
        if name not in self.features:
            return None
        values = numbers_of(table, name, shape=self.features[name]["shape"], file=file)
        return values.reshape(len(values), -1) if name in (_ACTION, _STATE) else values

    def _table(self, row: int, entries: Mapping[str, CameraEntry]) -> tuple[pa.Table, _Rows]:
        """The numbers of one episode, and where its rows lie."""
        file = self.index.data_file(row)
        source = open_parquet(file)
        wanted = [*_WANTED, *(name for entry in entries.values() for name in (entry.viewmats, entry.Ks))]
        pictures = [n for entry in entries.values() for n in (entry.rgb, entry.depth, entry.segments) if n is not None]
        stored = [n for n in wanted if n in self.features]
        needed = stored + [n for n in pictures if n in self.features and not self._is_video(n)]
        missing = [name for name in needed if name not in source.schema_arrow.names]
        if missing:
            raise DataFormatError("a column is missing", file=file, field=missing[0], found=source.schema_arrow.names)
        if source.metadata.num_rows != self.index.rows_in_file(row):
            lengths, total = self.index.rows_in_file(row), self.index.info["total_frames"]
            found = f"{source.metadata.num_rows} rows, lengths of its episodes {lengths}, total_frames {total}"
            raise DataFormatError("the numbers of frames differ", file=file, field="length", found=found)
        keys = ("episode_index", "frame_index", "timestamp", "task_index")
        columns = [name for name in (*keys, *stored) if name in source.schema_arrow.names]
        number, length = self.index.value(row, "episode_index"), self.index.value(row, "length")
        try:
            groups = _groups(source, number)
            table = source.read_row_groups(groups, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise DataFormatError("cannot be read", file=file, found=error, fix="copy the file again") from error
        metadata = source.metadata
        sizes = np.array([metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)], np.int64)
        places = np.repeat(np.isin(np.arange(len(sizes)), groups), sizes).nonzero()[0]
        if "episode_index" in columns:
            chosen = pc.equal(table["episode_index"], number)
            table, places = table.filter(chosen), places[chosen.to_numpy().astype(bool)]
        index = table["frame_index"].to_numpy() if "frame_index" in columns else np.arange(len(table))
        if len(index) != length or not np.array_equal(index, np.arange(len(index))):
            problem = "the frames of an episode are not all there"
            found = f"{len(index)} rows of episode {number}, frame_index {index[:3]}..."
            raise DataFormatError(problem, file=file, field="frame_index", found=found, expected=f"0..{length - 1}")
        return table, _Rows(file, places)

    def _view(self, row: int, entry: CameraEntry, *, table: pa.Table, rows: _Rows, notes: dict[str, Any]) -> View:
        viewmats, usable = entry.viewmat, None
        if viewmats is None:
            viewmats = numbers_of(table, entry.viewmats, shape=[4, 4], file=rows.file)
            names = [str(i) for i in range(len(viewmats))]
            rigid, usable = checked_poses(viewmats.astype(np.float64), names=names, file=rows.file)
            viewmats = viewmats if usable.all() else np.where(usable[:, None, None], viewmats, rigid)
        size, Ks = (entry.width, entry.height), entry.K
        if entry.Ks:
            Ks = numbers_of(table, entry.Ks, shape=[3, 3], file=rows.file).astype(np.float64)
            for K in np.unique(Ks, axis=0):
                checked_intrinsics(K, width=size[0], height=size[1], file=rows.file, camera=entry.Ks)
        column = lambda name: _Column(name, rows, kind="color", size=size)
        depth = None
        if entry.depth is not None:
            depth = self._depth(row, entry.depth, size=size, unit=entry.depth_unit, rows=rows, notes=notes)
        return View(
            size=size,
            Ks=Ks,
            viewmats=viewmats,
            color=self._video(row, entry.rgb, notes=notes) if self._is_video(entry.rgb) else column(entry.rgb),
            depth=depth,
            segments=None if entry.segments is None else _Column(entry.segments, rows, kind="segments", size=size),
            lens=entry.lens,
            usable=None if usable is None or usable.all() else usable,
        )

    def _is_video(self, name: str) -> bool:
        return self.features[name].get("dtype") == "video"

    def _video(self, row: int, key: str, *, notes: dict[str, Any]) -> VideoFrames:
        frames, found = self.index.video(row, key)
        notes.update(joined_info(notes, found))
        return frames

    def _depth(
        self, row: int, key: str, *, size: tuple[int, int], unit: float, rows: _Rows, notes: dict[str, Any]
    ) -> Pictures:
        if not self._is_video(key):
            unit = layout.depth_unit(self.features[key], default=unit)
            return _Column(key, rows, kind="depth", size=size, unit=unit)
        entry = layout.video_entry(self.features[key])
        values = {k: entry[k] for k in ("depth_min", "depth_max", "shift", "use_log") if k in entry}
        if not layout.is_depth_map(self.features[key]):
            where = {"file": self.index.root / layout.INFO, "field": f"features.{key}"}
            fix = 'name a depth feature in cameras.json, or write "is_depth_map": true if it is one'
            raise DepthError("is a video but no depth map", **where, fix=fix)
        raw = str(entry.get("pix_fmt", "")).startswith("gray16")
        codec = None if raw else LogDepth(**values)
        if codec is not None and not (0 <= codec.depth_min < codec.depth_max and codec.depth_min + codec.shift > 0):
            where = {"file": self.index.root / layout.INFO, "field": f"features.{key}.depth_min"}
            raise DepthError("is no range of depth", **where, found=values, expected="0 <= depth_min < depth_max")
        return DepthVideo(self._video(row, key, notes=notes), codec=codec, unit=unit)


@dataclass(frozen=True)
class DepthVideo:
    """Depth in a high-bit-depth video: LeRobot's 12-bit codes, or plain steps of `unit` metres where codec is None."""

    video: VideoFrames
    codec: LogDepth | None
    unit: float = 0.001

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """z-depth [h w] float32 m."""
        places = self.video.places(frames)
        for place, codes in zip(places, iterate_frames(self.video.path, places, codes=True), strict=True):
            metres = codes * np.float32(self.unit) if self.codec is None else self.codec.decode(codes)
            yield checked_depth(np.where(codes == 65535, 0, metres), file=self.video.path, frame=str(place))


@dataclass(frozen=True)
class _Rows:
    """Where the rows of an episode lie in its file."""

    file: Path
    places: np.ndarray


@dataclass(frozen=True)
class _Column:
    """Encoded images of a table, read from it group by group as they are needed."""

    name: str
    rows: _Rows
    kind: str
    size: tuple[int, int]
    unit: float = 1.0

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        size, file = self.size, self.rows.file
        for data in self._encoded(self.rows.places[list(frames)]):
            match self.kind:
                case "color":
                    yield decode_color(data, size=size, file=file)
                case "depth":
                    yield decode_depth(data, unit=self.unit, size=size, file=file)
                case _:
                    yield decode_segments(data, size=size, file=file)

    def _encoded(self, wanted: np.ndarray) -> Iterator[bytes]:
        """The encoded images of rows of the file, in order; each group is read once."""
        source = open_parquet(self.rows.file)
        first = 0
        for group in range(source.metadata.num_row_groups):
            last = first + source.metadata.row_group(group).num_rows
            inside = wanted[(wanted >= first) & (wanted < last)] - first
            if len(inside):
                try:
                    column = source.read_row_group(group, columns=[self.name])[self.name]
                except (pa.ArrowException, OSError) as error:
                    where = {"file": self.rows.file, "field": self.name}
                    raise DataFormatError("cannot be read", **where, found=error, fix="copy the file again") from error
                yield from images_of(column.take(pa.array(inside)), name=self.name, file=self.rows.file)
            first = last


def _groups(source: Any, number: int) -> list[int]:
    """Row groups that can hold an episode, by their statistics."""
    metadata, groups = source.metadata, range(source.metadata.num_row_groups)
    if "episode_index" not in source.schema_arrow.names:
        return list(groups)
    leaf = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index("episode_index")
    stats = [metadata.row_group(k).column(leaf).statistics for k in groups]
    return [k for k, s in enumerate(stats) if s is None or not s.has_min_max or s.min <= number <= s.max]
