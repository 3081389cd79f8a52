"""LeRobot v3.0 data sets with meta/cameras.json, read lazily: metadata at once, images when asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from scene4d.data import lerobot_layout as layout
from scene4d.data.calibration import checked_poses
from scene4d.data.depth_codec import decode_color, decode_depth, decode_segments
from scene4d.data.images import chosen_cameras, chosen_frames, sample_nearest
from scene4d.data.lerobot_layout import CameraEntry
from scene4d.data.lerobot_tables import images_of, numbers_of, open_parquet, times_of
from scene4d.data.lerobot_write import write_lerobot
from scene4d.data.video import count_frames, decode_frames
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.types import Cameras, Episode, Frames

__all__ = ["LeRobotRecording", "open_lerobot", "write_lerobot"]

_STATE, _ACTION, _POSES = "observation.state", "action", "observation.segment_poses"
_REWARD, _SUCCESS = "next.reward", "next.success"


def open_lerobot(path: str | os.PathLike) -> list[LeRobotRecording]:
    """The episodes of a LeRobot v3.0 data set; only metadata is read.

    Raises:
        DataFormatError: meta/ is incomplete or contradicts itself or the tables.
        VersionError: another version of the format.
        CalibrationError: meta/cameras.json is missing (says how to supply it) or impossible.
        SecurityError: a path leads out of the folder.
    """
    root = Path(path)
    info = layout.read_info(root)
    cameras = layout.read_cameras(root, info)
    rows = _episode_rows(root, info)
    tasks = _tasks(root)
    data = _Dataset(root=root, info=info, cameras=cameras, rows=rows)
    data.check_lengths()
    return [
        LeRobotRecording(path=str(root), info=_episode_info(row, info=info, tasks=tasks), _data=data, _row=row)
        for row in rows
    ]


@dataclass(frozen=True)
class LeRobotRecording:
    """One episode of a data set on disk."""

    path: str
    info: Mapping[str, Any]
    _data: _Dataset = field(repr=False)
    _row: Mapping[str, Any] = field(repr=False)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Calibrated cameras."""
        return tuple(self._data.cameras)

    @property
    def num_frames(self) -> int:
        """Frames of this episode."""
        return int(self._row["length"])

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self._data.info["fps"])

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        stride: int = 1,
        cameras: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Episode:
        """Frames start, start + stride, ... below stop, of the named cameras, resized to `size` = (width, height).

        Colour is averaged when resized; depth and segments are taken at the nearest pixel centre.

        Raises:
            DataFormatError: no such frames or camera, or the tables are damaged or contradict the metadata.
            TimestampError: times do not increase.
            VideoError: a video cannot be decoded.
        """
        frames = chosen_frames(self.num_frames, start=start, stop=stop, stride=stride, path=self.path)
        names = chosen_cameras(self.cameras, cameras, path=self.path)
        entries = {name: self._data.cameras[name] for name in names}
        table, file = self._data.table(self._row, cameras=entries.values())
        times = times_of(table, fps=self.fps, file=file)[frames]
        table = table.take(frames)
        views = {
            name: self._frames(entry, table, frames=frames, size=size, file=file) for name, entry in entries.items()
        }
        poses = self._column(table, _POSES, file=file)
        if poses is not None and self._row.get("scene4d/num_segments"):
            poses = poses[:, : self._row["scene4d/num_segments"]]
        empty = torch.zeros(len(frames), 0)
        actions, proprio = self._column(table, _ACTION, file=file), self._column(table, _STATE, file=file)
        return Episode(
            views=views,
            times=torch.from_numpy(times),
            valid=torch.ones(len(frames), dtype=torch.bool),
            actions=empty if actions is None else actions,
            proprio=empty if proprio is None else proprio,
            rewards=self._column(table, _REWARD, file=file),
            success=self._column(table, _SUCCESS, file=file),
            segment_poses=poses,
            info=self.info,
        )

    def _column(self, table: pa.Table, name: str, *, file: Path) -> torch.Tensor | None:
        if name not in self._data.info["features"]:
            return None
        return torch.from_numpy(numbers_of(table, name, shape=self._data.info["features"][name]["shape"], file=file))

    def _frames(
        self, entry: CameraEntry, table: pa.Table, *, frames: list[int], size: tuple[int, int] | None, file: Path
    ) -> Frames:
        pixels = {"size": (entry.width, entry.height), "file": file}
        if self._data.info["features"][entry.rgb]["dtype"] == "video":
            rgb = self._data.video(self._row, key=entry.rgb, frames=frames)
            if rgb.shape[1:3] != (entry.height, entry.width):
                found = (rgb.shape[2], rgb.shape[1])
                raise CalibrationError(
                    "the video has another size than its calibration",
                    field=entry.rgb,
                    file=file,
                    found=found,
                    expected=pixels["size"],
                )
        else:
            rgb = np.stack([decode_color(data, **pixels) for data in images_of(table, entry.rgb, file=file)])
        depth = extras = None
        if entry.depth is not None:
            images = images_of(table, entry.depth, file=file)
            depth = [sample_nearest(decode_depth(data, unit=entry.depth_unit, **pixels), size) for data in images]
        if entry.segments is not None:
            images = images_of(table, entry.segments, file=file)
            ids = np.stack([sample_nearest(decode_segments(data, **pixels), size) for data in images])
            extras = {"segments": torch.from_numpy(ids)[..., None]}
        if size is not None and tuple(size) != pixels["size"]:
            rgb = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in rgb])
        viewmats = (
            np.broadcast_to(entry.viewmat, (len(frames), 4, 4))
            if entry.viewmat is not None
            else self._viewmats(entry, table, file=file)
        )
        cameras = Cameras(
            viewmats=torch.tensor(viewmats, dtype=torch.float32),
            Ks=torch.tensor(entry.K, dtype=torch.float32).expand(len(frames), 3, 3),
            width=entry.width,
            height=entry.height,
        )
        return Frames(
            rgb=torch.from_numpy(rgb).float() / 255,
            depth=None if depth is None else torch.from_numpy(np.stack(depth)),
            alpha=None,
            cameras=cameras if size is None else cameras.resized(*size),
            extras=extras or {},
        )

    def _viewmats(self, entry: CameraEntry, table: pa.Table, *, file: Path) -> np.ndarray:
        viewmats = numbers_of(table, entry.viewmats, shape=[4, 4], file=file)
        _, usable = checked_poses(viewmats.astype(np.float64), names=[str(i) for i in range(len(viewmats))], file=file)
        if not usable.all():
            raise CalibrationError(
                "a pose is not finite", file=file, field=entry.viewmats, frame=int((~usable).argmax())
            )
        return viewmats


