"""DROID's raw episodes: metadata_*.json, trajectory.h5, recordings/MP4/SERIAL.mp4 (SERIAL-stereo.mp4: both lenses).

Poses are camera-to-base as [x y z] in m and Euler angles about fixed axes x, y, z in rad (OpenCV axes), a row a step,
from trajectory.h5, else from the metadata: there the wrist camera's is that of the first step, and moves with the hand.
Intrinsics are inside the SVO files, which are not read: they come from intrinsics.json in the folder ({SERIAL:
{"cameraMatrix": [fx, cx, fy, cy]}}), from arrays observation/camera_intrinsics, from cameras.json, or from a field of
view. Source: the data set's own schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import checked_intrinsics, checked_poses, inverse_poses
from scene4d.data.cameras.sidecar import CameraEntry, Supplied, entries_of
from scene4d.data.files.json_files import matrix_of, read_json
from scene4d.data.formats.hdf5.hdf5 import array, numbers, open_h5
from scene4d.data.formats.hdf5.hdf5_guard import H5Array, H5Group
from scene4d.data.formats.robots.rig_times import RigTimes, rig_times
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View, recording_of
from scene4d.data.video.pictures import VideoFrames
from scene4d.data.video.video import video_facts
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.geometry.rotation import matrices_from_rotvecs
from scene4d.ledger import LeftOut, with_left_out

TABLE, VIDEOS, INTRINSICS = "trajectory.h5", "recordings/MP4", "intrinsics.json"
ROLES = ("wrist", "ext1", "ext2")
POSES, LENSES, STATE = "observation/camera_extrinsics", "observation/camera_intrinsics", "observation/robot_state"
FPS = 15.0
PROPRIO = (f"{STATE}/cartesian_position", f"{STATE}/joint_positions", f"{STATE}/gripper_position")
ACTIONS = ("action/cartesian_position", "action/gripper_position")
SIDES = ("left", "right")
COLUMNS = {
    "cartesian_position": [("x", "m"), ("y", "m"), ("z", "m"), ("roll", "rad"), ("pitch", "rad"), ("yaw", "rad")],
    "joint_positions": [(f"joint{i + 1}", "rad") for i in range(7)],
    "gripper_position": [("gripper", "1")],
}


@dataclass(frozen=True)
class _Source:
    """One lens of a camera: which video shows it, and which half of it."""

    name: str
    serial: str
    side: str
    file: Path
    halved: bool


@dataclass(frozen=True)
class HalfFrames(VideoFrames):
    """One half of side-by-side pictures."""

    right: bool = False

    def __call__(self, frames: Sequence[int], /) -> Iterator[np.ndarray]:
        """Pictures [h w 3] uint8."""
        for picture in super().__call__(frames):
            width = picture.shape[1] // 2
            yield np.ascontiguousarray(picture[:, width : 2 * width] if self.right else picture[:, :width])


def is_droid(folder: Path) -> bool:
    """Whether a folder is a raw episode."""
    return (folder / TABLE).is_file() and ((folder / VIDEOS).is_dir() or any(folder.glob("metadata_*.json")))


def open_droid(folder: Path, *, supplied: Supplied) -> TableRecording:
    """Open one episode; actions are the pose and gripper opening that a step asks for.

    Raises:
        DataFormatError: no videos, or tables that do not fit. CalibrationError: no intrinsics (with how to supply
            them), or impossible ones. VideoError: a video cannot be opened. EnvError: h5py is not installed.
    """
    metadata = next(iter(sorted(folder.glob("metadata_*.json"))), None)
    facts = {} if metadata is None else read_json(metadata, fix="copy it again")
    table = open_h5(folder / TABLE)
    arrays = table.arrays()
    sources, entries = _sources(folder, facts)
    length = _length(folder, arrays)
    video = {source.name: video_facts(source.file) for source in sources}
    sizes = {
        source.name: (video[source.name].width // (1 + source.halved), video[source.name].height) for source in sources
    }
    poses = {source.name: _poses((folder, table), facts, source=source, length=length) for source in sources}
    lenses, known = _lenses((folder, table), sources, sizes=sizes, supplied=supplied)
    matched = rig_times(folder, video, videos={source.name: source.file for source in sources}, num_rows=length)
    views, lost = {}, []
    for source in sources:
        if source.name not in lenses:
            lost.append(source.name)
            continue
        viewmats, usable = poses[source.name]
        given = lenses[source.name].viewmat
        views[source.name] = View(
            size=sizes[source.name],
            Ks=lenses[source.name].K,
            viewmats=viewmats[matched.rows] if given is None else given,
            color=_pictures(source, matched),
            lens=lenses[source.name].lens,
            usable=usable[matched.rows] if given is None and not usable.all() else None,
        )
    rows = lambda names: np.concatenate([numbers(table, n, path=folder / TABLE, count=length) for n in names], 1)
    proprio, actions = [n for n in PROPRIO if n in arrays], [n for n in ACTIONS if n in arrays]
    whole = FrameTable(
        views=views,
        times=matched.rows / FPS,
        actions=rows(actions)[matched.rows] if actions else None,
        proprio=rows(proprio)[matched.rows] if proprio else None,
    )
    info = {
        "source": "DROID",
        "task": str(facts.get("current_task") or table.text("current_task") or ""),
        "robot": "Franka Panda",
        "units": "m",
        "times": f"{FPS:g} a second, nominal",
        "action_spec": _spec(actions),
        "proprio_spec": _spec(proprio),
        **known,
    }
    read = {*proprio, *actions}
    entries += [
        LeftOut(
            "no_calibration",
            "cameras",
            tuple(lost),
            "no intrinsics: these pictures are left out",
            f"add them to {INTRINSICS}",
        ),
        _other_arrays(arrays, read),
        *matched.entries,
    ]
    return recording_of(whole, path=folder, fps=FPS, info=with_left_out(info, *entries))


def _sources(folder: Path, facts: Mapping[str, Any]) -> tuple[list[_Source], list[LeftOut]]:
    """Every lens that a video shows, and which files show none."""
    roles = {str(facts.get(f"{role}_cam_serial")): role for role in ROLES if facts.get(f"{role}_cam_serial")}
    files = {p.stem: p for p in sorted((folder / VIDEOS).glob("*.mp4"))} if (folder / VIDEOS).is_dir() else {}
    serials = dict.fromkeys(name.removesuffix("-stereo") for name in files)
    sources = []
    for serial in serials:
        name, stereo = roles.get(serial, serial), files.get(f"{serial}-stereo")
        mono = files.get(serial)
        if mono is not None:
            sources.append(_Source(name, serial, "left", mono, halved=False))
        elif stereo is not None:
            sources.append(_Source(name, serial, "left", stereo, halved=True))
        if stereo is not None:
            sources.append(_Source(f"{name}_right", serial, "right", stereo, halved=True))
    svo = sorted(p.relative_to(folder).as_posix() for p in (folder / "recordings").rglob("*.svo*"))
    missing = [f"{role} ({serial})" for serial, role in roles.items() if serial not in serials]
    entries = [
        LeftOut(
            "other_files",
            "files",
            tuple(svo),
            "SVO is read by its maker's library only; the videos are read",
            lost=False,
        ),
        LeftOut(
            "missing_videos",
            "images",
            tuple(missing),
            "the metadata names these cameras, and no video does",
            "copy them",
        ),
    ]
    if not sources:
        fix = "convert the SVO files to recordings/MP4/SERIAL.mp4"
        raise DataFormatError("holds no videos", file=folder, field=VIDEOS, found=svo[:3] or None, fix=fix)
    return sources, entries


def _length(folder: Path, arrays: Mapping[str, H5Array]) -> int:
    counts = {name: len(arrays[name]) for name in (*PROPRIO, *ACTIONS) if name in arrays and arrays[name].ndim}
    if len(set(counts.values())) != 1:
        where = {"file": folder / TABLE, "field": STATE, "found": counts or sorted(arrays)[:12]}
        raise DataFormatError("has no states, or not as many of each", **where, expected=[*PROPRIO, *ACTIONS])
    return next(iter(counts.values()))


def _poses(
    place: tuple[Path, H5Group], facts: Mapping[str, Any], *, source: _Source, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Camera-from-base [t 4 4] of every step, and which are usable."""
    folder, table = place
    name = f"{POSES}/{source.serial}_{source.side}"
    role = source.name.removesuffix("_right")
    stated = facts.get(f"{role}_cam_extrinsics")
    if table.get(name) is not None:
        array(table, name, path=folder / TABLE, width=(6,))
        values = np.asarray(numbers(table, name, path=folder / TABLE, count=length), np.float64)
        base_from_cam = _matrices(values)
    elif source.side == "left" and stated is not None:
        values = matrix_of(stated)
        if values.shape != (6,) or not np.isfinite(values).all():
            where = {"file": folder, "field": f"{role}_cam_extrinsics", "found": stated}
            raise CalibrationError("is no pose", **where, expected="[x, y, z, rx, ry, rz]")
        base_from_cam = np.repeat(_matrices(values[None]), length, 0)
        if role == "wrist":
            hand = _matrices(np.asarray(numbers(table, PROPRIO[0], path=folder / TABLE, count=length), np.float64))
            base_from_cam = hand @ inverse_poses(hand[:1]) @ base_from_cam
    else:
        fix = f"write its pose into {TABLE} as {name} [t 6], or into the metadata as {role}_cam_extrinsics"
        raise CalibrationError("a camera has no pose", file=folder, field=source.name, fix=fix)
    names = [f"{source.name} {i}" for i in range(length)]
    viewmats, usable = checked_poses(inverse_poses(base_from_cam), names=names, file=folder / TABLE)
    still = usable.all() and (np.abs(viewmats - viewmats[:1]).max() < 1e-12)
    return (np.repeat(viewmats[:1], length, 0) if still else viewmats), usable


