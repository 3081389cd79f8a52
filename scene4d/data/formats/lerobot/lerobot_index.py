"""Which episodes a LeRobot data set has, how long they are and where their tables and videos lie, as columns."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from scene4d.data.files.paths import inside_folder
from scene4d.data.formats.lerobot import lerobot_layout as layout
from scene4d.data.formats.lerobot.lerobot_tables import open_parquet, whole_table
from scene4d.data.video.pictures import VideoFrames
from scene4d.data.video.video import count_frames
from scene4d.errors import DataFormatError, TimestampError
from scene4d.ledger import LeftOut, with_left_out

pc: Any = pyarrow.compute  # its functions are made when it is imported, so no type is known of them

EPISODES_V2, TASKS_V2 = "meta/episodes.jsonl", "meta/tasks.jsonl"
_PLACE = ("chunk_index", "file_index")


@dataclass(frozen=True)
class EpisodeIndex:
    """The episodes of a data set, one row each in order of their index."""

    root: Path
    info: Mapping[str, Any]
    table: pa.Table
    """episode_index, length, tasks, and for v3.0 where data and videos are."""
    tasks: Mapping[int, str]
    notes: tuple[LeftOut, ...] = ()
    """Episodes that are not read, and numbers that no episode has."""

    @property
    def packed(self) -> bool:
        """Whether episodes share files (v3.0)."""
        return str(self.info["codebase_version"]).startswith("v3")

    def value(self, row: int, column: str) -> Any:
        """One entry of the table, None where there is no such column."""
        return self.table[column][row].as_py() if column in self.table.column_names else None

    def place(self, row: int, *, video_key: str | None = None) -> dict[str, Any]:
        """What fills the path template of an episode's table, or of its video."""
        if not self.packed:
            number = self.value(row, "episode_index")
            chunk = number // max(1, int(self.info.get("chunks_size") or 1000))
            return {"episode_index": number, "episode_chunk": chunk} | ({"video_key": video_key} if video_key else {})
        prefix = "data" if video_key is None else f"videos/{video_key}"
        values = {key: self.value(row, f"{prefix}/{key}") for key in _PLACE}
        if None in values.values():
            where = {"file": self.root / layout.EPISODES, "field": f"{prefix}/{_PLACE[0]}"}
            number = self.value(row, "episode_index")
            raise DataFormatError("an episode does not name its video", **where, frame=number)
        return values | ({"video_key": video_key} if video_key else {})

    def data_file(self, row: int) -> Path:
        """The table of an episode."""
        return layout.file_path(self.root, self.info, field="data_path", **self.place(row))

    def has_images(self, row: int, key: str) -> bool:
        """Whether a feature's images are there: in the tables, or in a video."""
        if self.info["features"][key].get("dtype") != "video" or not isinstance(self.info.get("video_path"), str):
            return True
        return self._video_file(row, key).is_file()

    def _video_file(self, row: int, key: str) -> Path:
        return layout.file_path(self.root, self.info, field="video_path", **self.place(row, video_key=key))

    def rows_in_file(self, row: int) -> int:
        """Frames of all episodes that share an episode's table."""
        if not self.packed:
            return int(self.value(row, "length"))
        return int(self._lengths(self._sharing(row, "data")).sum())

    def video(self, row: int, key: str) -> tuple[VideoFrames, dict[str, Any]]:
        """An episode's frames in the video that holds them, and notes on them.

        Frames are found by counting those of the episodes before, not by their time stamps, whose rounding adds up.

        Raises:
            VideoError: the video cannot be opened. TimestampError: the episode lies beyond its end.
            DataFormatError: the numbers of frames differ by more than one.
        """
        file = self._video_file(row, key)
        found, length = count_frames(file), int(self.value(row, "length"))
        if not self.packed:
            return self._clipped(file, key, found=found, expected=length, first=0)
        sharing, fps = self._sharing(row, f"videos/{key}"), float(self.info["fps"])
        starts, lengths = self._starts(sharing, key), self._lengths(sharing)
        order = np.argsort(starts, kind="stable")
        counted = np.zeros(len(starts), int)
        counted[order] = np.concatenate([[0], np.cumsum(lengths[order])[:-1]])
        mine = int(np.flatnonzero(sharing == row)[0])
        stamped = np.rint(starts * fps).astype(int)
        if found == lengths.sum():
            drift = 1e3 * (starts[mine] - counted[mine] / fps)
            notes = _drifted(key, drift) if abs(drift) > 0.5e3 / fps else {}
            return VideoFrames(file, first=int(counted[mine])), notes
        # Videos from which episodes were taken out keep their frames: the time stamps then show where the others are.
        if stamped[mine] > found:
            where = {"file": file, "field": f"videos/{key}/from_timestamp", "frame": self.value(row, "episode_index")}
            where |= {"found": f"{starts[mine]:.3f} s", "expected": f"<= {found / fps:.3f} s"}
            fix = "copy the video again, or leave the episode out"
            raise TimestampError("an episode starts beyond the end of its video", **where, fix=fix)
        expected = int((stamped + lengths).max())
        return self._clipped(file, key, found=found, expected=expected, first=int(stamped[mine]))

    def _clipped(
        self, file: Path, key: str, *, found: int, expected: int, first: int
    ) -> tuple[VideoFrames, dict[str, Any]]:
        """Frames of a video that may lack, or have, one frame more than there are rows."""
        if abs(found - expected) > 1:
            numbers = f"{found} frames of video, {expected} rows, total_frames {self.info['total_frames']}"
            problem = "the numbers of frames differ"
            raise DataFormatError(problem, file=file, field=key, found=numbers, expected="one frame of video a row")
        if found == expected:
            return VideoFrames(file, first=first), {}
        reason = f"{found} frames of video, {expected} rows: the last is clamped"
        notes = with_left_out({}, LeftOut("frame_counts", "frames", (key,), reason, "copy the video again"))
        return VideoFrames(file, first=first, last=found - 1), notes

    def _sharing(self, row: int, prefix: str) -> np.ndarray:
        """Rows of the episodes whose data or video is in the same file."""
        same = [pc.equal(self.table[f"{prefix}/{key}"], self.table[f"{prefix}/{key}"][row]) for key in _PLACE]
        return np.flatnonzero(pc.and_(*same).to_numpy(zero_copy_only=False))

    def _lengths(self, rows: np.ndarray) -> np.ndarray:
        return self.table["length"].to_numpy()[rows].astype(int)

    def _starts(self, rows: np.ndarray, key: str) -> np.ndarray:
        """Where the episodes start in their video, s."""
        name = f"videos/{key}/from_timestamp"
        if name not in self.table.column_names:
            raise DataFormatError("a column is missing", file=self.root / layout.EPISODES, field=name)
        return self.table[name].to_numpy(zero_copy_only=False)[rows].astype(np.float64)


