"""transforms.json: nerfstudio and instant-ngp captures, Blender's NeRF scenes (train / val / test), D-NeRF (timed).

What is foreign here ends here: poses are camera-to-world with OpenGL axes (x right, y up, z back), lenses are removed
when pictures are read, depth is 16-bit in millimetres (or as in integer_depth_scale). The scale of the world is that
of the file, often arbitrary; its z is up. Images that are listed and not there are left out and named in `info`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.data.cameras.calibration import CV_FROM_GL, checked_intrinsics, checked_poses, inverse_poses
from scene4d.data.cameras.lens import Lens, checked_lens, lens_from_names, stacked_lenses
from scene4d.data.files.json_files import matrix_of, number_in, read_json
from scene4d.data.files.paths import inside_folder
from scene4d.data.ledger import lost_poses, missing_images, with_left_out
from scene4d.data.timeline.frame_table import NOMINAL_FPS, FrameTable, TableRecording, View, recording_of
from scene4d.data.video.images import image_size
from scene4d.data.video.pictures import ColorFiles, DepthFiles
from scene4d.errors import CalibrationError, DataFormatError, TimestampError

FILE, SPLITS = "transforms.json", ("train", "val", "test")
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "PERSPECTIVE")
FISHEYES = ("OPENCV_FISHEYE", "FISHEYE")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True)
class _Shot:
    """One frame of the file."""

    name: str
    folder: str
    color: Path
    depth: Path | None
    mask: Path | None
    time: float | None
    index: int
    values: Mapping[str, Any]


def is_transforms(folder: Path) -> bool:
    """Whether a folder holds transforms.json or transforms_train.json (val, test)."""
    return any((folder / name).is_file() for name in (FILE, *(f"transforms_{s}.json" for s in SPLITS)))


def open_transforms(folder: Path) -> list[TableRecording]:
    """Each transforms file of a folder (and each image size in it) as a recording.

    Raises:
        DataFormatError: not JSON, no frames, or none of the images is there.
        CalibrationError: no or impossible intrinsics or poses, or an unknown lens.
        TimestampError: two images of one camera at one time. SecurityError: an image lies outside the folder.
    """
    files = [(folder / FILE, ""), *((folder / f"transforms_{s}.json", s) for s in SPLITS)]
    return [r for path, split in files if path.is_file() for r in open_transforms_file(path, split=split)]


def open_transforms_file(path: Path, *, split: str = "") -> list[TableRecording]:
    """One transforms file; each image size in it is a recording. Raises as `open_transforms`."""
    table = read_json(path, fix="save it again")
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
    info = with_left_out(info, missing_images(missing))
    kinds: dict[tuple[int, int], list[_Shot]] = {}
    for shot in shots:
        kinds.setdefault(image_size(shot.color), []).append(shot)
    return [_recording(path, table, shots=group, size=size, info=info) for size, group in kinds.items()]


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
        stem, place = Path(name).stem, str(Path(name).parent)
        shot = _Shot(name=stem, folder=place, color=color, depth=depth, mask=mask, time=time, index=index, values=frame)
        shots.append(shot)
    return shots, missing


def _there(path: Path, name: str, *, index: int) -> Path | None:
    """The file of that name, with or without its ending; None where there is none."""
    for suffix in SUFFIXES:
        found = inside_folder(path.parent, name + suffix, file=path, field=f"frames[{index}]")
        if found.is_file():
            return found
    return None


def _recording(
    path: Path, table: Mapping[str, Any], *, shots: list[_Shot], size: tuple[int, int], info: Mapping[str, Any]
) -> TableRecording:
    tracks, times, stamps = _tracks(path, shots)
    skipped: list[str] = []
    kept = np.ones(len(times), bool)
    poses: dict[str, np.ndarray] = {}
    for name, track in tracks.items():
        matrices = [_pose(shot, path=path) for shot in track]
        poses[name], usable = checked_poses(np.stack(matrices), names=[s.name for s in track], file=path)
        skipped += [s.name for s, there in zip(track, usable, strict=True) if not there]
        kept &= usable
    rows = np.flatnonzero(kept)
    unit = number_in(table, "integer_depth_scale", file=path, default=1e-3)
    views = {
        name: _view([track[i] for i in rows], table, poses=poses[name][rows], size=size, unit=unit, path=path)
        for name, track in tracks.items()
    }
    first = next(iter(tracks.values()))
    names = tuple(first[i].name for i in rows)
    facts = with_left_out({**info, "times": stamps}, lost_poses(skipped))
    whole = FrameTable(views=views, times=times[rows] - times[rows[0]], names=names)
    return recording_of(whole, path=path.parent, info=facts)


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


def _view(
    shots: list[_Shot], table: Mapping[str, Any], *, poses: np.ndarray, size: tuple[int, int], unit: float, path: Path
) -> View:
    own = any(key in s.values for s in shots for key in ("fl_x", "camera_angle_x", "cx", *DISTORTION))
    matrices, lenses = [], []
    for shot in shots if own else shots[:1]:
        K, lens = _camera({**table, **shot.values}, size=size, path=path, name=shot.name)
        matrices.append(K)
        lenses.append(lens)
    depths, masks = [s.depth for s in shots], [s.mask for s in shots]
    return View(
        size=size,
        Ks=np.stack(matrices) if own else matrices[0],
        viewmats=inverse_poses(poses),
        color=ColorFiles([s.color for s in shots], size=size, masks=masks if any(masks) else ()),
        depth=DepthFiles([d for d in depths if d], unit=unit, size=size) if all(depths) else None,
        lens=stacked_lenses(lenses, file=path) if own else lenses[0],
    )


def _camera(
    values: Mapping[str, Any], *, size: tuple[int, int], path: Path, name: str
) -> tuple[np.ndarray, Lens | None]:
    """K and lens of one frame's entries over the file's, for pictures of `size`."""
    model = str(values.get("camera_model", "OPENCV")).upper()
    fisheye = bool(values.get("is_fisheye")) or model in FISHEYES
    if not fisheye and model not in PINHOLES:
        known = [*PINHOLES, *FISHEYES]
        problem = "is no known lens"
        raise CalibrationError(problem, file=path, field="camera_model", frame=name, found=model, expected=known)
    width = number_in(values, "w", file=path, default=size[0])
    height = number_in(values, "h", file=path, default=size[1])
    if not (width > 0 and height > 0) or abs(width / height * size[1] / size[0] - 1) > 0.01:
        problem = "the calibration is for another image size"
        found, fix = (width, height), "scale K, w and h to the images"
        raise CalibrationError(problem, file=path, field="w, h", frame=name, found=found, expected=size, fix=fix)
    if "fl_x" in values:
        fx = number_in(values, "fl_x", file=path)
        fy = number_in(values, "fl_y", file=path, default=fx)
    elif "camera_angle_x" in values:
        fx = 0.5 * width / math.tan(0.5 * number_in(values, "camera_angle_x", file=path))
        angle_y = values.get("camera_angle_y")
        fy = fx if angle_y is None else 0.5 * height / math.tan(0.5 * number_in(values, "camera_angle_y", file=path))
    else:
        fix = "give fl_x, fl_y, cx, cy in pixels, or camera_angle_x in radians"
        raise CalibrationError("no intrinsics", file=path, field="fl_x", frame=name, fix=fix)
    cx = number_in(values, "cx", file=path, default=0.5 * width)
    cy = number_in(values, "cy", file=path, default=0.5 * height)
    # Downscaled copies of a capture keep the file of the original: the aspect tells that they are the same pictures.
    scale_x, scale_y = size[0] / width, size[1] / height
    K = np.array([[fx * scale_x, 0, cx * scale_x], [0, fy * scale_y, cy * scale_y], [0, 0, 1]])
    K = checked_intrinsics(K, width=size[0], height=size[1], file=path, camera=name)
    coefficients = {key: number_in(values, key, file=path, default=0.0) for key in DISTORTION}
    if not fisheye:
        coefficients.pop("k4")  # nerfstudio writes the fisheye's fourth here even for plain lenses, as 0
    lens = lens_from_names(coefficients, fisheye=fisheye)
    return K, checked_lens(lens, K, size=size, file=path, camera=name)
