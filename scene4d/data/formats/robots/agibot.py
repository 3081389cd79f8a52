"""AgiBot World (Alpha, Beta): observations/TASK/EPISODE/{videos, depth}; parameters, proprio_stats, task_info beside.

K is in parameters/TASK/EPISODE/parameters/camera/CAMERA_intrinsic_params.json, poses (camera-to-base, OpenCV) in
CAMERA_extrinsic_params_aligned.json beside it, one a frame; states in proprio_stats/TASK/EPISODE/proprio_stats.h5,
texts in task_info/task_TASK.json. Pictures run at 30 a second, a row of states each; depth is in mm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses, inverse_poses
from scene4d.data.cameras.lens import checked_lens, lens_or_none
from scene4d.data.cameras.sidecar import CameraEntry, Supplied, find_cameras
from scene4d.data.files.json_files import MAX_BYTES, matrix_of, read_json
from scene4d.data.files.paths import natural_order
from scene4d.data.formats.hdf5.hdf5 import numbers, open_h5
from scene4d.data.formats.robots.rig_times import rig_times
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View, recording_of
from scene4d.data.video.images import image_size
from scene4d.data.video.pictures import DepthFiles, VideoFrames
from scene4d.data.video.video import video_facts
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import LeftOut, with_left_out

OBSERVATIONS, COLOR = "observations", "_color.mp4"
ENDS = "state/end/position", "state/end/orientation", "state/effector/position"
JOINTS = "state/joint/position"
DISTORTION = ("k1", "k2", "p1", "p2", "k3")
LEFT_RIGHT = ("left", "right")


@dataclass(frozen=True)
class _Episode:
    """Where the parts of an episode are."""

    root: Path
    task: str
    episode: str

    @property
    def pictures(self) -> Path:
        """Its videos and depth."""
        return self.root / OBSERVATIONS / self.task / self.episode

    @property
    def cameras(self) -> Path:
        """Its calibration."""
        return self.root / "parameters" / self.task / self.episode / "parameters" / "camera"

    @property
    def states(self) -> Path:
        """Its table of states."""
        return self.root / "proprio_stats" / self.task / self.episode / "proprio_stats.h5"


def is_agibot(folder: Path) -> bool:
    """Whether a folder is the data set, one of its tasks, or one of its episodes: videos, and a companion of theirs."""
    root = _place(folder)[0]
    companions = ("proprio_stats", "parameters", "task_info")
    return root is not None and any((root / name).is_dir() for name in companions) and bool(_episodes(folder, most=1))


def open_agibot(folder: Path, *, supplied: Supplied) -> list[TableRecording]:
    """Every episode, in order of tasks and episodes; actions are the state at the next frame.

    Raises:
        DataFormatError: numbers of frames differ, or tables are damaged. CalibrationError: no calibration, or an
            impossible one. VideoError: a video cannot be opened. EnvError: h5py is not installed.
    """
    return [_open(episode, supplied) for episode in _episodes(folder)]


def _place(folder: Path) -> tuple[Path | None, str, str]:
    """The data set that a folder is, or is a part of, and which task and episode of it ("": every one)."""
    folder = folder.absolute()
    for root in (folder, *folder.parents[:3]):
        names = folder.relative_to(root).parts
        if (root / OBSERVATIONS).is_dir() and names[:1] in ((), (OBSERVATIONS,)):
            task, episode = (*names[1:], "", "")[:2]
            return root, task, episode
    return None, "", ""


def _episodes(folder: Path, *, most: int = 1_000_000) -> list[_Episode]:
    root, task, episode = _place(folder)
    if root is None:
        return []
    inside = lambda place: sorted((p for p in place.iterdir() if p.is_dir()), key=lambda p: natural_order(p.name))
    found: list[_Episode] = []
    for of_task in [p for p in inside(root / OBSERVATIONS) if task in ("", p.name)]:
        for path in [p for p in inside(of_task) if episode in ("", p.name)]:
            if any((path / "videos").glob(f"*{COLOR}")):
                found.append(_Episode(root, of_task.name, path.name))
            if len(found) >= most:
                return found
    return found


def _open(episode: _Episode, supplied: Supplied) -> TableRecording:
    videos = {p.name.removesuffix(COLOR): p for p in sorted((episode.pictures / "videos").glob(f"*{COLOR}"))}
    facts = {name: video_facts(path) for name, path in videos.items()}
    sizes = {name: (f.width, f.height) for name, f in facts.items()}
    columns, num_rows, entries = _states(episode.states)
    cameras, known, poses, lost = _calibrated(episode, sizes, supplied=supplied)
    used = {name: facts[name] for name in cameras}
    poses = {n: np.repeat(p, facts[n].num_frames, 0) if len(p) == 1 else p for n, p in poses.items()}  # it stands still
    counts = {n: len(p) for n, p in poses.items() if len(p) != facts[n].num_frames}
    if counts:
        found = {name: (count, facts[name].num_frames) for name, count in counts.items()}
        raise CalibrationError("poses and frames differ", file=episode.cameras, field=",".join(counts), found=found)
    matched = rig_times(episode.pictures, used, videos=videos, num_rows=num_rows)
    views = {}
    for name, entry in cameras.items():
        index = matched.frames[name]
        depth, missing = _depth(episode, name, index=index, size=sizes[name])
        entries += [missing] if missing else []
        viewmats, usable = entry.viewmat, None
        if viewmats is None:
            labels = [f"{name} {i}" for i in range(len(poses[name]))]
            every, finite = checked_poses(poses[name], names=labels, file=episode.cameras)
            viewmats, usable = every[index], None if finite.all() else finite[index]
        views[name] = View(
            size=sizes[name],
            Ks=entry.K,
            viewmats=viewmats,
            color=VideoFrames(videos[name], chosen=tuple(index.tolist())),
            depth=depth,
            lens=entry.lens,
            usable=usable,
        )
    states = None if not columns else np.concatenate(list(columns.values()), 1)[matched.rows]
    names = ENDS if all(name in columns for name in ENDS) else tuple(columns)
    actions = None if not columns else np.concatenate([columns[n] for n in names], 1)[matched.rows]
    whole = FrameTable(views=views, times=matched.times, actions=actions, goals=True, proprio=states)
    text, listed = _texts(episode)
    info = {
        "source": "AgiBot World",
        "task": text,
        "robot": "AgiBot G1",
        "units": "m",
        "action_meaning": "state at the next frame, absolute",
        "action_spec": [row for name in names for row in _spec(name, columns[name].shape[1])],
        "proprio_spec": [row for name in columns for row in _spec(name, columns[name].shape[1])],
        **known,
    }
    others = sorted(p.name for p in (episode.pictures / "videos").iterdir() if not p.name.endswith(COLOR))
    entries += [*matched.entries, lost, listed, LeftOut("other_files", "files", tuple(others), "not read", lost=False)]
    return recording_of(whole, path=episode.pictures, fps=matched.fps, info=with_left_out(info, *entries))


def _states(path: Path) -> tuple[dict[str, np.ndarray], int | None, list[LeftOut]]:
    """Columns [t n] by name, how many rows there are, and what is not read."""
    if not path.is_file():
        entry = LeftOut(
            "missing_files", "proprio", (path.name,), "no states: pictures are read without them", "copy it"
        )
        return {}, None, [entry]
    table = open_h5(path)
    arrays = table.arrays()
    known = {name: item for name in (*ENDS, JOINTS) if (item := arrays.get(name)) is not None and len(item)}
    num_rows = min((len(item) for item in known.values()), default=None)
    columns = {
        name: numbers(table, name, path=path, count=len(item)) for name, item in known.items() if len(item) == num_rows
    }
    others = tuple(name for name in arrays if name not in columns)
    return columns, num_rows, [LeftOut("unused_columns", "columns", others, "not read", lost=False)]


def _calibrated(
    episode: _Episode, sizes: Mapping[str, tuple[int, int]], *, supplied: Supplied
) -> tuple[dict[str, CameraEntry], dict[str, Any], dict[str, np.ndarray], LeftOut]:
    """Cameras, notes on them, the recording's own poses [t 4 4] camera-from-base, and the pictures that have none."""
    places = [episode.pictures / "cameras.json", episode.root / "cameras.json"]
    cameras: dict[str, CameraEntry] = {}
    poses: dict[str, np.ndarray] = {}
    nobody = LeftOut("no_calibration", "cameras", (), "")
    if supplied.cameras is None and not any(p.is_file() for p in places):
        for name, size in sizes.items():
            found = _own(episode.cameras, name, size=size)
            if found is not None:
                cameras[name], poses[name] = found
        if cameras:
            lost = tuple(name for name in sizes if name not in cameras)
            reason = "no parameters: these pictures are left out"
            return cameras, {}, poses, LeftOut("no_calibration", "cameras", lost, reason, "add them to cameras.json")
    found, known = find_cameras(
        places, sizes=sizes, columns=(), supplied=supplied, what="the data set without parameters"
    )
    return {e.rgb: e for e in found.values()}, known, {}, nobody