def read_index(root: Path, info: Mapping[str, Any]) -> EpisodeIndex:
    """meta/ of a data set, checked against itself and against the files that are there.

    Raises:
        DataFormatError: missing, damaged or contradicting. SecurityError: a path leads out of the folder.
    """
    packed = str(info["codebase_version"]).startswith("v3")
    table = _packed_table(root) if packed else _listed_table(root)
    where = {"file": root / (layout.EPISODES if packed else EPISODES_V2), "field": "episode_index"}
    numbers = table["episode_index"].to_numpy()
    expected = np.arange(info["total_episodes"])
    seen, counts = np.unique(numbers, return_counts=True)
    # Deleting an episode of v2 leaves a gap in the numbers; the count tells that none is missing. v3 counts on.
    whole = np.array_equal(seen, expected) if packed else len(seen) == len(expected)
    if not whole or len(seen) < len(numbers) or (numbers < 0).any():
        wrong = np.setxor1d(seen, expected).tolist() or seen[counts > 1].tolist()
        numbers = f"0..{len(expected) - 1}"
        raise DataFormatError("episodes are missing or doubled", **where, found=wrong[:10], expected=numbers)
    table = table.take(pa.array(np.argsort(numbers)))
    lengths = table["length"].to_numpy()
    if not (lengths > 0).all():
        raise DataFormatError("an episode has no frames", **{**where, "field": "length"}, frame=int(lengths.argmin()))
    index = EpisodeIndex(root=root, info=info, table=table, tasks=_tasks(root, packed=packed))
    if len(table):
        index.data_file(0)  # refuses templates that lead out before any is looked for
    there, unlisted = _present(root, [info["data_path"].format(**place) for place in _places(index)])
    if lengths.sum() != info["total_frames"]:
        files = sorted({index.data_file(row) for row in np.flatnonzero(there).tolist()})
        rows = sum(open_parquet(file).metadata.num_rows for file in files)
        found = f"total_frames {info['total_frames']}, sum of lengths {lengths.sum()}, rows of the tables {rows}"
        problem = "the numbers of frames differ"
        raise DataFormatError(problem, file=root / layout.INFO, field="total_frames", found=found)
    if not there.all() and (packed or not there.any()):
        file = index.data_file(int((~there).argmax()))
        raise DataFormatError("is missing", file=file, found=f"{(~there).sum()} tables", fix="was it copied whole?")
    notes = _notes(seen, there=there, unlisted=unlisted)
    return EpisodeIndex(root, info, table.filter(pa.array(there)), index.tasks, notes=notes)


