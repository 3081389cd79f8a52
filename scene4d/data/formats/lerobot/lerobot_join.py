"""LeRobot v3 folders of one episode each, joined into one data set; the parts stay as they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scene4d.data.files.json_files import read_json
from scene4d.data.formats.lerobot import lerobot_layout as layout
from scene4d.data.formats.lerobot.lerobot_tables import open_parquet
from scene4d.data.formats.lerobot.lerobot_write import CHUNK_SIZE, PARQUET, write_meta
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.files import atomic_folder

REPORT = "report.json"
_FIX = "leave out what not all have (--cameras, --no-segments), or convert such episodes to a data set of their own"
_SOURCE = {"chunk_index": 0, "file_index": 0}


def join_lerobot(path: str | os.PathLike, parts: Sequence[Path], *, report: Mapping[str, Any]) -> dict[str, Any]:
    """Write one data set with the episode of each part, in order, and report.json beside its meta/.

    Tables are written anew (their indices count on), videos are linked or copied.

    Returns:
        {"path", "episodes", "frames", "bytes"}.
    Raises:
        DataFormatError: no part, or parts hold different data. CalibrationError: cameras differ between parts.
        ResourceError: the folder exists already, or cannot be written.
    """
    if not parts:
        raise DataFormatError("there is no episode to write", file=path, fix="see what was skipped")
    info, cameras = read_json(parts[0] / layout.INFO, fix=""), read_json(parts[0] / layout.CAMERAS, fix="")
    videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    tasks: list[str] = []
    rows: list[dict[str, Any]] = []
    stats: list[dict[str, Any]] = []
    with atomic_folder(path) as root:
        for number, part in enumerate(parts):
            must_match(parts[0], part)
            row = _row(part, number=number, first=rows[-1]["dataset_to_index"] if rows else 0, videos=videos)
            tasks += [task for task in row["tasks"] if task not in tasks]
            _copy(root, part, row=row, tasks=tasks, videos=videos)
            rows.append(row)
            stats.append(read_json(part / layout.STATS, fix=""))
        frames = rows[-1]["dataset_to_index"]
        info |= {"total_episodes": len(rows), "total_frames": frames, "total_tasks": len(tasks)}
        info |= {"splits": {"train": f"0:{len(rows)}"}, "chunks_size": CHUNK_SIZE}
        merged = {name: _merged([s[name] for s in stats]) for name in stats[0]}
        files = {layout.INFO: info, layout.CAMERAS: cameras, layout.STATS: merged}
        write_meta(root, rows=rows, tasks=tasks, files=files)
        counted = {**report, "episodes": len(rows), "frames": frames}
        (root / REPORT).write_text(json.dumps(counted, indent=2) + "\n", encoding="utf-8")
        size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    return {"path": str(path), "episodes": len(rows), "frames": frames, "bytes": size}


def must_match(first: Path, part: Path) -> None:
    """Whether a part can stand beside the first in one data set.

    Raises:
        DataFormatError: it has other columns, sizes or another rate. CalibrationError: a camera differs.
    """
    if first == part:
        return
    ours, theirs = read_json(first / layout.INFO, fix=""), read_json(part / layout.INFO, fix="")
    for key in ("fps", "features"):
        if ours[key] != theirs[key]:
            found, expected = theirs[key], ours[key]
            if key == "features":
                names = sorted(n for n in {*ours[key], *theirs[key]} if ours[key].get(n) != theirs[key].get(n))
                found, expected = [f"{n}: {theirs[key].get(n)}" for n in names][:2], "those of the first episode"
            raise DataFormatError(f"{key} differ between episodes", field=key, found=found, expected=expected, fix=_FIX)
    ours, theirs = (read_json(p / layout.CAMERAS, fix="")["cameras"] for p in (first, part))
    for name in sorted({*ours, *theirs}):
        own, other = ours.get(name, {}), theirs.get(name, {})
        keys = [k for k in {**own, **other} if own.get(k) != other.get(k)]
        if keys and not (keys == ["K"] and "Ks" in own):  # K is that of the first frame then, and Ks of all of them
            found = f"other {keys}"
            raise CalibrationError("a camera differs between episodes", field=f"cameras.{name}", found=found, fix=_FIX)


def _row(part: Path, *, number: int, first: int, videos: Sequence[str]) -> dict[str, Any]:
    """The part's entry in the table of episodes, as the joined data set has it."""
    row = open_parquet(part / layout.EPISODE_TABLE).read().to_pylist()[0]
    place = {"chunk_index": number // CHUNK_SIZE, "file_index": number % CHUNK_SIZE}
    row |= {"episode_index": number, "dataset_from_index": first, "dataset_to_index": first + row["length"]}
    for prefix in ("data", *(f"videos/{name}" for name in videos)):
        row |= {f"{prefix}/{key}": value for key, value in place.items()}
    return row


def _copy(root: Path, part: Path, *, row: Mapping[str, Any], tasks: Sequence[str], videos: Sequence[str]) -> None:
    """Tables and videos of a part, counted on; `tasks` are the texts of the joined data set."""
    place = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
    first, length = row["dataset_from_index"], row["length"]
    changed = {
        "episode_index": np.full(length, row["episode_index"]),
        "index": np.arange(first, first + length),
    }
    own = open_parquet(part / layout.TASKS).read()
    pairs = zip(own["task_index"].to_pylist(), own["task"].to_pylist(), strict=True)
    joined = {index: tasks.index(text) for index, text in pairs}
    source = open_parquet(part / layout.DATA_PATH.format(**_SOURCE))
    file = root / layout.DATA_PATH.format(**place)
    file.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(file, source.schema_arrow, **PARQUET) as writer:
        done = 0
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            renamed = {"task_index": [joined[index] for index in table["task_index"].to_pylist()]}
            for name, values in (renamed | {n: v[done : done + len(table)] for n, v in changed.items()}).items():
                values = pa.array(values, pa.int64())
                table = table.set_column(table.column_names.index(name), name, values)
            writer.write_table(table)
            done += len(table)
    for name in videos:
        source = part / layout.VIDEO_PATH.format(video_key=name, **_SOURCE)
        target = root / layout.VIDEO_PATH.format(video_key=name, **place)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # some file systems have no links
            shutil.copyfile(source, target)


def _merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Moments of all rows from those of the parts."""
    counts = np.array([p["count"][0] for p in parts], np.float64)
    means, deviations = (np.array([p[key] for p in parts], np.float64) for key in ("mean", "std"))
    weights = (counts / counts.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (weights * means).sum(0)
    variance = (weights * (deviations**2 + (means - mean) ** 2)).sum(0)
    return {
        "min": np.min([p["min"] for p in parts], axis=0).tolist(),
        "max": np.max([p["max"] for p in parts], axis=0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(counts.sum())],
    }
