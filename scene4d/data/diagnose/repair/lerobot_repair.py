"""A LeRobot v3 data set whose recording was cut short: the longest run of whole episodes, copied to a new folder.

The input is only read. What is kept has been verified: every row is there, every stored image and every frame of video
decodes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from scene4d.data.diagnose.repair.video_cut import copy_video, whole_frames
from scene4d.data.files.paths import inside_folder
from scene4d.data.formats.lerobot import lerobot_layout as layout
from scene4d.data.formats.lerobot.lerobot_tables import images_of, numbers_of, open_parquet
from scene4d.data.video.pictures import picture_from_bytes
from scene4d.disk_errors import refuse_shortage
from scene4d.errors import DataFormatError, Scene4DError, VersionError
from scene4d.files import atomic_folder

pc: Any = pyarrow.compute  # its functions are made when it is imported, so no type is known of them


@dataclasses.dataclass(frozen=True)
class _Damage:
    """What ends the run of whole episodes."""

    episode: int
    file: str
    problem: str


def repair_lerobot(
    path: str | os.PathLike, output: str | os.PathLike, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Copy the longest verified prefix of a data set; the folder appears when all is written.

    Files of which all episodes are kept are copied byte by byte; tables and videos that also hold others are cut, the
    latter without encoding anew where that keeps every picture.

    Returns:
        {episodes, frames: kept; dropped_episodes, dropped_frames; reason: None or {episode, file, problem}; cut: files;
        reencoded: videos}.
    Raises:
        VersionError: another version of the format. DataFormatError: meta/ cannot be read, or no episode is whole.
        ResourceError: `output` exists or cannot be written. SecurityError: a path leads out of the folder.
    """
    root = Path(path)
    info = layout.read_info(root)
    if not str(info["codebase_version"]).startswith("v3"):
        fix = "episodes of v2 are files of their own: leave out the damaged ones, the reader passes over them"
        found = info["codebase_version"]
        raise VersionError("cannot be repaired", file=root / layout.INFO, found=found, expected="v3", fix=fix)
    episodes, damage = _listed(root)
    source = _Source(root, info=info, episodes=episodes)
    kept, damage = source.whole_episodes(damage, progress=progress)
    if not kept:
        where = {"file": root, "field": "episodes"} if damage is None else {"file": damage.file, "field": "episode 0"}
        problem = "no episode is whole" if damage is None else f"no episode is whole: {damage.problem}"
        raise DataFormatError(problem, **where, fix="nothing can be kept: record again")
    with atomic_folder(output) as target:
        cut, reencoded = source.write(target, kept)
    frames = int(sum(episodes["length"].to_pylist()[:kept]))
    total = max(info["total_episodes"], len(episodes))
    return {
        "episodes": kept,
        "frames": frames,
        "dropped_episodes": max(0, total - kept),
        "dropped_frames": max(0, max(info["total_frames"], int(pc.sum(episodes["length"]).as_py())) - frames),
        "reason": None if damage is None else dataclasses.asdict(damage),
        "cut": cut,
        "reencoded": reencoded,
    }


def _listed(root: Path) -> tuple[pa.Table, _Damage | None]:
    """The rows of meta/episodes from episode 0 on without a gap, and what ends them before their time."""
    parts, damage = [], None
    files = sorted((root / layout.EPISODES).glob("chunk-*/file-*.parquet"))
    for file in files:
        inside_folder(root, str(file.relative_to(root)), file=root / layout.INFO)
        try:
            parts.append(open_parquet(file).read())
        except (Scene4DError, pa.ArrowException, OSError) as error:
            refuse_shortage(error, file=file)
            damage = _Damage(sum(map(len, parts)), str(file.relative_to(root)), _message(error))
            break
    needed = {"episode_index", "length", "data/chunk_index", "data/file_index"}
    if not parts or not needed <= set(parts[0].column_names):
        where = {"file": root / layout.EPISODES, "field": "episode_index"}
        found = "no file" if not files else (damage.problem if damage else parts[0].column_names)
        fix = "without the list of episodes nothing tells which frames belong together"
        raise DataFormatError("the list of episodes cannot be read", **where, found=found, fix=fix)
    table = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
    table = table.take(pc.sort_indices(table["episode_index"]))
    numbers, lengths = table["episode_index"].to_pylist(), table["length"].to_pylist()
    right = [n == i and (k or 0) > 0 for i, (n, k) in enumerate(zip(numbers, lengths, strict=True))]
    run = right.index(False) if False in right else len(right)
    if run < len(right):
        damage = _Damage(run, layout.EPISODES, f"episode {run} is missing, doubled or empty")
    return table.slice(0, run), damage