def _own(folder: Path, name: str, *, size: tuple[int, int]) -> tuple[CameraEntry, np.ndarray] | None:
    """A camera of the recording's own parameters; None where they are not there."""
    inside = folder / f"{name}_intrinsic_params.json"
    outside = next(
        (p for end in ("_aligned", "") if (p := folder / f"{name}_extrinsic_params{end}.json").is_file()), None
    )
    if outside is None or not inside.is_file():
        return None
    stated = read_json(inside, fix="copy it again").get("intrinsic")
    stated = stated if isinstance(stated, dict) else {}
    values = matrix_of([stated.get(key) for key in ("fx", "fy", "ppx", "ppy")])
    if values.shape != (4,):
        where = {"file": inside, "field": "intrinsic", "found": sorted(stated)}
        raise CalibrationError("is no camera", **where, expected=["fx", "fy", "ppx", "ppy"])
    fx, fy, cx, cy = values
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    K = checked_intrinsics(K, width=size[0], height=size[1], file=inside, camera=name)
    lens = lens_or_none(matrix_of([stated.get(key, 0.0) for key in DISTORTION]))
    entry = CameraEntry(
        width=size[0], height=size[1], K=K, viewmat=None, viewmats=outside.name, rgb=name,
        lens=checked_lens(lens, K, size=size, file=inside, camera=name),
    )  # fmt: skip
    return entry, inverse_poses(_poses(outside))


