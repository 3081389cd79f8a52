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

from scene4d.data.cameras.sidecar import CONVENTIONS, CameraEntry
from scene4d.data.formats.lerobot import lerobot_layout as layout
from scene4d.data.formats.lerobot.lerobot_features import (
    PictureMoments,
    camera_entry,
    features_of,
    number_column,
    stats_of,
    task_table,
)
from scene4d.data.formats.lerobot.lerobot_spool import Spool, Spooled
from scene4d.data.formats.lerobot.lerobot_tasks import tasks_of_frames
from scene4d.data.video.depth_codec import DEPTH_UNIT, LogDepth
from scene4d.errors import CalibrationError, ConfigError, DataFormatError, TimestampError
from scene4d.files import atomic_folder
from scene4d.types import Cameras, Episode

CHUNK_SIZE = 1000
# Pages large enough to hold many images: what stands still between frames is stored once.
PARQUET = {"compression": "zstd", "compression_level": 9, "data_page_size": 1 << 24, "use_dictionary": False}


def write_lerobot(
    path: str | os.PathLike,
    episodes: Iterable[Episode | Iterable[Episode]],
    *,
    fps: float | None = None,
    depth_unit: float = DEPTH_UNIT,
    depth_video: LogDepth | None = None,
    crf: int = 6,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write episodes [t] one after another; the folder appears when all are written.

    An episode may come as stretches that follow each other (`read_in_stretches`); no more than one is in memory then.
    Colour is H.264 (near lossless), depth and segments are PNG columns (exact up to `depth_unit` m), everything else is
    exact. Not written: alpha, and extras other than segments. The first episode fixes cameras, columns and sizes;
    cameras drawn anew for each episode (`info["viewpoints"]`) keep their pose and K with every frame.

    Args:
        depth_video: keep depth as LeRobot's own 12-bit video of this range, lossless but for its steps (of the default
            range: 1 to 4 mm); None: as PNG.
        fps: frames a second; by default from the times of the first episode, which then may not come as stretches.
        crf: quality of the video, see `encode_video`.
        progress: called with the number of episodes written.
    Returns:
        {"path", "episodes", "frames", "bytes"}.
    Raises:
        ConfigError: the first episode comes as stretches, and no fps.
        DataFormatError: there is no episode, one without a valid frame, or one with other columns than the first.
        CalibrationError: a camera's size, K or fixed pose changes.
        TimestampError: frames are not evenly spaced in time.
        DepthError: a depth does not fit the unit.
        ResourceError: the folder exists already, or cannot be written.
    """
    with atomic_folder(path) as root:
        writer = _Writer(root, fps=fps, depth_unit=depth_unit, depth_video=depth_video, crf=crf)
        for number, episode in enumerate(episodes):
            if not writer.fps and not isinstance(episode, Episode):
                raise ConfigError("is not known from a stretch", file=path, field="fps", fix="give the frame rate")
            writer.add([episode] if isinstance(episode, Episode) else episode)
            if progress is not None:
                progress(number + 1)
        if not writer.rows:
            raise DataFormatError("there is no episode to write", file=path)
        writer.finish()
        size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    return {"path": str(path), "episodes": len(writer.rows), "frames": writer.num_frames, "bytes": size}


class _Writer:
    """One data set being written; the first episode fixes what all of them hold."""

    def __init__(
        self, root: Path, *, fps: float | None, depth_unit: float, depth_video: LogDepth | None, crf: int
    ) -> None:
        self.root, self.crf, self.unit, self.depth_video = root, crf, depth_unit, depth_video
        self.fps = 0.0 if fps is None else float(fps)  # 0: that of the first episode
        self.cameras: dict[str, CameraEntry] = {}
        self.features: dict[str, dict[str, Any]] = {}
        self.robot: Any = None
        self.rows: list[dict[str, Any]] = []
        self.tasks: list[str] = []
        self.moments: dict[str, list[np.ndarray]] = {"observation.state": [], "action": []}
        self.pictures: dict[str, PictureMoments] = {}
        self.num_frames = 0

    def add(self, stretches: Iterable[Episode]) -> None:
        """Write one episode's files."""
        number = len(self.rows)
        where = {"chunk_index": number // CHUNK_SIZE, "file_index": number % CHUNK_SIZE}
        with Spool(
            self.root, where=where, number=number, unit=self.unit, crf=self.crf, moments=self.pictures,
            depth_video=self.depth_video,
        ) as spool:  # fmt: skip
            for stretch in stretches:
                if not self.fps:
                    self.fps = _fps_of(stretch.times)
                spool.add(stretch, fps=self.fps)
            spooled = spool.finish()
            numbers, length = spooled.numbers, len(spooled.numbers.times)
            _check_times(numbers.times, fps=self.fps, number=number)
            if not self.rows:
                self._begin(spooled)
            columns = self._columns(numbers, number=number)
            columns |= self._pose_columns(spooled.cameras, number=number)
            stored = {name for name, feature in self.features.items() if feature["dtype"] != "video"}
            found = {*columns, *(name for name in spooled.images if name in stored)}
            self._check_columns(found, columns, number=number)
            self._write_table(spool, columns, where=where)
        named = dict.fromkeys(columns["task_index"].to_pylist())
        row = {"episode_index": number, "tasks": [self.tasks[k] for k in named], "length": length}
        row |= {f"data/{key}": value for key, value in where.items()}
        row |= {"dataset_from_index": self.num_frames, "dataset_to_index": self.num_frames + length}
        for name in (name for name, feature in self.features.items() if feature["dtype"] == "video"):
            row |= {f"videos/{name}/{key}": value for key, value in where.items()}
            row |= {f"videos/{name}/from_timestamp": 0.0, f"videos/{name}/to_timestamp": length / self.fps}
        segments = None if numbers.segment_poses is None else numbers.segment_poses.shape[-2]
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {"scene4d/num_segments": segments, "scene4d/info": json.dumps(dict(numbers.info))}
        self.rows.append(row)
        self.num_frames += length

    def finish(self) -> None:
        """Write meta/."""
        info = {
            "codebase_version": layout.VERSION,
            "robot_type": self.robot,
            "total_episodes": len(self.rows),
            "total_frames": self.num_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK_SIZE,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(self.fps) if self.fps == int(self.fps) else self.fps,
            "splits": {"train": f"0:{len(self.rows)}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH,
            "features": self.features,
        }
        cameras = {name: camera.as_dict() for name, camera in self.cameras.items()}
        stats: dict[str, Any] = {n: stats_of(np.concatenate(parts)) for n, parts in self.moments.items() if parts}
        stats |= {name: moments.as_dict() for name, moments in self.pictures.items() if name in self.features}
        files = {
            layout.INFO: info,
            layout.CAMERAS: {"conventions": CONVENTIONS, "cameras": cameras},
            layout.STATS: stats,
        }
        write_meta(self.root, rows=self.rows, tasks=self.tasks, files=files)

    def _begin(self, first: Spooled) -> None:
        """Fix cameras and columns by the first episode."""
        for name, cameras in first.cameras.items():
            depth, segments = (f"observation.{kind}.{name}" in first.images for kind in ("depth", "segments"))
            drawn = "viewpoints" in first.numbers.info
            entry = camera_entry(name, cameras, unit=self.unit, depth=depth, segments=segments, drawn=drawn)
            self.cameras[name] = entry
        self.features = features_of(first.numbers, cameras=self.cameras, fps=self.fps, depth_video=self.depth_video)
        self.robot = first.numbers.info.get("robot")

    def _write_table(self, spool: Spool, columns: Mapping[str, pa.Array], *, where: Mapping[str, int]) -> None:
        """Write the episode's parquet file, a row group a stretch."""
        file = self.root / layout.DATA_PATH.format(**where)
        file.parent.mkdir(parents=True, exist_ok=True)
        writer, start = None, 0
        try:
            for length, images in spool.stretches():
                parts = {name: column.slice(start, length) for name, column in columns.items()} | images
                table = pa.table({name: parts[name] for name in self.features if name in parts})
                writer = writer or pq.ParquetWriter(file, table.schema, **PARQUET)
                writer.write_table(table)
                start += length
        finally:
            if writer is not None:
                writer.close()

    def _columns(self, episode: Episode, *, number: int) -> dict[str, pa.Array]:
        """What is no picture."""
        length = len(episode.times)
        texts = tasks_of_frames(episode.info, length)
        self.tasks += [text for text in dict.fromkeys(texts) if text not in self.tasks]
        frame = np.arange(length)
        numbers = {
            "observation.state": episode.proprio,
            "action": episode.actions,
            "timestamp": frame / self.fps,
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": self.num_frames + frame,
            "task_index": np.array([self.tasks.index(text) for text in texts], np.int64),
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
            if self.features[name]["shape"] == [1] and values.shape[1:] == (1,):
                values = values[:, 0]  # lerobot wants a single number as such, not as a list of one
            columns[name] = number_column(values, name=name)
        return columns

    def _pose_columns(self, found: Mapping[str, Cameras], *, number: int) -> dict[str, pa.Array]:
        """The poses of cameras that move; all must be the cameras of the first episode."""
        if set(found) != set(self.cameras):
            other, expected = list(found), list(self.cameras)
            raise DataFormatError("the cameras differ between episodes", frame=number, found=other, expected=expected)
        columns = {}
        for name, camera in self.cameras.items():
            viewmats, Ks = found[name].viewmats.detach().cpu(), found[name].Ks.detach().cpu().double().numpy()
            changed = None
            if (found[name].width, found[name].height) != (camera.width, camera.height):
                changed = "size"
            elif not camera.Ks and not (Ks == camera.K).all():
                changed = "K"
            elif camera.viewmat is not None and not (viewmats.double().numpy() == camera.viewmat).all():
                changed = "pose"
            if changed:
                problem, fix = f"the {changed} of a camera changes", "write such episodes to a data set of their own"
                raise CalibrationError(problem, field=f"cameras.{name}", frame=number, fix=fix)
            if camera.viewmats:
                columns[camera.viewmats] = number_column(viewmats.numpy(), name=camera.viewmats)
            if camera.Ks:
                columns[camera.Ks] = number_column(Ks, name=camera.Ks)
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

    def _check_columns(self, found: set[str], columns: Mapping[str, pa.Array], *, number: int) -> None:
        expected = {name for name, feature in self.features.items() if feature["dtype"] != "video"}
        if found != expected:
            odd = sorted(found ^ expected)
            raise DataFormatError("holds other data than the first", field="episode", frame=number, found=odd)
        for name in {"action", "observation.state"} & expected:
            first = columns[name][0].as_py()
            width, wanted = len(first) if isinstance(first, list) else 1, self.features[name]["shape"][0]
            if width != wanted:
                raise DataFormatError("has another width", field=name, frame=number, found=width, expected=wanted)


def write_meta(root: Path, *, rows: list[dict[str, Any]], tasks: list[str], files: Mapping[str, Any]) -> None:
    """Write meta/: the tables of episodes and of tasks, and what the JSON `files` hold."""
    (root / layout.EPISODE_TABLE).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / layout.EPISODE_TABLE)
    pq.write_table(task_table(tasks), root / layout.TASKS)
    for file, value in files.items():
        (root / file).write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


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
        fix = "give the fps they have, or place them by their times: scene4d convert --resync nearest"
        found, expected = f"{float(times[frame]):.4f} s", f"{float(times[0]) + frame / fps:.4f} s"
        problem = f"frames of episode {number} are not evenly spaced"
        raise TimestampError(problem, field="times", frame=frame, found=found, expected=expected, fix=fix)