class _Source:
    """The damaged data set: what of it is whole, and how to copy that."""

    def __init__(self, root: Path, *, info: dict[str, Any], episodes: pa.Table):
        self.root, self.info, self.episodes = root, info, episodes
        self.videos = [name for name, feature in info["features"].items() if feature.get("dtype") == "video"]
        self._tables: dict[Path, tuple[pa.Table, str | None]] = {}
        self._frames: dict[Path, tuple[int, str | None]] = {}

    def whole_episodes(
        self, damage: _Damage | None, *, progress: Callable[[int, int], None] | None
    ) -> tuple[int, _Damage | None]:
        """How many episodes from 0 on are whole, and what is wrong with the next."""
        for number in range(len(self.episodes)):
            problem = self._problem(number)
            if problem is not None:
                return number, problem
            if progress is not None:
                progress(number + 1, len(self.episodes))
        return len(self.episodes), damage

    def write(self, target: Path, kept: int) -> tuple[list[str], list[str]]:
        """Copy the first `kept` episodes to `target`; returns the files that were cut, and the videos encoded anew."""
        cut, reencoded = [], []
        for file, inside in self._data_files().items():
            relative = file.relative_to(self.root)
            if min(inside) < kept:
                cut += [str(relative)] * self._copy_table(file, target / relative, kept=kept)
        for key in self.videos:
            for file, inside in self._video_files(key).items():
                relative = file.relative_to(self.root)
                if min(inside) >= kept:
                    continue
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                last = max(n for n in inside if n < kept)
                found, ended = self._frames[file]
                frames = min(found, self._place(last, key)[1] + self.episodes["length"][last].as_py())
                if ended is None and (frames == found or kept == self.info["total_episodes"]):
                    shutil.copyfile(file, target / relative)
                    continue
                cut.append(str(relative))
                if not copy_video(file, target / relative, num_frames=frames, fps=float(self.info["fps"])):
                    reencoded.append(str(relative))
        self._copy_meta(target, kept)
        return cut, reencoded

    def _problem(self, number: int) -> _Damage | None:
        file = self._data_file(number)
        name = str(file.relative_to(self.root))
        table, ended = self._table(file)
        length = self.episodes["length"][number].as_py()
        known = "episode_index" in table.column_names
        rows = table.filter(pc.equal(table["episode_index"], number)) if known else table[:0]
        if len(rows) != length or rows["frame_index"].to_pylist() != list(range(length)):
            return _Damage(number, name, ended or f"{len(rows)} of {length} rows are there")
        try:
            self._check_values(rows, file=file)
        except Scene4DError as error:
            return _Damage(number, name, _message(error))
        for key in self.videos:
            if not self.info.get("video_path") or self._where(number, f"videos/{key}") is None:
                return _Damage(number, layout.EPISODES, f"does not name its video of {key}")
            video, first = self._place(number, key)
            if video not in self._frames:
                self._frames[video] = whole_frames(video)
            found, ended = self._frames[video]
            # The reader shows the last frame twice where a finished video lacks one.
            if found + (ended is None) < first + length:
                problem = ended or f"holds {found} frames, {first + length} are needed"
                return _Damage(number, str(video.relative_to(self.root)), problem)
        return None

    def _table(self, file: Path) -> tuple[pa.Table, str | None]:
        """The rows that can be read, and why there are no more."""
        if file not in self._tables:
            groups, ended = [], None
            try:
                source = open_parquet(file)
                for k in range(source.metadata.num_row_groups):
                    groups.append(source.read_row_group(k))
            except (Scene4DError, pa.ArrowException, OSError) as error:
                refuse_shortage(error, file=file)
                ended = _message(error)
            # One table at a time: episodes come file after file.
            self._tables = {file: (pa.concat_tables(groups) if groups else pa.table({}), ended)}
        return self._tables[file]

    def _check_values(self, rows: pa.Table, *, file: Path) -> None:
        for name, feature in self.info["features"].items():
            kind = feature.get("dtype")
            if kind == "video":
                continue
            if name not in rows.column_names:
                raise DataFormatError("a column is missing", file=file, field=name)
            if kind == "image":
                for i, data in enumerate(images_of(rows[name], name=name, file=file)):
                    picture_from_bytes(data, file=file, field=name, frame=i)
            elif kind != "string":
                numbers_of(rows, name, shape=feature["shape"], file=file)

    def _where(self, number: int, prefix: str) -> dict[str, Any] | None:
        values = {}
        for key in ("chunk_index", "file_index"):
            column = f"{prefix}/{key}"
            values[key] = self.episodes[column][number].as_py() if column in self.episodes.column_names else None
        return None if None in values.values() else values

    def _place(self, number: int, key: str) -> tuple[Path, int]:
        """The video of an episode, and the index of its first frame there."""
        place = self._where(number, f"videos/{key}") or {}
        file = layout.file_path(self.root, self.info, field="video_path", video_key=key, **place)
        start = f"videos/{key}/from_timestamp"
        seconds = self.episodes[start][number].as_py() if start in self.episodes.column_names else 0.0
        return file, round((seconds or 0.0) * float(self.info["fps"]))

    def _data_file(self, number: int) -> Path:
        return layout.file_path(self.root, self.info, field="data_path", **(self._where(number, "data") or {}))

    def _data_files(self) -> dict[Path, list[int]]:
        found: dict[Path, list[int]] = {}
        for number in range(len(self.episodes)):
            found.setdefault(self._data_file(number), []).append(number)
        return found

    def _video_files(self, key: str) -> dict[Path, list[int]]:
        found: dict[Path, list[int]] = {}
        for number in range(len(self.episodes)):
            if self._where(number, f"videos/{key}") is not None:
                found.setdefault(self._place(number, key)[0], []).append(number)
        return found

    def _copy_table(self, file: Path, target: Path, *, kept: int) -> bool:
        """Copy the rows of kept episodes; returns whether others were left out."""
        target.parent.mkdir(parents=True, exist_ok=True)
        table, ended = self._table(file)
        rows = table.filter(pc.less(table["episode_index"], kept))
        if ended is None and len(rows) == len(table):
            shutil.copyfile(file, target)
            return False
        pq.write_table(rows, target, compression="zstd")
        return True

    def _copy_meta(self, target: Path, kept: int) -> None:
        (target / layout.EPISODE_TABLE).parent.mkdir(parents=True)
        rows = self.episodes.slice(0, kept)
        for key in ("chunk_index", "file_index"):
            name = f"meta/episodes/{key}"
            if name in rows.column_names:
                at = rows.column_names.index(name)
                rows = rows.set_column(at, name, pa.array(np.zeros(kept, np.int64)))
        pq.write_table(rows, target / layout.EPISODE_TABLE)
        beside = [*sorted((self.root / "meta").iterdir()), *sorted(self.root.iterdir())]
        for file in filter(Path.is_file, beside):
            relative = file.relative_to(self.root)
            inside_folder(self.root, str(relative), file=file)  # links that lead out are refused
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / relative)
        info = {**self.info, "total_episodes": kept, "total_frames": sum(rows["length"].to_pylist())}
        info |= {"splits": {"train": f"0:{kept}"}} if kept < self.info["total_episodes"] else {}
        info |= {"total_videos": kept * len(self.videos)} if "total_videos" in info else {}
        (target / layout.INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
        # Statistics of all episodes would be wrong for fewer, and a training would take them for true.
        if kept < self.info["total_episodes"]:
            (target / layout.STATS).unlink(missing_ok=True)


def _message(error: Exception) -> str:
    if isinstance(error, Scene4DError):
        return f"{error.problem}" + (f" (found {error.found})" if error.found is not None else "")
    return " ".join(str(error).split())[:160]