def _matrices(values: np.ndarray) -> np.ndarray:
    """[t 4 4] of [t 6] positions and Euler angles."""
    matrices = np.tile(np.eye(4), (len(values), 1, 1))
    about_x, about_y, about_z = (matrices_from_rotvecs(values[:, i : i + 1] * np.eye(3)[i - 3]) for i in (3, 4, 5))
    matrices[:, :3, :3] = about_z @ about_y @ about_x
    matrices[:, :3, 3] = values[:, :3]
    return matrices


def _lenses(
    place: tuple[Path, H5Group], sources: Sequence[_Source], *, sizes: Mapping[str, tuple[int, int]], supplied: Supplied
) -> tuple[dict[str, CameraEntry], dict[str, Any]]:
    """Intrinsics of each lens as camera entries; a viewmat only where cameras.json gives one."""
    folder, table = place
    file = supplied.cameras or next((p for p in (folder / "cameras.json",) if p.is_file()), None)
    by_file = {source.file.name: source.name for source in sources if not source.halved}
    if file is not None:
        given = read_json(file, fix="write it as the documentation of cameras.json shows").get("cameras")
        known = {**sizes, **{name: sizes[source] for name, source in by_file.items()}}
        found = entries_of(given, file=file, sizes=known, columns=(), fit=supplied.fit)
        return {by_file.get(e.rgb, e.rgb): e for e in found.values()}, {}
    beside = folder / INTRINSICS
    stated = read_json(beside, fix="copy it again") if beside.is_file() else {}
    lenses = {}
    for source in sources:
        K = _stated_K(table, stated, source=source, path=folder / TABLE)
        width, height = sizes[source.name]
        if K is None and supplied.fov_deg is not None:
            focal = 0.5 * width / math.tan(math.radians(supplied.fov_deg) / 2)
            K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        if K is not None:
            K = checked_intrinsics(K, width=width, height=height, file=beside, camera=source.name)
            lenses[source.name] = CameraEntry(
                width=width, height=height, K=K, viewmat=None, viewmats=POSES, rgb=source.name
            )
    if not lenses:
        example = f'{{"{sources[0].serial}": {{"cameraMatrix": [fx, cx, fy, cy]}}}}'
        fix = f"write {beside} as {example}, or give a field of view"
        serials = sorted({source.serial for source in sources})
        raise CalibrationError(
            "there are no intrinsics", file=beside, field="cameras", found=f"images of {serials}", fix=fix
        )
    guessed = supplied.fov_deg is not None and not stated
    return lenses, (
        {"calibration": f"approximate: a guess of {supplied.fov_deg:g} deg; poses are recorded"} if guessed else {}
    )