def _notes(numbers: np.ndarray, *, there: np.ndarray, unlisted: Sequence[str]) -> tuple[LeftOut, ...]:
    """What is not read of the episodes of these increasing numbers [n], of which some are `there` [n].

    A gap in the numbers is no finding: nothing that the data set says it holds is missing by it.
    """
    before = np.concatenate([[-1], numbers])
    gaps = [(a + 1, b - 1) for a, b in zip(before[:-1].tolist(), numbers.tolist(), strict=True) if b - a > 1]
    free = tuple(str(a) if a == b else f"{a}-{b}" for a, b in gaps)
    missing, whole = tuple(map(str, numbers[~there].tolist())), "copy the data set whole"
    deleted = "no episode has these numbers: it was deleted, or left out when the rest was copied"
    fix = "add them to meta/, or remove the files"
    return (
        LeftOut("missing_episodes", "episodes", missing, "listed, but their tables are not there", whole),
        LeftOut("free_numbers", "episodes", free, deleted, lost=False),
        LeftOut("unlisted_episodes", "episodes", tuple(unlisted), "tables that meta/ does not list: not read", fix),
    )


def _places(index: EpisodeIndex) -> list[dict[str, Any]]:
    """`place` of every episode's table, by columns."""
    if not index.packed:
        return [index.place(row) for row in range(len(index.table))]
    columns = [index.table[f"data/{key}"].to_pylist() for key in _PLACE]
    return [dict(zip(_PLACE, values, strict=True)) for values in zip(*columns, strict=True)]


def _present(root: Path, relatives: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Which files are there [n], and other tables beside them; each folder is listed once, links must stay inside."""
    listed: dict[str, set[str]] = {}
    for folder in {os.path.dirname(name) for name in relatives}:
        inside = inside_folder(root, folder, file=root / layout.INFO)
        listed[folder] = set()
        if not inside.is_dir():
            continue
        with os.scandir(inside) as entries:
            for entry in entries:
                if entry.is_symlink():
                    inside_folder(root, os.path.join(folder, entry.name), file=root / layout.INFO)
                listed[folder].add(entry.name)
    there = np.array([os.path.basename(name) in listed[os.path.dirname(name)] for name in relatives], bool)
    tables = {os.path.join(folder, n) for folder, names in listed.items() for n in names if not n.startswith(".")}
    return there, sorted(name for name in tables - set(relatives) if name.endswith(".parquet"))


def _packed_table(root: Path) -> pa.Table:
    """meta/episodes of v3.0, without the statistics."""
    files = sorted((root / layout.EPISODES).glob("chunk-*/file-*.parquet"))
    if not files:
        expected = "chunk-000/file-000.parquet"
        raise DataFormatError("there is no table of episodes", file=root / layout.EPISODES, expected=expected)
    parts = []
    for file in files:
        source = open_parquet(file)
        columns = [name for name in source.schema_arrow.names if not name.startswith("stats/")]
        missing = {"episode_index", "length", "data/chunk_index", "data/file_index"} - set(columns)
        if missing:
            raise DataFormatError("a column is missing", file=file, field=min(missing), found=columns)
        parts.append(whole_table(source, columns=columns, file=file))
    return pa.concat_tables(parts, promote_options="permissive").combine_chunks()


def _listed_table(root: Path) -> pa.Table:
    """meta/episodes.jsonl of v2."""
    rows = _json_lines(root / EPISODES_V2, keys=("episode_index", "length"))
    tasks = [[str(t) for t in row.get("tasks") or []] if isinstance(row.get("tasks"), list) else [] for row in rows]
    columns = {key: pa.array([row[key] for row in rows], pa.int64()) for key in ("episode_index", "length")}
    return pa.table({**columns, "tasks": pa.array(tasks, pa.list_(pa.string()))})


def _json_lines(file: Path, *, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, each with whole numbers under `keys`."""
    rows = []
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
            if line.strip():
                row = json.loads(line)
                whole = isinstance(row, dict) and all(type(row.get(key)) is int and row[key] >= 0 for key in keys)
                if not whole:
                    found, expected = line[:80], f"whole numbers {list(keys)}"
                    raise DataFormatError("is no entry", file=file, frame=number + 1, found=found, expected=expected)
                rows.append(row)
    except FileNotFoundError as error:
        raise DataFormatError("is missing", file=file, fix="was the data set copied whole?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataFormatError("is not JSON lines", file=file, found=str(error)[:80]) from error
    return rows


def _tasks(root: Path, *, packed: bool) -> dict[int, str]:
    """Task texts by index."""
    if not packed:
        rows = _json_lines(root / TASKS_V2, keys=("task_index",))
        return {row["task_index"]: str(row.get("task", "")) for row in rows}
    file = root / layout.TASKS
    table = whole_table(open_parquet(file), columns=None, file=file)
    text = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
    if text is None or "task_index" not in table.column_names:
        raise DataFormatError("a column is missing", file=file, field="task", found=table.column_names)
    return dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))


def _drifted(key: str, drift_ms: float) -> dict[str, Any]:
    reason = f"its time stamps are {drift_ms:.1f} ms off its frames: frames are counted instead"
    return with_left_out({}, LeftOut("video_drift", "timestamp", (key,), reason, "nothing: the frames are right"))
