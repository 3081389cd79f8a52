"""Rigs of several videos: one video a camera, all started together, with a cameras.json that calibrates them.

Two spellings of the calibration are known: ours (see `sidecar`), whose "rgb" names the video, and a table of
{camera: {"K", "dist_k1k2p1p2", "R_world_to_cam", "t_world_to_cam", "calib_size_wh"}} (OpenCV, metres). Robot data sets
of that shape bring an annotation.json with texts and states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.sidecar import CameraEntry, Supplied, entries_of, find_cameras
from scene4d.data.files.json_files import matrix_of, read_json
from scene4d.data.formats.robots.rig_times import rig_times
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View, recording_of
from scene4d.data.video.pictures import VideoFrames
from scene4d.data.video.video import video_facts
from scene4d.errors import CalibrationError, DataFormatError
from scene4d.ledger import LeftOut, joined_info, uncalibrated, with_left_out

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
CALIBRATIONS = ("cameras.json", "cameras_opencv.json")
ANNOTATION = "annotation.json"
USED_OF_AN_ANNOTATION = ("texts", "states", "joints")
STATE_SPEC = [
    *({"name": axis, "unit": "m", "frame": "robot base"} for axis in "xyz"),
    *({"name": angle, "unit": "rad", "frame": "robot base"} for angle in ("roll", "pitch", "yaw")),
    {"name": "gripper", "unit": "1", "frame": "0 open, 1 closed"},
]


def is_rig(folder: Path, *, alone: bool = False) -> bool:
    """Whether a folder (or its videos/) holds videos, and a calibration or an annotation goes with them.

    Args:
        alone: videos are enough.
    """
    companions = [folder / ANNOTATION, *(folder / name for name in CALIBRATIONS)]
    return (alone or any(p.is_file() for p in companions)) and bool(_videos(folder))


def open_rig(folder: Path, *, supplied: Supplied) -> TableRecording:
    """Open the videos of a folder as one recording; `rig_times` decides which frames belong together.

    Raises:
        CalibrationError: no calibration (with how to supply one), one of another image size, or impossible.
        VideoError: a video cannot be opened, or rates differ. DataFormatError: numbers of frames differ.
    """
    videos = _videos(folder)
    facts = {name: video_facts(path) for name, path in videos.items()}
    sizes = {name: (f.width, f.height) for name, f in facts.items()}
    entries, known = _cameras(folder, sizes=sizes, supplied=supplied)
    states, info = _annotation(folder)
    used = {entry.rgb: facts[entry.rgb] for entry in entries.values()}
    matched = rig_times(folder, used, videos=videos, num_rows=None if states is None else len(states))
    views = {
        name: View(
            size=(entry.width, entry.height),
            Ks=entry.K,
            viewmats=np.eye(4) if entry.viewmat is None else entry.viewmat,
            color=VideoFrames(videos[entry.rgb], chosen=tuple(matched.frames[entry.rgb].tolist())),
            lens=entry.lens,
        )
        for name, entry in entries.items()
    }
    whole = FrameTable(
        views=views,
        times=matched.times,
        actions=None if states is None else states[matched.rows, : len(STATE_SPEC)],
        goals=True,
        proprio=None if states is None else states[matched.rows],
    )
    codecs = dict(Counter(f.codec for f in used.values()))
    info = joined_info({"source": "videos", "units": "m", "codecs": codecs, **info}, known)
    info = with_left_out(info, *matched.entries, *_other_files(folder, videos=videos))
    return recording_of(whole, path=folder, fps=matched.fps, info=info)


def _videos(folder: Path) -> dict[str, Path]:
    """Videos by the name that a calibration knows them by: their file name within the folder."""
    for place in (folder, folder / "videos"):
        if place.is_dir():
            found = sorted(p for p in place.iterdir() if p.suffix.lower() in VIDEOS and p.is_file())
            if found:
                return {str(p.relative_to(folder)): p for p in found}
    return {}


def _cameras(
    folder: Path, *, sizes: Mapping[str, tuple[int, int]], supplied: Supplied
) -> tuple[dict[str, CameraEntry], dict[str, Any]]:
    # The rig of a whole data set may be calibrated once, one folder up.
    places = [place / name for place in (folder, folder.parent) for name in CALIBRATIONS]
    file = supplied.cameras or next((path for path in places if path.is_file()), None)
    if file is None:
        return find_cameras(places[:1], sizes=sizes, columns=(), supplied=supplied, what="a folder of videos")
    table = read_json(file, fix="see the documentation of cameras.json")
    entries = table.get("cameras") if "cameras" in table else _translated(table, file=file, sizes=sizes)
    found = entries_of(entries, file=file, sizes=sizes, columns=(), fit=supplied.fit)
    left_out = sorted(set(sizes) - {e.rgb for e in found.values()})
    return found, with_left_out({}, uncalibrated(left_out))


def _translated(
    table: Mapping[str, Any], *, file: Path, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, Any]]:
    """The table of world-to-camera R and t in our schema."""
    by_stem = {Path(name).stem: name for name in sizes}
    entries = {}
    for name, values in table.items():
        if not isinstance(values, Mapping) or "R_world_to_cam" not in values:
            continue
        rotation, shift = matrix_of(values.get("R_world_to_cam")), matrix_of(values.get("t_world_to_cam"))
        size = values.get("calib_size_wh")
        if rotation.shape != (3, 3) or shift.shape != (3,) or not isinstance(size, list) or len(size) != 2:
            expected = "R_world_to_cam 3x3, t_world_to_cam 3, calib_size_wh 2"
            raise CalibrationError("is no camera", file=file, field=name, found=sorted(values), expected=expected)
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, shift
        entries[name] = {
            "width": size[0],
            "height": size[1],
            "K": values.get("K"),
            "distortion": values.get("dist_k1k2p1p2", []),
            "viewmat": viewmat.tolist(),
            "rgb": by_stem.get(name, name),
        }
    return entries


def _other_files(folder: Path, *, videos: Mapping[str, Path]) -> list[LeftOut]:
    """Files of the folder that are not read; videos in a second place are a part of the recording."""
    known = {ANNOTATION, *CALIBRATIONS, *videos}
    places = [p for p in (folder, folder / "videos") if p.is_dir()]
    names = sorted(str(p.relative_to(folder)) for place in places for p in place.iterdir() if p.is_file())
    others = [name for name in names if name not in known]
    second = tuple(name for name in others if Path(name).suffix.lower() in VIDEOS)
    listed = tuple(name for name in others if name not in second)
    fix = "put all videos into one folder"
    return [
        LeftOut("second_place", "files", second, "videos lie in two places; those of the folder itself are read", fix),
        LeftOut("other_files", "files", listed, "no part of this format", lost=False),
    ]


def _annotation(folder: Path) -> tuple[np.ndarray | None, dict[str, Any]]:
    """States [t p] and facts of annotation.json, where there is one."""
    file = folder / ANNOTATION
    if not file.is_file():
        return None, {}
    table = read_json(file, fix="copy it again")
    states = matrix_of(table.get("states"))
    if states.ndim != 2 or not states.size or not np.isfinite(states).all():
        found = states.shape
        raise DataFormatError("is no table of numbers", file=file, field="states", found=found, expected="[t, 7]")
    texts = table.get("texts")
    texts = [str(text) for text in texts] if isinstance(texts, list) else []
    spec = STATE_SPEC if states.shape[1] == len(STATE_SPEC) else []
    unused = tuple(sorted(set(table) - set(USED_OF_AN_ANNOTATION)))
    entries = [
        LeftOut("other_texts", "task", tuple(texts[1:]), "the first text is the task", lost=False),
        LeftOut("unused_keys", "annotation", unused, "not read", lost=False),
    ]
    joints = matrix_of(table.get("joints", []))
    proprio_spec = spec
    if spec and joints.ndim == 2 and len(joints) == len(states) and np.isfinite(joints).all():
        states = np.concatenate([states, joints], 1)
        joint_spec = [{"name": f"joint{i + 1}", "unit": "rad", "frame": "joint"} for i in range(joints.shape[1])]
        proprio_spec = [*spec, *joint_spec]
    elif joints.size:
        reason = f"{joints.shape} numbers do not go with {states.shape} states, or are not finite"
        fix = "write a finite row of joints for each state"
        entries.append(LeftOut("columns", "proprio", ("joints",), reason, fix))
    meaning = "state at the next frame, absolute"
    info = {"task": next(iter(texts), ""), "action_spec": spec, "action_meaning": meaning, "proprio_spec": proprio_spec}
    return states, with_left_out(info, *entries)
