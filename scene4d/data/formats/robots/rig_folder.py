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
from scene4d.data.ledger import frame_counts, uncalibrated, with_left_out
from scene4d.data.timeline.frame_table import FrameTable, TableRecording, View, recording_of
from scene4d.data.video.pictures import VideoFrames
from scene4d.data.video.video import VideoFacts, video_facts
from scene4d.errors import CalibrationError, DataFormatError, VideoError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
CALIBRATIONS = ("cameras.json", "cameras_opencv.json")
ANNOTATION = "annotation.json"
RATE_TOLERANCE = 0.01
STATE_SPEC = [
    *({"name": axis, "unit": "m", "frame": "robot base"} for axis in "xyz"),
    *({"name": angle, "unit": "rad", "frame": "robot base"} for angle in ("roll", "pitch", "yaw")),
    {"name": "gripper", "unit": "1", "frame": "0 open, 1 closed"},
]


def is_rig(folder: Path) -> bool:
    """Whether a folder (or its videos/) holds videos, and a calibration or an annotation goes with them."""
    companions = [folder / ANNOTATION, *(folder / name for name in CALIBRATIONS)]
    return any(p.is_file() for p in companions) and bool(_videos(folder))


def open_rig(folder: Path, *, supplied: Supplied) -> TableRecording:
    """Open the videos of a folder as one recording; it ends with the shortest (by at most one frame).

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
    fps = _common_rate(folder, used)
    length, notes = _common_length(folder, used, states=states)
    views = {
        name: View(
            size=(entry.width, entry.height),
            Ks=entry.K,
            viewmats=np.eye(4) if entry.viewmat is None else entry.viewmat,
            color=VideoFrames(videos[entry.rgb]),
            lens=entry.lens,
        )
        for name, entry in entries.items()
    }
    whole = FrameTable(
        views=views,
        times=np.arange(length) / fps,
        actions=None if states is None else states[:length, : len(STATE_SPEC)],
        goals=True,
        proprio=None if states is None else states[:length],
    )
    codecs = dict(Counter(f.codec for f in used.values()))
    info = {"source": "videos", "units": "m", "codecs": codecs, **info, **known, **notes}
    return recording_of(whole, path=folder, fps=fps, info=info)


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


def _common_rate(folder: Path, facts: Mapping[str, VideoFacts]) -> float:
    rates = {name: f.fps for name, f in facts.items()}
    slowest, fastest = min(rates.values()), max(rates.values())
    if fastest > slowest * (1 + RATE_TOLERANCE):
        fix = "write them at one rate: ffmpeg -i IN -fps_mode cfr -r RATE OUT.mp4"
        raise VideoError("the videos run at different rates", file=folder, field="fps", found=rates, fix=fix)
    return slowest


def _common_length(
    folder: Path, facts: Mapping[str, VideoFacts], *, states: np.ndarray | None
) -> tuple[int, dict[str, Any]]:
    """Frames that all have, which may be one fewer than some have."""
    counts = {name: f.num_frames for name, f in facts.items()}
    if states is not None:
        counts["states"] = len(states)
    shortest, longest = min(counts.values()), max(counts.values())
    if longest - shortest > 1 or shortest < 1:
        problem, found = "the numbers of frames differ", ", ".join(f"{name} {count}" for name, count in counts.items())
        expected, fix = "the same, give or take one", "copy the shorter one again, or cut the others"
        raise DataFormatError(problem, file=folder, field="frames", found=found, expected=expected, fix=fix)
    differ = longest != shortest
    return shortest, with_left_out({}, frame_counts(counts, used=shortest)) if differ else {}


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
    task = str(texts[0]) if isinstance(texts, list) and texts else ""
    spec = STATE_SPEC if states.shape[1] == len(STATE_SPEC) else []
    joints = matrix_of(table.get("joints", []))
    proprio_spec = spec
    if spec and joints.ndim == 2 and len(joints) == len(states) and np.isfinite(joints).all():
        states = np.concatenate([states, joints], 1)
        joint_spec = [{"name": f"joint{i + 1}", "unit": "rad", "frame": "joint"} for i in range(joints.shape[1])]
        proprio_spec = [*spec, *joint_spec]
    meaning = "state at the next frame, absolute"
    return states, {"task": task, "action_spec": spec, "action_meaning": meaning, "proprio_spec": proprio_spec}