def _poses(path: Path) -> np.ndarray:
    """Base-from-camera [t 4 4]; what is not finite stays so."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("is too large")
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError("cannot be read", file=path, found=str(error)[:80], fix="copy it again") from error
    rows = rows if isinstance(rows, list) else [rows]
    stated = [row.get("extrinsic", row) if isinstance(row, dict) else {} for row in rows]
    stated = [row if isinstance(row, dict) else {} for row in stated]
    turns = matrix_of([row.get("rotation_matrix") for row in stated])
    shifts = matrix_of([row.get("translation_vector") for row in stated])
    if turns.shape != (len(rows), 3, 3) or shifts.size != 3 * len(rows):
        raise CalibrationError("is no pose a frame", file=path, expected="rotation_matrix 3x3, translation_vector 3")
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3, :3], matrices[:, :3, 3] = turns, shifts.reshape(-1, 3)
    return matrices


def _depth(
    episode: _Episode, name: str, *, index: np.ndarray, size: tuple[int, int]
) -> tuple[DepthFiles | None, LeftOut | None]:
    """Depth of the frames that are read, or why there is none."""
    files = {
        int(m.group(1)): p
        for p in (episode.pictures / "depth").glob(f"{name}_depth_*.png")
        if (m := re.search(r"_(\d+)\.png$", p.name))
    }
    if not files:
        return None, None
    first = min(files)  # files are numbered from 0 or from 1
    lacking = [f"frame {i}" for i in index.tolist() if i + first not in files]
    fix = "copy the depth pictures again"
    if lacking:
        return None, LeftOut(
            "missing_depth", "depth", tuple(lacking), "no depth picture: the camera is read without depth", fix, name
        )
    paths = [files[i + first] for i in index.tolist()]
    found = image_size(paths[0])
    if found != size:
        reason = f"depth is {found}, colour is {size}, and no K of its own is known: it is not read"
        return None, LeftOut("other_size", "depth", (f"{name}_depth",), reason, "register depth to colour", name)
    return DepthFiles(paths, unit=0.001, size=size), None


def _texts(episode: _Episode) -> tuple[str, LeftOut]:
    """What the task is, and the texts of its parts, which are not read."""
    path = episode.root / "task_info" / f"task_{episode.task}.json"
    nothing = LeftOut("other_texts", "task", (), "")
    if not path.is_file():
        return "", nothing
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < MAX_BYTES else []
    except (OSError, ValueError, RecursionError) as error:
        raise DataFormatError("is no JSON", file=path, found=str(error)[:80], fix="copy it again") from error
    rows = [row for row in (rows if isinstance(rows, list) else []) if isinstance(row, dict)]
    mine = next((row for row in rows if str(row.get("episode_id")) == episode.episode), {})
    parts = mine.get("label_info")
    parts = parts.get("action_config") if isinstance(parts, dict) else None
    texts = [str(p.get("action_text")) for p in (parts if isinstance(parts, list) else []) if isinstance(p, dict)]
    return str(mine.get("task_name") or ""), LeftOut(
        "other_texts", "task", tuple(texts), "texts of parts are not read", lost=False
    )


def _spec(name: str, width: int) -> list[dict[str, Any]]:
    """Names of the columns of both arms, the left one first."""
    kind = name.split("/", 1)[1]
    axes = {"end/position": "xyz", "end/orientation": ("qx", "qy", "qz", "qw"), "effector/position": ("gripper",)}.get(
        kind
    )
    unit = {"end/position": "m", "end/orientation": "1", "joint/position": "rad"}.get(kind)
    frame = "robot base" if kind.startswith("end") else "joint"
    if axes is not None and width == 2 * len(axes):
        return [{"name": f"{side}_{axis}", "unit": unit, "frame": frame} for side in LEFT_RIGHT for axis in axes]
    return [{"name": f"{kind.replace('/', '_')}{i}", "unit": unit, "frame": frame} for i in range(width)]
