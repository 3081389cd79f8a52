"""transforms.json: nerfstudio and instant-ngp captures, Blender's NeRF scenes (train / val / test), D-NeRF (timed).

What is foreign here ends here: poses are camera-to-world with OpenGL axes (x right, y up, z back), lenses are removed
when pictures are read, depth is 16-bit in millimetres (or as in integer_depth_scale) or metres as floats. The scale of
the world is that of the file, often arbitrary; its z is up. What is listed and not there is named in `info`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import CV_FROM_GL, checked_poses, inverse_poses
from scene4d.data.cameras.lens import stacked_lenses
from scene4d.data.files.json_files import matrix_of, number_in, read_json
from scene4d.data.files.paths import inside_folder, regular_file
from scene4d.data.formats.posed.picture_sizes import grouped_sizes, sizes_entry
from scene4d.data.formats.posed.transforms_cameras import CAMERA_KEYS, frame_camera, unread_keys
from scene4d.data.timeline.frame_table import NOMINAL_FPS, FrameTable, TableRecording, View, recording_of
from scene4d.data.video.depth_files import depth_size
from scene4d.data.video.images import image_header
from scene4d.data.video.pictures import Canvas, ColorFiles, DepthFiles
from scene4d.errors import CalibrationError, DataFormatError, TimestampError
from scene4d.ledger import (
    LeftOut,
    lost_poses,
    missing_depth,
    missing_images,
    missing_masks,
    resized_depth,
    turned_pictures,
    with_left_out,
)

FILE, SPLITS = "transforms.json", ("train", "val", "test")
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")


@dataclass(frozen=True)
class _Shot:
    """One frame of the file."""

    name: str
    folder: str
    color: Path
    depth: Path | None
    mask: Path | None
    size: tuple[int, int]
    turned: bool
    listed: frozenset[str]
    time: float | None
    index: int
    values: Mapping[str, Any]


def is_transforms(folder: Path) -> bool:
    """Whether a folder holds transforms.json or transforms_train.json (val, test)."""
    return any((folder / name).is_file() for name in (FILE, *(f"transforms_{s}.json" for s in SPLITS)))


def open_transforms(folder: Path) -> list[TableRecording]:
    """Each transforms file of a folder as a recording (several where its images differ much in size).

    Raises:
        DataFormatError: not JSON, no frames, or none of the images is there.
        CalibrationError: no or impossible intrinsics or poses, or an unknown lens.
        TimestampError: two images of one camera at one time. SecurityError: an image lies outside the folder.
    """
    files = [(folder / FILE, ""), *((folder / f"transforms_{s}.json", s) for s in SPLITS)]
    return [r for path, split in files if path.is_file() for r in open_transforms_file(path, split=split)]


def open_transforms_file(path: Path, *, split: str = "") -> list[TableRecording]:
    """One transforms file; images of about one size are a recording. Raises as `open_transforms`."""
    table = read_json(path, fix="save it again", loose_numbers=True)  # lost poses are NaN
    frames = table.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise DataFormatError("lists no frames", file=path, field="frames", found=type(frames).__name__)
    shots, missing = _shots(path, frames)
    if not shots:
        found, fix = f"{len(missing)} listed, such as {missing[0]}", "put the images beside the file, or check the path"
        raise DataFormatError("none of the listed images is there", file=path, field="file_path", found=found, fix=fix)
    info = {
        "source": "D-NeRF" if any(s.time is not None for s in shots) else "transforms.json",
        "split": split,
        "units": "arbitrary scale of the file (z up)",
    }
    info = with_left_out(info, missing_images(missing), *unread_keys(table, frames))
    groups = grouped_sizes([shot.size for shot in shots])
    return [_recording(path, table, shots=[shots[i] for i in group], info=info) for group in groups]


def _shots(path: Path, frames: Sequence[Mapping[str, Any]]) -> tuple[list[_Shot], list[str]]:
    """The frames whose image is there, and the names of the others."""
    shots, missing = [], []
    for index, frame in enumerate(frames):
        name = frame.get("file_path")
        if not isinstance(name, str) or not name:
            raise DataFormatError("names no image", file=path, field=f"frames[{index}].file_path", found=name)
        color = _there(path, name, index=index)
        if color is None:
            missing.append(name)
            continue
        depth, mask = (frame.get("depth_file_path", frame.get("depth_path")), frame.get("mask_path"))
        depth, mask = (_there(path, n, index=index) if isinstance(n, str) else None for n in (depth, mask))
        time = None if frame.get("time") is None else number_in(frame, "time", file=path)
        plain = PurePosixPath(name.replace("\\", "/"))
        size, orientation = image_header(color)
        files = {"color": color, "depth": depth, "mask": mask, "size": size, "turned": orientation != 1}
        files["listed"] = frozenset(k for k in ("depth", "depth_file", "mask") if frame.get(f"{k}_path"))
        shots.append(_Shot(name=plain.stem, folder=str(plain.parent), time=time, index=index, values=frame, **files))
    return shots, missing


def _there(path: Path, name: str, *, index: int) -> Path | None:
    """The regular file of that name, with or without its ending; None where there is none."""
    names = [name] if "\\" not in name else [name, name.replace("\\", "/")]  # as Windows writes paths
    for spelling, suffix in itertools.product(names, SUFFIXES):
        found = inside_folder(path.parent, spelling + suffix, file=path, field=f"frames[{index}]")
        if regular_file(found, root=path.parent):
            return found
    return None


def _recording(path: Path, table: Mapping[str, Any], *, shots: list[_Shot], info: Mapping[str, Any]) -> TableRecording:
    tracks, times, stamps = _tracks(path, shots)
    kept = np.ones(len(times), bool)
    poses: dict[str, np.ndarray] = {}
    entries: list[LeftOut] = [turned_pictures([s.name for s in shots if s.turned])]
    for name, track in tracks.items():
        matrices = [_pose(shot, path=path) for shot in track]
        poses[name], usable = checked_poses(np.stack(matrices), names=[s.name for s in track], file=path)
        entries.append(lost_poses([s.name for s, there in zip(track, usable, strict=True) if not there]))
        kept &= usable
    rows = np.flatnonzero(kept)
    unit = number_in(table, "integer_depth_scale", file=path, default=1e-3)
    views = {}
    for name, track in tracks.items():
        used = [track[i] for i in rows]
        views[name] = _view(used, table, poses=poses[name][rows], unit=unit, path=path)
        entries += _gaps(used, camera=name)
    first = next(iter(tracks.values()))
    names = tuple(first[i].name for i in rows)
    facts = with_left_out({**info, "times": stamps}, *entries)
    whole = FrameTable(views=views, times=times[rows] - times[rows[0]], names=names)
    return recording_of(whole, path=path.parent, info=facts)


def _gaps(shots: Sequence[_Shot], *, camera: str) -> list[LeftOut]:
    """Depth and masks that some frames of a camera have and others lack; sizes that are not one."""
    entries = [sizes_entry([s.size for s in shots], camera=camera)]
    with_depth = next((s for s in shots if s.depth is not None), None)
    if with_depth is not None and with_depth.depth is not None:
        entries.append(resized_depth(depth_size(with_depth.depth), with_depth.size))
    wanted = [s for s in shots if with_depth is not None or s.listed & {"depth", "depth_file"}]
    entries.append(missing_depth([s.name for s in wanted if s.depth is None], camera=camera))
    masked = any(s.mask for s in shots)
    wanted = [s for s in shots if masked or "mask" in s.listed]
    entries.append(missing_masks([s.name for s in wanted if s.mask is None], camera=camera))
    return entries


def _tracks(path: Path, shots: list[_Shot]) -> tuple[dict[str, list[_Shot]], np.ndarray, str]:
    """Frames by camera, all at the same times, the times, and notes on them.

    Without times every image is one more instant of a camera that moves. With times, folders of images that share their
    times are cameras of a rig.
    """
    if any(shot.time is None for shot in shots):
        return {"camera": shots}, np.arange(len(shots)) / NOMINAL_FPS, f"nominal: {NOMINAL_FPS:g} images a second"
    folders: dict[str, list[_Shot]] = {}
    for shot in sorted(shots, key=lambda s: (s.time, s.index)):
        folders.setdefault(shot.folder, []).append(shot)
    times = [np.array([s.time for s in track]) for track in folders.values()]
    if len(folders) > 1 and not all(len(t) == len(times[0]) and np.allclose(t, times[0]) for t in times):
        folders = {"camera": [shot for track in folders.values() for shot in track]}
        folders["camera"].sort(key=lambda s: (s.time, s.index))
        times = [np.array([s.time for s in folders["camera"]])]
    steps, first = np.diff(times[0]), next(iter(folders.values()))
    if not (steps > 0).all():
        frame = int((~(steps > 0)).argmax()) + 1
        where = {"file": path, "field": "time", "frame": first[frame].name, "found": float(times[0][frame])}
        fix = "put the images of each camera into a folder of its own"
        raise TimestampError("two images of one camera at one time", **where, fix=fix)
    if len(folders) == 1:
        return {"camera": first}, times[0], "as in the file (often 0..1), taken as seconds"
    return {Path(f).name or f: track for f, track in folders.items()}, times[0], "as in the file, taken as seconds"


def _pose(shot: _Shot, *, path: Path) -> np.ndarray:
    """World-from-camera [4 4], OpenCV axes."""
    matrix = matrix_of(shot.values.get("transform_matrix"))
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0, 0, 0, 1]]])
    if matrix.shape != (4, 4):
        where = {"file": path, "field": "transform_matrix", "frame": shot.name}
        raise CalibrationError("is no 4x4 matrix", **where, found=matrix.shape, expected=(4, 4))
    return matrix * CV_FROM_GL


def _view(shots: list[_Shot], table: Mapping[str, Any], *, poses: np.ndarray, unit: float, path: Path) -> View:
    own = any(key in s.values for s in shots for key in CAMERA_KEYS)
    sizes = [s.size for s in shots]
    canvas = Canvas(sizes) if len(set(sizes)) > 1 else None
    matrices, lenses = [], []
    for shot in shots if own or canvas is not None else shots[:1]:
        K, lens = frame_camera({**table, **shot.values}, size=shot.size, path=path, name=shot.name)
        matrices.append(K)
        lenses.append(lens)
    alone = len(matrices) == 1
    depths, masks = [s.depth for s in shots], [s.mask for s in shots]
    return View(
        size=sizes[0] if canvas is None else canvas.size,
        Ks=matrices[0] if alone else np.stack(matrices),
        viewmats=inverse_poses(poses),
        color=ColorFiles([s.color for s in shots], size=sizes[0], masks=masks if any(masks) else (), canvas=canvas),
        depth=DepthFiles(depths, unit=unit, size=sizes[0], canvas=canvas) if any(depths) else None,
        lens=lenses[0] if alone else stacked_lenses(lenses, file=path),
    )