def _stated_K(table: H5Group, stated: Mapping[str, Any], *, source: _Source, path: Path) -> np.ndarray | None:
    """K [3 3] of the recording's own; None where it has none."""
    name = f"{LENSES}/{source.serial}_{source.side}"
    item = table.get(name)
    if isinstance(item, H5Array):
        values = np.asarray(item.rows(0, 1), np.float64)
        return values.reshape(3, 3) if values.size == 9 else np.asarray(item.rows(0, 3), np.float64).reshape(3, 3)
    of_serial = stated.get(f"{source.serial}_{source.side}", stated.get(source.serial))
    values = matrix_of(of_serial.get("cameraMatrix") if isinstance(of_serial, dict) else of_serial)
    if values.shape == (4,):
        fx, cx, fy, cy = values
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return values if values.shape == (3, 3) else None


def _pictures(source: _Source, matched: RigTimes) -> VideoFrames:
    frames = VideoFrames(source.file, chosen=tuple(matched.frames[source.name].tolist()))
    return HalfFrames(**vars(frames), right=source.side == "right") if source.halved else frames


def _spec(names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": column, "unit": unit, "frame": "robot base" if "cartesian" in name else "joint"}
        for name in names
        for column, unit in COLUMNS[name.rsplit("/", 1)[-1]]
    ]


def _other_arrays(arrays: Mapping[str, H5Array], read: set[str]) -> LeftOut:
    others = [n for n in arrays if n not in read and not n.startswith((f"{POSES}/", f"{LENSES}/"))]
    return LeftOut("unused_columns", "columns", tuple(others), "not read", lost=False)