@dataclass(frozen=True)
class _Dataset:
    root: Path
    info: Mapping[str, Any]
    cameras: Mapping[str, CameraEntry]
    rows: Sequence[Mapping[str, Any]]

    def check_lengths(self) -> None:
        """The lengths of episodes, the rows of the tables and total_frames must agree."""
        lengths, total = sum(int(row["length"]) for row in self.rows), self.info["total_frames"]
        files = sorted({self.data_file(row) for row in self.rows})
        rows = sum(open_parquet(file).metadata.num_rows for file in files)
        if not lengths == rows == total:
            found = f"total_frames {total}, sum of lengths {lengths}, rows of the tables {rows}"
            raise DataFormatError(
                "the numbers of frames differ", file=self.root / layout.INFO, field="total_frames", found=found
            )

    def data_file(self, row: Mapping[str, Any]) -> Path:
        where = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
        return layout.file_path(self.root, self.info["data_path"], **where)

    def table(self, row: Mapping[str, Any], *, cameras) -> tuple[pa.Table, Path]:
        """The rows of one episode with the columns needed, and where they come from."""
        file, features = self.data_file(row), self.info["features"]
        wanted = [_STATE, _ACTION, _POSES, _REWARD, _SUCCESS]
        for entry in cameras:
            wanted += [entry.depth, entry.segments, entry.viewmats]
            wanted += [entry.rgb] if features[entry.rgb]["dtype"] != "video" else []
        wanted = ["episode_index", "frame_index", "timestamp", *[name for name in wanted if name in features]]
        source = open_parquet(file)
        missing = [name for name in wanted if name not in source.schema_arrow.names]
        if missing:
            raise DataFormatError("a column is missing", file=file, field=missing[0], found=source.schema_arrow.names)
        try:
            table = source.read(columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise DataFormatError("cannot be read", file=file, found=error, fix="copy the file again") from error
        table = table.filter(pc.equal(table["episode_index"], row["episode_index"]))
        index = table["frame_index"].to_numpy()
        if len(index) != row["length"] or not np.array_equal(index, np.arange(len(index))):
            found = f"{len(index)} rows of episode {row['episode_index']}, frame_index {index[:3]}..."
            raise DataFormatError(
                "the frames of an episode are not all there",
                file=file,
                field="frame_index",
                found=found,
                expected=f"0..{row['length'] - 1}",
            )
        return table, file

    def video(self, row: Mapping[str, Any], *, key: str, frames: list[int]) -> np.ndarray:
        """Frames of an episode from the video that holds it, uint8 [n h w 3]."""
        template = self.info.get("video_path")
        if not isinstance(template, str):
            raise DataFormatError("is missing", file=self.root / layout.INFO, field="video_path", found=template)
        place = _video_place(row, key, root=self.root)
        file = layout.file_path(self.root, template, video_key=key, chunk_index=place[0], file_index=place[1])
        fps = self.info["fps"]
        others = [other for other in self.rows if _video_place(other, key, root=self.root) == place]
        expected = max(round(other[f"videos/{key}/from_timestamp"] * fps) + int(other["length"]) for other in others)
        found = count_frames(file)
        if found != expected:
            numbers = f"{found} frames of video, {expected} rows, total_frames {self.info['total_frames']}"
            raise DataFormatError(
                "the numbers of frames differ", file=file, field=key, found=numbers, expected="one frame of video a row"
            )
        first = round(row[f"videos/{key}/from_timestamp"] * fps)
        return decode_frames(file, [first + frame for frame in frames])


def _video_place(row: Mapping[str, Any], key: str, *, root: Path) -> tuple[int, int]:
    try:
        return int(row[f"videos/{key}/chunk_index"]), int(row[f"videos/{key}/file_index"])
    except (KeyError, TypeError) as error:
        where = {"file": root / layout.EPISODES, "field": f"videos/{key}/chunk_index"}
        raise DataFormatError(
            "an episode does not say where its video is", **where, frame=row["episode_index"]
        ) from error


def _episode_rows(root: Path, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """meta/episodes in order of their index, which must be 0, 1, 2, ..."""
    files = sorted((root / layout.EPISODES).glob("chunk-*/file-*.parquet"))
    if not files:
        raise DataFormatError(
            "there is no table of episodes", file=root / layout.EPISODES, expected="chunk-000/file-000.parquet"
        )
    rows = []
    for file in files:
        source = open_parquet(file)
        columns = [name for name in source.schema_arrow.names if not name.startswith("stats/")]
        missing = {"episode_index", "length", "data/chunk_index", "data/file_index"} - set(columns)
        if missing:
            raise DataFormatError("a column is missing", file=file, field=min(missing), found=columns)
        try:
            rows += source.read(columns=columns).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataFormatError("cannot be read", file=file, found=error) from error
    rows.sort(key=lambda row: row["episode_index"])
    found = [row["episode_index"] for row in rows]
    if found != list(range(info["total_episodes"])):
        wrong = sorted(set(found) ^ set(range(info["total_episodes"]))) or [i for i in found if found.count(i) > 1]
        where = {"file": root / layout.EPISODES, "field": "episode_index"}
        raise DataFormatError(
            "episodes are missing or doubled", **where, found=wrong[:10], expected=f"0..{info['total_episodes'] - 1}"
        )
    return rows


def _tasks(root: Path) -> dict[int, str]:
    """Task texts by index."""
    file = root / layout.TASKS
    table = open_parquet(file).read()
    text = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
    if text is None or "task_index" not in table.column_names:
        raise DataFormatError("a column is missing", file=file, field="task", found=table.column_names)
    return dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))


def _episode_info(row: Mapping[str, Any], *, info: Mapping[str, Any], tasks: Mapping[int, str]) -> dict[str, Any]:
    """What is known of an episode: what was written with it, else what the format itself says."""

    def spec(name: str) -> list[dict[str, Any]]:
        feature = info["features"].get(name, {})
        names = feature.get("names") or [str(i) for i in range(feature.get("shape", [0])[0])]
        names = names if isinstance(names, list) else [str(n) for group in names.values() for n in group]
        return [{"name": str(name), "unit": None, "frame": None} for name in names]

    known = {
        "robot": info.get("robot_type"),
        "source": "lerobot",
        "action_spec": spec(_ACTION),
        "proprio_spec": spec(_STATE),
    }
    known["task"] = (row.get("tasks") or list(tasks.values()) or [""])[0]
    try:
        own = json.loads(row.get("scene4d/info") or "{}")
    except json.JSONDecodeError:
        own = {}
    return {**known, **(own if isinstance(own, dict) else {}), "episode_index": row["episode_index"]}
